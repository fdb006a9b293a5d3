from __future__ import annotations

import functools
from collections.abc import Callable

import pytest

from crystalign.crystal import Crystal
from crystalign.physics.facts import CrystalFacts, crystal_facts
from crystalign.physics.symmetry import symmetry
from crystalign.properties import PropertySpec, Quantity
from crystalign.sources.prototypes import library
from crystalign.text.property_words import verdicts

GAP = PropertySpec(quantity=Quantity.BAND_GAP, method="pbe", source="test", vintage="2026")
MOMENT = PropertySpec(quantity=Quantity.TOTAL_MAGNETIZATION_PER_ATOM, method="pbe", source="test", vintage="2026")


@functools.cache
def facts_of_library(step: int) -> tuple[CrystalFacts, ...]:
    return tuple(with_properties(n, crystal) for n, (_, crystal) in enumerate(library()[::step]))


def with_properties(number: int, crystal: Crystal) -> CrystalFacts:
    """The facts; two crystals of three have an imagined band gap, and one of two an imagined moment."""
    facts = crystal_facts(crystal, symmetry(crystal))
    gap = {} if number % 3 == 0 else {GAP: 0.8 * (number % 7)}
    moment = {} if number % 2 == 0 else {MOMENT: 0.05 * (number % 5)}
    words = verdicts(gap | moment, facts.density)
    return facts.model_copy(update={"property_words": words.true, "wrong_property_words": words.false})


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
