"""Contrastive pre-training on Ray Train: settings, driver, workers and their feed."""
