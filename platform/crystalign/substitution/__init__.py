"""Hypothetical crystals: other elements on the sites of known crystals, charge-balanced and scaled to a new volume."""
