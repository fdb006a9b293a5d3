"""Retrieval between modalities, its shortcuts and the report."""
