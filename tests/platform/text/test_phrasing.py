"""Drawn texts claim only facts, as a reader finds who knows only English and the facts; and they are varied."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import islice

import numpy as np
import pytest

from crystalign.crystal import SYMBOLS
from crystalign.modalities.text import Text, TextModality
from crystalign.physics.caption import ELEMENTS, caption_of
from crystalign.physics.facts import CrystalFacts
from crystalign.physics.structure_types import TYPE_NAMES
from crystalign.text.anion_elements import without_anions
from crystalign.text.keywords import keywords
from crystalign.text.phrasing import GROUPS, PARENTS, phrase
from crystalign.text_query import anion_words, element_words

DRAWS = 64
"""Texts about each crystal."""
AMERICAN = {"aluminium": "aluminum", "caesium": "cesium", "sulph": "sulf", "grey": "gray", "centred": "centered"}
AMERICAN |= {"crystallises": "crystallizes"}
COUNTS = {"binary": 2, "ternary": 3, "quaternary": 4, "quinary": 5}
SYSTEMS = ["cubic", "tetragonal", "orthorhombic", "hexagonal", "trigonal", "monoclinic", "triclinic"]
DIMENSIONS = {
    "layered": "layered|2D|two-dimensional|consists of layers",
    "chains": "1D|one-dimensional|chain-like|consists of chains",
    "molecular": "molecular|consists of molecules",
    "framework": "3D|three-dimensional|form a three-dimensional framework",
}
POLYHEDRA = {"octahedra": "octahedral", "tetrahedra": "tetrahedral", "cuboctahedra": "cuboctahedral"}
POLYHEDRA |= {
    "trigonal prisms": "trigonal prismatic",
    "square pyramids": "square-pyramidal",
    "squares": "square-planar",
}
NEUTRAL = {"the", "this", "material", "compound", "crystal", "it", "is", "a", "an", "of", "and", "has", "contains"}
NEUTRAL |= {"structure", "system", "form", "atoms", "elemental", "-"}
FAMILIES = {
    name.split(",")[0].removesuffix(" metal"): set(symbols.split()) for name, symbols in element_words.GROUPS.items()
}
FAMILIES["transition metal"] = FAMILIES.pop("transition")


PROPERTIES = {"wide-gap": "wide band gap", "wide band gap": "wide band gap", "large gap": "wide band gap"}
PROPERTIES |= {"narrow-gap": "narrow band gap", "narrow band gap": "narrow band gap", "small gap": "narrow band gap"}
PROPERTIES |= {"metallic": "metallic", "conducting": "metallic", "magnetic": "magnetic"}
PROPERTIES |= {"semiconducting": "semiconductor", "semiconductor": "semiconductor", "dense": "dense", "heavy": "dense"}
PROPERTIES |= {"insulating": "insulator", "insulator": "insulator"}
PROPERTIES |= dict.fromkeys(["light", "low density", "lightweight"], "low density")
"""What a text says → the word for the property."""


def one_of(names: list[str]) -> str:
    return "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))


def claims(facts: CrystalFacts) -> Iterator[tuple[str, Callable[[re.Match[str]], bool]]]:
    """Patterns of everything that a text can claim, the longest first, and whether a claim holds."""
    around = {e.symbol: e for e in facts.environments}
    names = {name: SYMBOLS[z] for z, name in enumerate(ELEMENTS, 1)}
    packed = "densely" if facts.volume_per_atom < 12 else "moderately" if facts.volume_per_atom < 22 else "loosely"

    def length(m: re.Match[str]) -> bool:
        lengths = [p.distance for p in around[m[1]].partners if p.symbol == m[2]]
        return lengths == [float(m[4])] and bool(m[3]) is not around[m[1]].is_only

    def neighbours(m: re.Match[str]) -> bool:
        said = [tuple(part.split()) for part in re.split(", | and ", m[3])]
        real = [(str(p.count), p.symbol) for p in around[m[1]].partners]
        return said == real and bool(m[2]) is not around[m[1]].is_only

    def polyhedron(m: re.Match[str]) -> bool:
        (partner,) = around[m[1]].partners
        return (partner.symbol, str(partner.count), around[m[1]].shape) == (m[2], m[3], POLYHEDRA[m[4]])

    def family(m: re.Match[str]) -> bool:
        return not FAMILIES[m[0]].isdisjoint(facts.elements)

    def parent(m: re.Match[str]) -> bool:
        words = facts.compound_class.split()
        return bool(words) and set(words) <= set(anion_words.FAMILIES[m[1]].split())

    minerals = [word.removeprefix("mineral:") for word in keywords(facts) if word.startswith("mineral:")]
    elements = "|".join(sorted(ELEMENTS, key=len, reverse=True))
    formulas = rf"(?<!\S){re.escape(facts.formula)}(?!\S)"
    yield (
        rf"(?:The material (?:is|has a) )?(?<!\S)({one_of(list(PROPERTIES))})(?![\w-])",
        lambda m: PROPERTIES[m[1]] in facts.property_words,
    )
    yield r"The density is (\S+) g/cm³", lambda m: abs(float(m[1]) - facts.density) <= 0.0051
    yield (
        r"The lattice parameters? (?:is|are) (\d+\.\d\d)(?:(?:, (\d+\.\d\d))? and (\d+\.\d\d))? Å",
        lambda m: np.allclose([float(x) for x in m.groups() if x], facts.lattice, atol=0.0051),
    )
    yield r"(\d+\.\d) g/cm3", lambda m: abs(float(m[1]) - facts.density) <= 0.0501
    yield (
        r"The atoms are (\w+) packed, (\d+) Å³ per atom",
        lambda m: m[1] == packed and abs(int(m[2]) - facts.volume_per_atom) <= 0.501,
    )
    yield r"The mean (\w+)–(\w+) bond length is (about )?(\d+\.\d\d) Å", length
    yield r"(?<!\S)(\w+) is (mostly )?bonded to (\d+ [A-Z][a-z]?(?:(?:, | and )\d+ [A-Z][a-z]?)*)", neighbours
    yield (
        rf"({elements}) has (mostly )?([\w -]+) coordination",
        lambda m: around[names[m[1].lower()]].shape == m[3] and bool(m[2]) is not around[names[m[1].lower()]].is_only,
    )
    yield rf"with ([A-Z][a-z]?)([A-Z][a-z]?)(\d+) ({one_of(list(POLYHEDRA))})", polyhedron
    yield rf"with ({one_of(list(POLYHEDRA.values()))}) ({elements})", lambda m: around[names[m[2]]].shape == m[1]
    yield (
        r"(?:It crystallizes in the (\w+) )?space group ([A-Z]\S*?)(?=[.]|\s|$)",
        lambda m: m[1] in {None, facts.crystal_system} and m[2] == facts.spacegroup_symbol,
    )
    yield r"No. (\d+)", lambda m: int(m[1]) == facts.spacegroup_number
    yield r"space group (\d+)", lambda m: int(m[1]) == facts.spacegroup_number
    yield rf"(?<!\S){re.escape(facts.spacegroup_symbol)}(?!\S)", lambda m: True
    yield rf"(?<!\S)({one_of(list(TYPE_NAMES))})(?: structure|-type)(?![\w-])", lambda m: m[1] == facts.structure_type
    bare = [
        name
        for name in TYPE_NAMES
        if name.endswith("-type") or not re.search(rf"\b({elements})\b|[A-Z][a-z]?[A-Z\d]", name)
    ]
    yield rf"(?<!\S)({one_of(bare)})(?!\S)", lambda m: m[1] == facts.structure_type
    if minerals:
        yield rf"(?<!\S)({one_of(minerals)})(?!\S)", lambda m: m[1] in minerals
    yield formulas, lambda m: True
    yield (
        r"The (?:structure|crystal|atoms) (?:is )?([\w -]+)(?=[.])",
        lambda m: m[1] in DIMENSIONS[facts.dimensionality].split("|") or m[1] == f"system is {facts.crystal_system}",
    )
    for word, phrases in DIMENSIONS.items():
        yield rf"\b({phrases})\b", lambda m, word=word: facts.dimensionality == word
    if facts.compound_class:
        short = "intermetallic" if facts.compound_class == "intermetallic compound" else facts.compound_class
        yield rf"\b({re.escape(facts.compound_class)}|{re.escape(short)})s?\b", lambda m: True
    yield rf"\b({one_of(list(anion_words.FAMILIES))})s?\b", parent
    yield rf"\b({one_of(list(FAMILIES))})\b", family
    yield rf"\b({'|'.join(SYSTEMS)})\b", lambda m: m[1] == facts.crystal_system
    yield rf"\b({'|'.join(COUNTS)})\b", lambda m: COUNTS[m[1]] == len(facts.elements)
    yield r"\bmulticomponent\b", lambda m: len(facts.elements) > 5
    yield rf"\b({elements})\b", lambda m: names[m[1]] in facts.elements
    yield r"[A-Z][a-z]?(?:-[A-Z][a-z]?)+", lambda m: sorted(m[0].split("-")) == sorted(facts.elements)
    yield rf"\b({'|'.join(SYMBOLS[1:])})\b", lambda m: m[1] in facts.elements


def wrong(text: str, facts: CrystalFacts) -> list[str]:
    """The claims of a text that the facts do not support, and the words that nobody understands."""
    rest = text
    if any(word in text.lower() for word in AMERICAN):
        for british, american in AMERICAN.items():
            rest = re.sub(british, american, rest)
            rest = rest.replace(british.capitalize(), american.capitalize())
    found = []
    for pattern, holds in claims(facts):
        flags = re.IGNORECASE if "has (mostly" in pattern else 0
        for match in re.finditer(pattern, rest, flags):
            try:
                fits = holds(match)
            except (KeyError, ValueError):  # an atom that is not described, or other partners
                fits = False
            found += [] if fits else [match[0]]
        rest = re.sub(pattern, " ", rest, flags=flags)
    return found + [word for word in re.findall(r"[^\s.,]+", rest) if word.lower() not in NEUTRAL]


@pytest.fixture(scope="session")
def drawn(varied_facts) -> list[tuple[CrystalFacts, list[str]]]:
    rng = np.random.default_rng(20)
    return [(facts, [phrase(facts, rng) for _ in range(DRAWS)]) for facts in varied_facts]


def test_every_text_claims_only_facts(drawn):
    assert len(drawn) >= 60
    assert sum(len(texts) for _, texts in drawn) >= 3000
    bad = [(facts.formula, text, wrong(text, facts)) for facts, texts in drawn for text in texts if wrong(text, facts)]
    assert bad == []


def test_the_reader_notices_texts_about_another_crystal(drawn):
    noticed = [
        bool(wrong(text, other))
        for (facts, texts), (other, _) in zip(drawn, [*drawn[7:], *drawn[:7]], strict=True)
        for text in texts[:12]
        if facts.formula != other.formula
    ]
    assert np.mean(noticed) > 0.85


def test_british_texts_are_british_throughout(drawn):
    british = [text for _, texts in drawn for text in texts if any(word in text.lower() for word in AMERICAN)]
    assert len(british) > 30
    for text in british:
        assert not [word for word in AMERICAN.values() if word in text.lower()], text


def test_a_quarter_of_the_texts_name_the_formula_of_a_compound(drawn):
    said = [
        facts.formula in re.findall(r"[^\s]+", text)
        for facts, texts in drawn
        if len(facts.elements) > 1
        for text in texts
    ]
    assert 0.15 < np.mean(said) < 0.40


def test_texts_are_short_and_long_and_rarely_the_same(drawn):
    lengths = [len(text.split()) for _, texts in drawn for text in texts]
    assert lengths.count(2) > 100
    assert max(lengths) > 30
    assert np.mean([length == 1 for length in lengths]) < 0.12
    for facts, texts in drawn:
        assert len(set(texts)) > DRAWS / 2, facts.formula


def test_sentences_begin_with_a_capital_or_a_formula_and_end_with_a_stop(drawn):
    long = [text for _, texts in drawn for text in texts if text.endswith(".")]
    assert len(long) > 900
    for text in long:
        for sentence in text.removesuffix(".").split(". "):
            assert sentence[0].isupper(), text


def test_words_are_not_repeated_within_a_query(drawn):
    for _, texts in drawn:
        for text in texts:
            words = re.split(r"[\s-]", text)
            if not text.endswith(".") and not any(w in text for w in (" group ", "structure", " with ", "-type")):
                words = [word for word in words if len(word) > 2]
                assert len(words) == len(set(words)), text


def test_the_same_generator_draws_the_same_texts(varied_facts):
    def texts() -> list[str]:
        rng = np.random.default_rng(4)
        return [phrase(facts, rng) for facts in islice(varied_facts, 40)]

    assert texts() == texts()


@pytest.mark.parametrize(
    ("word", "article"),
    [
        ("oxide", "an"),
        ("uranium dodecaboride-type boride", "a"),
        ("one-dimensional sulfide", "a"),
        ("binary oxide", "a"),
    ],
)
def test_articles(word, article):
    from crystalign.text.phrasing import _article

    assert _article(word) == f"{article} {word}"


# --- words with a meaning ---------------------------------------------------------------------------------------------


def many(facts: CrystalFacts, n: int = 400) -> list[str]:
    rng = np.random.default_rng(0)
    return [phrase(facts, rng) for _ in range(n)]


def test_families_of_elements_and_classes_are_those_of_a_search():
    assert {name: FAMILIES[name] for name in GROUPS} == {name: set(symbols) for name, symbols in GROUPS.items()}
    assert all(set(anion_words.FAMILIES[name].split()) == members for name, members in PARENTS.items())


@pytest.mark.parametrize(
    ("name", "elements", "others"),
    [
        ("oxide", "Li O Co", "Li Co"),
        ("phosphate", "Li O P Fe", "Li Fe"),
        ("sulfide", "S As", "As"),
        ("silicate hydroxide", "H O Mg Si", "Mg"),
        ("tungstate", "O Ca W", "Ca"),
        ("intermetallic compound", "Ni Al", "Ni Al"),
        ("compound", "H N", "H N"),
        ("oxyfluoride", "O F Bi", "Bi"),
        ("metal-organic compound", "H C O Zn", "O Zn"),
    ],
)
def test_a_class_is_said_with_the_elements_that_it_does_not_name(name, elements, others):
    assert without_anions(name, elements.split()) == others.split()


def test_a_structure_type_named_after_a_compound_is_said_to_be_a_structure(facts_about):
    nickel = facts_about(
        formula="AlNi", elements=("Al", "Ni"), compound_class="intermetallic compound",
        structure_type="cesium chloride", crystal_system="cubic", spacegroup_symbol="Pm-3m", spacegroup_number=221,
    )  # fmt: skip
    texts = [text for text in many(nickel) if re.search("chloride", text)]
    assert len(texts) > 50
    assert not [text for text in texts if not re.search("chloride([ -]type| structure)", text)]


def test_nobody_calls_a_metal_a_framework_or_argon_a_molecule(facts_about):
    metal = facts_about(formula="Cu", elements=("Cu",), compound_class="", structure_type="face-centered cubic")
    argon = facts_about(
        formula="Ar", elements=("Ar",), compound_class="", structure_type=None, dimensionality="molecular"
    )
    for facts in (metal, argon):
        assert not [text for text in many(facts) if re.search("3D|three|framework|molec|compound", text)]


def test_elements_of_the_main_texts_are_those_of_the_capital_letters(facts_about):
    texts = many(facts_about())
    assert any("titanium oxide" in text for text in texts)
    assert any(text == "rutile" for text in texts)
    assert any("transition metal oxide" in text for text in texts)


def test_mixed_sites_and_unknown_classes_are_described(facts_about):
    mixed = facts_about(
        formula="Sr0.3La0.7MnO3", elements=("O", "Mn", "Sr", "La"), compound_class="compound", structure_type=None
    )
    bad = [(text, wrong(text, mixed)) for text in many(mixed) if wrong(text, mixed)]
    assert bad == []


# --- in training ------------------------------------------------------------------------------------------------------


def read(features: dict[str, np.ndarray]) -> str:
    return features["utf8"].tobytes().decode()


def test_training_reads_phrases_only_where_it_is_asked_to_and_there_are_facts(facts_about):
    facts = facts_about()
    with_facts = Text(caption_of(facts), generated=True, facts_json=facts.model_dump_json())
    without = Text(with_facts.description, generated=True)
    always = TextModality(TextModality.Settings(phrasing=1.0, clause_dropout=0.0))
    never = TextModality(TextModality.Settings(clause_dropout=0.0))
    seeds = range(40)
    texts = {read(always.featurise(with_facts, rng=np.random.default_rng(seed))) for seed in seeds}
    assert len(texts) > 20
    assert with_facts.description not in texts
    assert not [text for text in texts if wrong(text, facts)]
    for modality, text in ((always, without), (never, with_facts)):
        for seed in seeds:
            assert read(modality.featurise(text, rng=np.random.default_rng(seed))) == with_facts.description
    assert read(always.featurise(with_facts)) == with_facts.description, "outside of training the caption is read"
