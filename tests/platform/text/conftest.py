from __future__ import annotations

import functools
from collections.abc import Callable

import pytest

from crystalign.physics.facts import CrystalFacts, crystal_facts
from crystalign.physics.symmetry import symmetry
from crystalign.sources.prototypes import library


@functools.cache
def facts_of_library(step: int) -> tuple[CrystalFacts, ...]:
    return tuple(crystal_facts(crystal, symmetry(crystal)) for _, crystal in library()[::step])


@pytest.fixture(scope="session")
def varied_facts() -> tuple[CrystalFacts, ...]:
    """Facts about every fourth crystal of the library of prototypes: elements, metals, salts, molecules, layers."""
    return facts_of_library(4)


@pytest.fixture(scope="session")
def facts_about() -> Callable[..., CrystalFacts]:
    """Facts about an imagined rutile, with changes."""

    def make(**changes: object) -> CrystalFacts:
        values: dict[str, object] = {
            "formula": "TiO2",
            "elements": ("O", "Ti"),
            "compound_class": "oxide",
            "structure_type": "rutile",
            "dimensionality": "framework",
            "crystal_system": "tetragonal",
            "spacegroup_symbol": "P4_2/mnm",
            "spacegroup_number": 136,
            "volume_per_atom": 10.4,
            "density": 4.25,
            "environments": (),
        }
        return CrystalFacts.model_validate({**values, **changes})

    return make
