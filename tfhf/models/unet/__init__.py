"""UNet (Ronneberger, Fischer and Brox 2015, "U-Net: Convolutional Networks for Biomedical Image Segmentation"), with a
head for segmentation and one for depth. Import from the modules: config, model."""
