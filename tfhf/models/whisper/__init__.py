"""Whisper: speech recognition and translation (Radford et al. 2022, "Robust Speech Recognition via Large-Scale Weak
Supervision"). Import from the modules: config, model, convert, generation, processor, long_form."""
