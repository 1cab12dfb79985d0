"""Metrics of evaluation: one example at a time, results with their counts."""
