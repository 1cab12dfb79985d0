"""BERT (Devlin et al. 2018, "BERT: Pre-training of Deep Bidirectional Transformers") and models of its shape, such as
MiniLM. Import from the modules: config, model."""
