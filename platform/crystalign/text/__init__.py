"""Texts about crystals: typography, recognition of formulas and symbols, and masking."""
