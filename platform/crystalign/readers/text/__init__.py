"""Numbers in files of text: columns, their names, decimal commas, thousands separators."""
