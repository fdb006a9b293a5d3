"""Retrieval between modalities, baselines from simple shortcuts, and the report."""
