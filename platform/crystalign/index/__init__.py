"""The searchable index: immutable segments, filters and the merge of their answers."""
