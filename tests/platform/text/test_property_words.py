"""Texts say of a crystal only what its known properties say, and are no negatives of crystals with unknown ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from crystalign.modalities.text import Text, TextModality
from crystalign.properties import PropertySpec, Quantity
from crystalign.text.claims import claimable, claims, draw, possible
from crystalign.text.phrasing import phrase
from crystalign.text.property_words import AFTER_NOUN, BEFORE_NOUN, RANGES, sayings, verdicts


def spec(quantity: Quantity, vintage: str = "2026") -> PropertySpec:
    return PropertySpec(quantity=quantity, method="pbe", source="test", vintage=vintage)


GAP, BULK = spec(Quantity.BAND_GAP), spec(Quantity.BULK_MODULUS_VRH)
OF_GAPS = {"wide band gap", "narrow band gap", "metallic", "semiconductor", "insulator"}


@pytest.mark.parametrize(
    ("gap", "expected"),
    [
        (0.0, {"metallic"}),
        (0.05, {"metallic"}),
        (0.07, {"narrow band gap"}),
        (1.0, {"narrow band gap", "semiconductor"}),
        (2.0, {"semiconductor"}),
        (3.0, {"wide band gap", "semiconductor"}),
        (4.0, {"wide band gap", "semiconductor", "insulator"}),
        (9.0, {"wide band gap", "insulator"}),
    ],
)
def test_a_known_gap_decides_every_word_about_gaps_and_no_other(gap, expected):
    words = verdicts({GAP: gap}, density=5.0)
    assert set(words.true) & OF_GAPS == expected
    assert set(words.false) & OF_GAPS == OF_GAPS - expected
    assert {*words.true, *words.false} == OF_GAPS | {"dense", "low density"}


def test_the_density_is_always_known():
    assert verdicts({}, 8.0) == (("dense",), ("low density",))
    assert verdicts({}, 2.5) == (("low density",), ("dense",))


def test_values_that_disagree_decide_nothing():
    older = spec(Quantity.BAND_GAP, "2018")
    words = verdicts({GAP: 2.9, older: 3.1}, 5.0)
    assert "semiconductor" in words.true
    assert "wide band gap" not in {*words.true, *words.false}
    assert {"metallic", "insulator"} <= set(words.false)


@pytest.mark.parametrize("moment", [0.0, -0.004, -2.0, 0.05])
def test_a_net_moment_that_is_small_or_negative_says_nothing_about_magnetism(moment):
    words = verdicts({spec(Quantity.TOTAL_MAGNETIZATION_PER_ATOM): moment}, 5.0)
    assert not {"magnetic", "not magnetic"} & {*words.true, *words.false}
    assert "magnetic" in verdicts({spec(Quantity.TOTAL_MAGNETIZATION_PER_ATOM): 0.2}, 5.0).true


def test_every_word_can_be_said():
    assert set(RANGES) - set(BEFORE_NOUN) == {"not magnetic"}
    assert set(AFTER_NOUN) <= set(RANGES)
    assert {Quantity(one.quantity) for one in RANGES.values() if one.quantity != "density"}


def test_texts_say_the_words_that_hold_and_never_the_others(facts_about):
    facts = facts_about(property_words=("semiconductor", "magnetic"), wrong_property_words=("metallic",))
    rng = np.random.default_rng(0)
    texts = [phrase(facts, rng) for _ in range(400)]
    made = frozenset().union(*(claims(text, facts) for text in texts))
    assert sayings(facts.property_words) <= made
    others = sayings([name for name in BEFORE_NOUN if name not in facts.property_words])
    assert not any(saying in text.split() for text in texts for saying in others if " " not in saying)
    assert not any("magnetic" in text for text in (phrase(facts_about(), rng) for _ in range(400)))


def test_a_text_fits_crystals_with_the_property_and_those_where_it_is_unknown(facts_about):
    gapped = facts_about(property_words=("semiconductor",), wrong_property_words=("metallic",))
    metal = facts_about(property_words=("metallic",), wrong_property_words=("semiconductor",))
    unknown = facts_about()
    made = claims("semiconducting oxide", gapped)
    assert made == {"semiconducting", "oxide"}
    assert made <= possible(gapped)
    assert made <= possible(unknown)
    assert not made <= possible(metal)
    assert not made <= claimable(unknown)


def test_the_modality_hands_over_what_is_possible(facts_about):
    modality = TextModality(TextModality.Settings(phrasing=1.0))
    known = facts_about(property_words=("metallic",), wrong_property_words=("semiconductor",))
    values = [Text("a text", generated=True, facts_json=facts.model_dump_json()) for facts in (known, facts_about())]
    features = {"utf8": np.frombuffer(b"metallic oxide", np.uint8)}
    (made, _), (_, of_unknown) = (modality.claims(value, features) for value in values)
    assert len(made) == 2
    assert set(made) <= set(of_unknown)


def test_queries_with_known_answers_leave_properties_out(facts_about):
    facts = facts_about(property_words=tuple(BEFORE_NOUN))
    rng = np.random.default_rng(1)
    drawn = [draw(facts, rng) for _ in range(200)]
    assert not any(one.claims & sayings(facts.property_words) for one in drawn if one is not None)


def test_a_tokenizer_sees_these_words(facts_about):
    facts = facts_about(property_words=("stiff",), structure_type=None)
    value = Text("TiO2 is an oxide.", generated=True, facts_json=facts.model_dump_json())
    seen = TextModality(TextModality.Settings(phrasing=1.0)).seen_in_training
    texts = [text.description for n in range(30) for text in seen(replace(value, description=f"TiO2, text {n}."))]
    assert any("incompressible" in text for text in texts)
