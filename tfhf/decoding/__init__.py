"""Compiled decoding loops with static shapes, shared by every model that writes text."""
