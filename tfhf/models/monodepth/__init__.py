"""Depth from left-right consistency (Godard et al. 2017, "Unsupervised Monocular Depth Estimation with Left-Right
Consistency"). Import from the modules: config, model."""
