"""Predictions with intervals and out-of-domain scores, by one model, an ensemble or several models."""
