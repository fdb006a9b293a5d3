"""The searchable index: immutable segments, filters, and the merging of their results."""
