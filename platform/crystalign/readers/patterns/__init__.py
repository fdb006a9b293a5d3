"""Measured powder patterns: columns of text and the files of instruments; `pattern_file` reads any of them."""
