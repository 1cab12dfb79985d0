"""Parameter-efficient fine-tuning: a few new weights are trained, the model's own stay. Import from the modules:
config, model."""
