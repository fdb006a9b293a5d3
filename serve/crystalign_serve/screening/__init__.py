"""Screening: many queries against an index, each segment read once for all of them."""
