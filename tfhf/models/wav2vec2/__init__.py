"""wav2vec 2.0: speech representations from raw waveforms (Baevski et al. 2020, "wav2vec 2.0: A Framework for
Self-Supervised Learning of Speech Representations"). Import from the modules."""
