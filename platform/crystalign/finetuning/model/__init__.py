"""`PropertyModel`, a network that predicts properties, and the directory that holds it."""
