"""Texts about crystals: their typography, the formulas and symbols in them, and how those are masked."""
