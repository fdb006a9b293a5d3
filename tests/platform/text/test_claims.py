"""The claims of a drawn text hold for its crystal, and tell crystals apart that the text does not fit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from crystalign.physics.facts import CrystalFacts
from crystalign.text.claims import claims, draw

DRAWS = 40


def test_every_claim_of_a_text_holds_for_its_crystal(varied_facts: tuple[CrystalFacts, ...]):
    rng, drawn = np.random.default_rng(0), 0
    for facts in varied_facts:
        held = claims(facts)
        for _ in range(DRAWS):
            one = draw(facts, rng)
            assert one is not None
            assert one.claims
            assert one.claims <= held
            drawn += 1
    assert drawn == DRAWS * len(varied_facts)


@pytest.mark.parametrize(
    ("text", "claim"),
    [
        ("rutile", "named rutile"),
        ("tetragonal titanium oxides", "system tetragonal"),
        ("tetragonal titanium oxides", "element Ti"),
        ("tetragonal titanium oxides", "class oxide"),
        ("TiO2 P4_2/mnm", "space group 136"),
        ("TiO2 P4_2/mnm", "formula TiO2"),
        ("binary transition metal oxide", "one of the transition metal elements"),
    ],
)
def test_words_are_recognised_as_claims(
    facts_about: Callable[..., CrystalFacts], monkeypatch: pytest.MonkeyPatch, text: str, claim: str
):
    monkeypatch.setattr("crystalign.text.claims.phrase", lambda facts, rng: text)
    drawn = draw(facts_about(), np.random.default_rng(0))
    assert drawn is not None
    assert drawn.text == text
    assert claim in drawn.claims


def test_what_is_not_said_is_no_claim(facts_about: Callable[..., CrystalFacts], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("crystalign.text.claims.phrase", lambda facts, rng: "titanium oxide")
    drawn = draw(facts_about(), np.random.default_rng(0))
    assert drawn is not None
    assert drawn.claims == {"element Ti", "class oxide"}


def test_numbers_alone_are_no_claim(facts_about: Callable[..., CrystalFacts], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("crystalign.text.claims.phrase", lambda facts, rng: "The density is 4.25 g/cm³.")
    assert draw(facts_about(), np.random.default_rng(0)) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"crystal_system": "cubic"},
        {"structure_type": "anatase"},
        {"spacegroup_number": 141, "spacegroup_symbol": "I4_1/amd"},
        {"dimensionality": "layered"},
        {"formula": "SnO2", "elements": ("O", "Sn")},
        {"compound_class": "sulfide"},
    ],
)
def test_a_crystal_that_differs_lacks_a_claim(facts_about: Callable[..., CrystalFacts], changes: dict[str, object]):
    assert not claims(facts_about()) <= claims(facts_about(**changes))
