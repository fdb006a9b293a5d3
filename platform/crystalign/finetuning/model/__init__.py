"""`PropertyModel`, a network that predicts properties, and its model directory."""
