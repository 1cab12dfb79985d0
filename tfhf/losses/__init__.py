"""Losses that return one value per example: a scalar would be scaled wrongly when training is spread over replicas."""
