"""Fields of indexes with and without keywords and properties."""

from __future__ import annotations

import pytest

from crystalign.index.filters import make_fields
from crystalign.properties import PropertySpec, Quantity

QUANTITIES = [
    Quantity.BAND_GAP,
    Quantity.ENERGY_ABOVE_HULL,
    Quantity.FORMATION_ENERGY_PER_ATOM,
    Quantity.BULK_MODULUS_VRH,
    Quantity.SHEAR_MODULUS_VRH,
    Quantity.REFRACTIVE_INDEX,
    Quantity.TOTAL_MAGNETIZATION_PER_ATOM,
]


@pytest.fixture(scope="session")
def fields():
    """An index with everything."""
    specs = [PropertySpec(quantity=q, method="pbe", source="mp", vintage="2026") for q in QUANTITIES]
    return make_fields(specs, has_facts=True)


@pytest.fixture(scope="session")
def bare():
    """An index with neither keywords nor properties."""
    return make_fields(())
