"""Evaluation of predictions: errors and baselines, comparisons of methods, matbench records."""
