"""A text claims all that its words say, and fits exactly the crystals that a reader finds it to be true of."""

from __future__ import annotations

import re

import numpy as np
import pytest

from crystalign.encoders.bert import train_tokenizer
from crystalign.modalities.text import Text, TextModality
from crystalign.physics.caption import caption_of
from crystalign.physics.facts import CrystalFacts
from crystalign.text.claims import claimable, claims, draw
from crystalign.text.masked_caption import masked_caption
from crystalign.text.phrasing import BRITISH, phrase

GLUE = "the this material compound crystal it is a an of and has contains structure system form crystallizes in group"
GLUE += " space atoms elemental - crystallises are [formula] [system] [group] with"
DRAWS = 40


@pytest.fixture(scope="module")
def drawn(varied_facts) -> list[tuple[CrystalFacts, list[str]]]:
    rng = np.random.default_rng(3)
    return [
        (facts, [*(phrase(facts, rng) for _ in range(DRAWS)), caption_of(facts), masked_caption(facts)])
        for facts in varied_facts
    ]


def test_nothing_but_small_words_is_left_of_a_text_without_its_claims(drawn):
    for facts, texts in drawn:
        for text in texts:
            left = text
            for american, british in BRITISH.items():
                left = left.replace(british, american)
            left = re.sub(r"(?<![\w-])[A-Z][a-z]?(?:-[A-Z][a-z]?)+(?![\w-])", " ", left)
            for claim in sorted(claims(text, facts), key=len, reverse=True):
                left = left.replace(claim, " ")
            words = [word for word in re.findall(r"[^\s.,;]+", left) if word.lower() not in GLUE.split()]
            assert words == [], (text, words)


def test_every_text_fits_its_own_crystal(drawn):
    for facts, texts in drawn:
        assert all(claims(text, facts) and claims(text, facts) <= claimable(facts) for text in texts)


def test_a_text_fits_another_crystal_if_and_only_if_its_words_are_true_there(drawn):
    """Texts of two words, checked word by word against the keywords of the other crystal."""
    checked = {True: 0, False: 0}
    for facts, texts in drawn:
        for text in texts:
            match = re.fullmatch(r"(cubic|hexagonal|orthorhombic|layered|ternary|binary) (\w+?)s?", text)
            if match is None or not facts.compound_class.endswith(match[2]):
                continue
            for other, _ in drawn:
                adjective = match[1] in {
                    other.crystal_system,
                    other.dimensionality,
                    {2: "binary", 3: "ternary"}.get(len(other.elements)),
                }
                expected = adjective and other.compound_class == facts.compound_class
                assert (claims(text, facts) <= claimable(other)) == expected, (text, other.formula)
                checked[expected] += 1
    assert min(checked.values()) > 20


def test_a_longer_name_is_not_also_its_parts(varied_facts):
    facts = varied_facts[0].model_copy(update={"structure_type": "rutile"})
    assert claims("rutile-type", facts) == {"rutile-type"}
    assert "rutile" in claims("rutile", facts)


def test_elements_in_any_order_are_the_same_system(varied_facts):
    facts = next(f for f in varied_facts if len(f.elements) == 3)
    a, b, c = facts.elements
    assert claims(f"{a}-{b}-{c}", facts) == claims(f"{c}-{a}-{b} system", facts) == {"-".join(sorted(facts.elements))}
    assert claims(f"{a} {b} {c}", facts) == {a, b, c}


def test_the_features_of_a_text_carry_its_claims(varied_facts):
    facts = varied_facts[1]
    text = Text(caption_of(facts), generated=True, facts_json=facts.model_dump_json())
    modality = TextModality(TextModality.Settings(phrasing=1.0))
    for seed in range(20):
        features = modality.featurise(text, rng=np.random.default_rng(seed))
        found = modality.claims(text, features)
        assert found is not None
        assert found.made
        assert set(found.made) <= set(found.true)
    assert modality.claims(Text("by a person"), features) is None


@pytest.mark.parametrize(
    ("text", "claim"),
    [
        ("rutile", "rutile"),
        ("tetragonal titanium oxides", "tetragonal"),
        ("tetragonal titanium oxides", "titanium"),
        ("tetragonal titanium oxides", "oxides"),
        ("TiO2 P4_2/mnm", "P4_2/mnm"),
        ("TiO2 P4_2/mnm", "TiO2"),
        ("binary transition metal oxide", "transition metal"),
    ],
)
def test_a_drawn_text_comes_with_its_claims(facts_about, monkeypatch, text, claim):
    monkeypatch.setattr("crystalign.text.claims.phrase", lambda facts, rng: text)
    drawn = draw(facts_about(), np.random.default_rng(0))
    assert drawn is not None
    assert drawn.text == text
    assert claim in drawn.claims


def test_numbers_alone_are_no_claim_of_a_drawn_text(facts_about, monkeypatch):
    monkeypatch.setattr("crystalign.text.claims.phrase", lambda facts, rng: "The density is 4.25 g/cm³.")
    assert draw(facts_about(), np.random.default_rng(0)) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"crystal_system": "cubic"},
        {"structure_type": "anatase"},
        {"spacegroup_number": 141, "spacegroup_symbol": "I4_1/amd"},
        {"formula": "SnO2", "elements": ("O", "Sn")},
        {"compound_class": "sulfide"},
    ],
)
def test_a_crystal_that_differs_lacks_a_claim(facts_about, changes):
    assert not claimable(facts_about()) <= claimable(facts_about(**changes))


def test_the_tokenizer_knows_the_words_of_drawn_and_masked_texts(varied_facts):
    """Captions alone have neither `layered` nor `[number]`; a word that it does not know falls apart into letters."""
    texts = [Text(caption_of(facts), generated=True, facts_json=facts.model_dump_json()) for facts in varied_facts]

    def pieces(features: dict[str, float], words: str) -> list[str]:
        modality = TextModality(TextModality.Settings(**features))
        seen = [seen.description for text in texts for seen in modality.seen_in_training(text)]
        return train_tokenizer(seen, vocabulary=3000, max_tokens=64).encode(words).tokens[1:-1]

    assert len(pieces({}, "layered [number]")) > 5
    assert pieces({"phrasing": 0.5, "masking": 0.2}, "layered [number]") == ["layered", "[", "number", "]"]


def test_texts_seen_in_training_are_the_same_each_time(varied_facts):
    facts = varied_facts[3]
    text = Text(caption_of(facts), generated=True, facts_json=facts.model_dump_json())
    modality = TextModality(TextModality.Settings(phrasing=0.5))
    assert modality.seen_in_training(text) == modality.seen_in_training(text)
    assert modality.seen_in_training(text)[0] == text
    assert TextModality().seen_in_training(text) == [text]
