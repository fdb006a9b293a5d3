"""Fitting of a network: recipe, optimiser, rows, ranks, and the state from which a killed fit resumes."""
