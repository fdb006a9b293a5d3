"""Readers of measured powder patterns: text columns and instrument formats. `pattern_file` picks one."""
