"""Any text gives chips whose filters compile, in bounded time, and no word is lost."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crystalign.index.filters import compile_filter, make_fields
from crystalign.physics.compound_classes import CLASS_NAMES
from crystalign.physics.structure_types import TYPE_NAMES
from crystalign.properties import PropertySpec, Quantity
from crystalign.text_query import structure_words
from crystalign.text_query.chips import MAX_CHIPS, Chip, Meaning, resolve
from crystalign.text_query.lexicon import GLUE, lexicon
from crystalign.text_query.understanding import understand
from crystalign.text_query.words import split_words

SPECS = [
    PropertySpec(quantity=q, method=method, source="mp", vintage="2026")
    for q in Quantity
    for method in ("pbe", "hse06")
]
FULL, BARE = make_fields(SPECS, has_facts=True), make_fields(())
WORDS = """
    li co o Li In As No oxide oxides lead without no free or and of , ; NaCl TiO2 rutile perovskite cubic
    layered > < 2 eV band gap between type structure metal alkali transition non -free ( ) Li-Co ABO3 Pnma
    P63/mmc stable wide dioxide titanium iron (III) sg 225 No. 62 mp-1 ferric binary quartz mixed anion Fe3+
    (Ni,Mn) x ₂ é * 1-2 chain fewer than 10 atoms semiconductor not Heusler Laves phase polar chiral
    centrosymmetric feldspar TMD cathode ½ [ +
    """.split()  # noqa: SIM905 (words)
phrases = st.lists(st.tuples(st.sampled_from(WORDS), st.sampled_from([" ", "-", ", ", ""])), max_size=14).map(
    lambda pairs: "".join(word + gap for word, gap in pairs)
)
HOSTILE = {
    "letters": "a" * 20_000,
    "brackets": "(" * 20_000,
    "formulas": " ".join(f"Fe{n}O{n + 1}" for n in range(1, 10_000)),
    "system": "Li-" * 7000,
    "list": "(Li," * 5000,
    "emoji": "🧪 " * 5000,
    "controls": "".join(map(chr, range(32))) * 300,
    "tags": "<sub " * 4000,
    "centrings": "P " * 9000,
    "space groups": "P -1 m " * 3000,
    "numbers": "1 - " * 5000,
    "assignments": "ABO3 " * 200 + "B = Ti " * 300,
    "misspelled": "galiun " * 570,
    "chains": "0.5 < Eg " * 450,
    "alike": "isostructural with " * 200,
    "pearson": "tI10 point group " * 240,
    "negations": "without " * 3000,
    "alternatives": "li or " * 4000,
    "comparisons": "above " * 4000,
    "ranges": "band gap between " * 1200,
    "stars": "Li* " * 5000,
    "surrogates": "\ud800abc " * 100,
    "phrases": "perovskite oxide without lead " * 600,
    "capitals": "İıſ " * 1000,
    "fractions": "²½ " * 4000,
    "lines": "\n" * 20_000,
}


def compile_all(found, fields):
    """Compile every filter and every tier; both must fit the limits of filters."""
    for chip in found.chips:
        for text in (chip.filter, *chip.then):
            compile_filter(text, fields)
    for tier in found.tiers():
        if tier is not None:
            compile_filter(tier, fields)


def pieces(text):
    return [word.folded for word in split_words(text).words]


def lost_words(text, found):
    """Words that neither a chip, nor the rest, nor the list of glue holds."""
    kept = {piece for part in [*(chip.words for chip in found.chips), found.rest] for piece in pieces(part)}
    return [word.text for word in split_words(text).words if word.folded not in kept and word.folded not in GLUE]


@settings(max_examples=300, deadline=None)
@given(phrases)
def test_every_filter_of_mixed_phrases_compiles_and_no_word_is_lost(text):
    for fields in (FULL, BARE):
        found = understand(text, fields)
        compile_all(found, fields)
        assert len(found.chips) <= MAX_CHIPS
    assert understand(text, FULL) == understand(text, FULL)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([w for w in WORDS if w.isalnum() and w.isascii()]), max_size=12).map(" ".join))
def test_no_word_is_lost(text):
    found = understand(text, FULL)
    lost = [word for word in lost_words(text, found) if word != "metal"]
    assert not lost


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=300))
def test_any_text_is_understood_without_an_error(text):
    found = understand(text, FULL)
    compile_all(found, FULL)
    assert found.text == text
    assert len(found.chips) <= MAX_CHIPS
    assert all(chip.words.strip() and chip.label and chip.filter for chip in found.chips)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_takes_little_time(name):
    understand("oxide", FULL)
    start = time.perf_counter()
    found = understand(HOSTILE[name], FULL)
    seconds = time.perf_counter() - start
    assert seconds < 1.0
    compile_all(found, FULL)
    assert len(found.chips) <= MAX_CHIPS


def test_words_beyond_the_limit_stay_in_the_rest():
    for text in ("pretty " * 500 + "NaCl", "pretties " * 450 + "NaCl"):
        found = understand(text, FULL)
        assert found.chips == ()
        assert found.rest == text
    assert [chip.words for chip in understand("pretty " * 499 + "NaCl", FULL).chips] == ["NaCl"]


def test_conditions_beyond_the_limit_of_filters_are_searched_as_text():
    found = understand(" ".join(f"NaCl{n}" for n in range(2, 60)), FULL)
    assert len(found.chips) == MAX_CHIPS
    assert found.rest.split()[0] == f"NaCl{MAX_CHIPS + 2}"
    assert "only the first" in found.notes[0]


def test_costly_conditions_fit_the_limit_of_filters():
    words = ["mixed anion", "perovskite", "pnictides", "halides", "feldspar", "Heusler", "centrosymmetric", "oxides"]
    for count in range(1, len(words) + 1):
        found = understand(", ".join(words[:count]), FULL)
        compile_all(found, FULL)
        assert len(found.chips) == min(count, 2)
    assert found.rest == " ".join(words[2:])


def test_removed_chips_are_searched_as_text():
    text = "layered lead halide perovskites"
    found = understand(text, FULL, ignore=["Lead  halide"])
    assert [chip.words for chip in found.chips] == ["layered", "perovskites"]
    assert found.rest == "lead halide"
    everything = [chip.words for chip in understand(text, FULL).chips]
    nothing = understand(text, FULL, ignore=everything)
    assert nothing.chips == ()
    assert nothing.rest == text
    assert nothing.tiers() == (None,)


@pytest.mark.parametrize("fields", [FULL, BARE], ids=["full", "bare"])
def test_every_known_phrase_has_filters_that_compile(fields):
    known = lexicon()
    for phrase, meaning in {**known.types, **known.meanings}.items():
        chip = resolve(meaning, phrase, fields)
        for text in (chip.filter, *chip.then) if isinstance(chip, Chip) else ():
            compile_filter(text, fields)
        assert chip, phrase


def test_classes_and_types_in_filters_are_those_that_crystals_have():
    known = lexicon()
    filters = [text for m in {**known.types, **known.meanings}.values() for text in m.filters]
    named = {pair for text in filters for pair in re.findall(r'"(class|type|dimensionality):([^"]+)"', text)}
    named |= {("class", name) for anion in known.anions.values() for name in anion.classes}
    tables = (structure_words.prototypes(), structure_words.strukturbericht(), structure_words.groups())
    named |= {("type", name) for table in tables for names in table.values() for name in names}
    assert {name for kind, name in named if kind == "class"} <= set(CLASS_NAMES)
    assert {name for kind, name in named if kind == "type"} <= set(TYPE_NAMES)
    assert {name for kind, name in named if kind == "dimensionality"} == {"layered", "chains", "molecular", "framework"}
    assert structure_words.TYPE_NAMES == TYPE_NAMES


def test_a_meaning_without_keywords_falls_back_or_says_why():
    meaning = Meaning("class", "hydride", ('_crystalign_keywords HAS "class:hydride"',))
    assert resolve(meaning, "hydrides", BARE) == "this index has no compound classes, so 'hydrides' is searched as text"
