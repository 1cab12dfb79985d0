"""EfficientNet-Lite (Tan and Le 2019, "EfficientNet", without squeeze-and-excitation and with ReLU6). Import from the
modules: config, model, convert."""
