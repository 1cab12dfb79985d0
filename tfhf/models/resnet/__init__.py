"""ResNet (He et al. 2015, "Deep Residual Learning for Image Recognition"). Import from the modules: config, model,
convert."""
