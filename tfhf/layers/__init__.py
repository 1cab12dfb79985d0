"""Blocks that two or more models use, written with keras.ops only so that every backend runs them."""
