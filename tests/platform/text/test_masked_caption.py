"""Masked captions from the facts are what the general masking of texts makes of captions."""

from __future__ import annotations

import pytest

from crystalign.physics.caption import caption_of
from crystalign.physics.facts import crystal_facts
from crystalign.physics.symmetry import symmetry
from crystalign.sources.prototypes import library
from crystalign.text.masked_caption import masked_caption
from crystalign.text.masking import mask_quantities, mask_text


@pytest.mark.parametrize("lengths", [True, False])
def test_it_is_the_masked_text_of_the_caption(lengths):
    for label, crystal in library()[::5]:
        facts = crystal_facts(crystal, symmetry(crystal))
        assert masked_caption(facts, lengths=lengths) == mask_text(caption_of(facts), crystal, lengths=lengths), label


def test_without_lengths_neither_a_number_of_the_cell_nor_the_crystal_system_is_left():
    for label, crystal in library()[::5]:
        text = masked_caption(crystal_facts(crystal, symmetry(crystal)), lengths=False)
        assert "." not in text.replace(". ", "").removesuffix("."), label
        assert "lattice" not in text, label


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a = 4.59 Å, c = 2.96 Å", "a = [number] Å, c = [number] Å"),
        ("15 Å³ per atom, 6 neighbours", "[number] Å³ per atom, 6 neighbours"),
        ("space group 225, TiO2 and Fe3O4", "space group 225, TiO2 and Fe3O4"),
        ("a gap of 1.5 eV at 300 K", "a gap of [number] eV at [number] K"),
        (
            "The lattice parameters are 4.00, 5.00 and 6.00 Å.",
            "The lattice parameters are [number], [number] and [number] Å.",
        ),
        ("It. The lattice parameter is 4.00 Å. Na", "It. Na"),
    ],
)
def test_quantities_are_masked_and_counts_are_not(text, expected):
    assert mask_quantities(text) == expected
