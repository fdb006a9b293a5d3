"""Queries with known answers: which crystals fit, what is left out, and when a query is answered."""

from __future__ import annotations

import re

import numpy as np
import pytest

from crystalign.crystal import Crystal, pretty_formula
from crystalign.evaluation.held_out_queries import (
    ABSENT_SHARE,
    MOST_LEFT_OUT,
    NOTHING,
    HeldOutQuery,
    Pool,
    StoredValues,
    held_out_queries,
    is_answered,
)
from crystalign.evaluation.typed_queries import TypedQueries, unrelated_texts
from crystalign.formula import read_formula
from crystalign.material import Material, Provenance
from crystalign.modalities.composition import Composition
from crystalign.modalities.text import Text
from crystalign.modalities.xrd import MeasuredPattern
from crystalign.physics.diffraction import REFERENCE_WAVELENGTH, powder_peaks
from crystalign.physics.facts import crystal_facts
from crystalign.physics.symmetry import symmetry


def salt(a: int, b: int, length: float = 4.0) -> Material:
    crystal = Crystal(np.eye(3) * length, np.array([[0, 0, 0], [0.5] * 3]), np.array([a, b]))
    facts = crystal_facts(crystal, symmetry(crystal))
    values = {
        "composition": Composition.of(crystal),
        "xrd": powder_peaks(crystal),
        "text": Text(facts.formula, generated=True, facts_json=facts.model_dump_json()),
    }
    return Material(f"{a}-{b}-{length}", crystal, Provenance("test", "CC0-1.0", "1", ""), values, {})


@pytest.fixture(scope="module")
def salts() -> list[Material]:
    return [salt(a, b, 3.5 + a / 50) for a in (3, 11, 19, 37, 55) for b in (9, 17, 35)]


def pool_of(making: object, materials: list[Material]) -> Pool:
    return Pool((material.id, making.keys(material)) for material in materials)


@pytest.mark.parametrize(
    ("results", "fitting", "k", "answered"),
    [
        ("abcdefghij", "a", 10, True),
        ("bcdefghijk", "a", 10, False),
        ("abcdefghij", "axyz", 10, False),  # one of four
        ("abcdefghij", "abxy", 10, True),  # two of four
        ("abcdefghij", "axy", 10, False),  # one of three
        ("bcdefghijka", "a", 10, False),  # the eleventh
        ("abcdefghij", "abcdeuvwxyz", 10, True),  # five of the first ten
        ("abcdefghij", "abcduvwxyzst", 10, False),  # four of the first ten
        ("abc", "", 10, False),
        ("", "a", 10, False),
    ],
)
def test_a_query_is_answered_by_half_of_what_could_be_found(results, fitting, k, answered):
    assert is_answered(list(results), set(fitting), k) is answered


def test_a_crystal_fits_with_one_key_of_each_set_unless_it_is_left_out():
    pool = Pool([("a", frozenset("xy")), ("b", frozenset("xz")), ("c", frozenset("z"))])
    assert pool.fitting(HeldOutQuery(None, (frozenset("x"),))) == {"a", "b"}
    assert pool.fitting(HeldOutQuery(None, (frozenset("x"), frozenset("z")))) == {"b"}
    assert pool.fitting(HeldOutQuery(None, (frozenset("yz"),))) == {"a", "b", "c"}
    assert pool.fitting(HeldOutQuery(None, (frozenset("yz"),), ("a",))) == {"b", "c"}
    assert pool.fitting(HeldOutQuery(None, (frozenset("x"), frozenset()))) == set()
    assert pool.fitting(HeldOutQuery(None, NOTHING)) == set()


def test_half_of_the_queries_leave_out_everything_that_fits(salts):
    making = StoredValues("composition")
    twin = salt(3, 9, 5.0)  # another structure of one formula
    pool, rng = pool_of(making, [*salts, twin]), np.random.default_rng(0)
    queries = [making.query(salts[0], pool, rng, 0) for _ in range(400)]
    left_out = [query for query in queries if query.leave_out]
    assert {query.leave_out for query in left_out} == {tuple(sorted([salts[0].id, twin.id]))}
    assert all(pool.fitting(query) == set() for query in left_out)
    assert abs(len(left_out) / 400 - ABSENT_SHARE) < 0.1


def test_where_many_fit_none_is_left_out(salts):
    making, rng = StoredValues("composition"), np.random.default_rng(0)
    twins = [salt(3, 9, 4.0 + n / 10) for n in range(MOST_LEFT_OUT + 1)]
    pool = pool_of(making, [*salts, *twins])
    assert not any(making.query(twins[0], pool, rng, 0).leave_out for _ in range(50))


def test_a_formula_query_is_the_formula_of_the_material(salts):
    making, rng = held_out_queries("composition"), np.random.default_rng(0)
    pool = pool_of(making, salts)
    for material in salts:
        typed = making.query(material, pool, rng, 0).value
        assert typed == pretty_formula(material.crystal.formula)
        assert read_formula(typed).reduced == material.crystal.formula


def test_a_structure_query_is_nearly_the_stored_structure(salts):
    making, rng = held_out_queries("crystal"), np.random.default_rng(0)
    pool = pool_of(making, salts)
    for material in salts:
        asked = making.query(material, pool, rng, 0).value
        assert asked.formula == material.crystal.formula
        assert 0.9 < asked.volume / material.crystal.volume < 1.1
        assert 0 < np.abs(asked.lattice - material.crystal.lattice).max() < 0.3


def test_a_pattern_query_has_the_peaks_of_its_material_where_an_instrument_puts_them(salts):
    making, rng = held_out_queries("xrd"), np.random.default_rng(0)
    pool = pool_of(making, salts)
    for material in salts[:5]:
        asked = making.query(material, pool, rng, 0).value
        assert isinstance(asked, MeasuredPattern)
        peaks = material.value("xrd")
        strongest = np.degrees(2 * np.arcsin(REFERENCE_WAVELENGTH / 2 / peaks.d_spacings))
        angle = asked.two_theta[np.argmax(asked.intensities)]
        assert np.abs(strongest / angle - 1.0).min() < 0.025
        assert asked.intensities.min() >= 0


def test_a_material_without_the_modality_gives_no_query(salts):
    bare = Material("bare", salts[0].crystal, Provenance("test", "CC0-1.0", "1", ""), {}, {})
    for name in ("composition", "text"):
        making = held_out_queries(name)
        assert making.query(bare, pool_of(making, salts), np.random.default_rng(0), 0) is None


def test_a_phrase_fits_its_own_material_unless_it_was_left_out_or_drowned(salts):
    making, rng = TypedQueries("text"), np.random.default_rng(0)
    pool = pool_of(making, salts)
    everyday = [{word for text in unrelated_texts()[half::2] for word in text.split()} for half in (0, 1)]
    plain = mixed = drowned = 0
    for number in range(300):
        material, half = salts[number % len(salts)], number % 2
        query = making.query(material, pool, rng, half)
        fits = material.id in pool.fitting(query)
        added = [word for word in query.value.split() if word in everyday[half]]
        if query.wants == NOTHING:
            assert len(added) > len(query.value.split()) / 2
            assert not fits
            drowned += 1
        else:
            assert fits is (material.id not in query.leave_out)
        plain += not added
        mixed += bool(added)
    assert plain > 100
    assert mixed > 60
    assert 30 < drowned < mixed


def test_the_halves_of_the_unrelated_texts_share_no_text_and_nothing_fits_them():
    making = TypedQueries("text")
    first, second = making.unrelated(0), making.unrelated(1)
    assert {query.value for query in first} | {query.value for query in second} == set(unrelated_texts())
    assert {query.value for query in first}.isdisjoint(query.value for query in second)
    assert min(len(first), len(second)) >= 75
    assert all(query.wants == NOTHING for query in [*first, *second])


def test_the_unrelated_texts_are_of_several_languages_and_scripts():
    assert len(set(unrelated_texts())) == len(unrelated_texts()) >= 150
    for script in ("[а-я]", "[一-龥]", "[가-힣]", "[ء-ي]", "[α-ω]", "[ぁ-ん]"):
        assert any(re.search(script, text) for text in unrelated_texts())
