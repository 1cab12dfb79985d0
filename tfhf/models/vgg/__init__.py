"""VGG (Simonyan and Zisserman 2014, "Very Deep Convolutional Networks for Large-Scale Image Recognition"), its
convolutions alone. Import from the modules: config, model."""
