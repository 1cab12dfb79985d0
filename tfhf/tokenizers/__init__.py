"""Tokenizers, and their in-graph halves for serving."""
