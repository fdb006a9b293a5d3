"""Predictions with their intervals and out-of-domain scores, of one model, an ensemble or several models."""
