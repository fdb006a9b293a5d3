from __future__ import annotations

import numpy as np
import pytest

from both_ways import selected
from crystalign.crystal import SYMBOLS
from crystalign.errors import QueryError
from crystalign.index.filters import element_bits, listed_fields, make_fields, parse_filter


def allowed(rows, text):
    return selected(rows.table, text, make_fields(rows.properties))


NOTHING = "nsites>9.5 AND nsites<1e1"
CLAIMS = {
    'elements HAS "O"': lambda e, hull, n: "O" in e,
    'elements HAS ALL "O","Fe"': lambda e, hull, n: {"O", "Fe"} <= e,
    'elements HAS ANY "O","U","Pu"': lambda e, hull, n: bool({"O", "U", "Pu"} & e),
    'elements HAS ONLY "O","H","C","U"': lambda e, hull, n: e <= {"O", "H", "C", "U"},
    'NOT elements HAS "O"': lambda e, hull, n: "O" not in e,
    "elements LENGTH 3": lambda e, hull, n: len(e) == 3,
    "elements LENGTH >= 4": lambda e, hull, n: len(e) >= 4,
    "nelements=2 OR nelements=1": lambda e, hull, n: len(e) in {1, 2},
    "nsites>=10 AND nsites<20": lambda e, hull, n: 10 <= n < 20,
    "10<=nsites AND 20>nsites": lambda e, hull, n: 10 <= n < 20,
    "nsites!=5": lambda e, hull, n: n != 5,
    NOTHING: lambda e, hull, n: False,
    "_crystalign_energy_above_hull<0.25": lambda e, hull, n: hull is not None and hull < 0.25,
    "NOT _crystalign_energy_above_hull<0.25": lambda e, hull, n: hull is not None and hull >= 0.25,
    "_crystalign_energy_above_hull IS UNKNOWN": lambda e, hull, n: hull is None,
    "_crystalign_energy_above_hull IS KNOWN": lambda e, hull, n: hull is not None,
    "_crystalign_energy_above_hull_pbe_mp_2026<0.25": lambda e, hull, n: hull is not None and hull < 0.25,
    '_crystalign_energy_above_hull<0.5 OR elements HAS "O"': lambda e, hull, n: (
        (hull is not None and hull < 0.5) or "O" in e
    ),
    'elements HAS "O" AND NOT (nsites<10 OR elements HAS "Li")': lambda e, hull, n: (
        "O" in e and not (n < 10 or "Li" in e)
    ),
}


@pytest.mark.parametrize("text", CLAIMS)
def test_a_filter_allows_what_python_would_allow(rows, text):
    sites = rows.table["n_sites"].to_pylist()
    expected = [CLAIMS[text](e, h, n) for e, h, n in zip(rows.elements, rows.hull, sites, strict=True)]
    assert allowed(rows, text).tolist() == expected
    assert any(expected) == (text != NOTHING)


def test_a_formula_may_be_written_in_any_order(rows):
    same = [allowed(rows, f'chemical_formula_reduced="{name}"') for name in ("TiO2", "O2Ti", "Ti2O4")]
    assert same[0].any()
    assert np.array_equal(same[0], same[1])
    assert np.array_equal(same[0], same[2])


def test_strings_match_at_their_ends_and_inside(rows):
    ids = rows.ids
    assert allowed(rows, 'id STARTS WITH "m-1"').tolist() == [i.startswith("m-1") for i in ids]
    assert allowed(rows, 'id ENDS WITH "7"').tolist() == [i.endswith("7") for i in ids]
    assert allowed(rows, 'id CONTAINS "99"').tolist() == ["99" in i for i in ids]


def test_every_element_has_a_bit_of_its_own():
    words = {element_bits([z]) for z in range(1, len(SYMBOLS))}
    assert len(words) == len(SYMBOLS) - 1
    assert all(0 <= low < 2**64 and 0 <= high < 2**64 for low, high in words)


def test_a_short_name_means_one_property_or_none(rows):
    names = set(make_fields(rows.properties))
    assert "_crystalign_energy_above_hull" in names
    assert "_crystalign_band_gap" not in names  # PBE and HSE gaps are not the same quantity
    assert {"_crystalign_band_gap_pbe", "_crystalign_band_gap_hse06_mp_2026"} <= names
    listed = [field.column for field in listed_fields(rows.properties)]
    assert len(listed) == len(set(listed))


@pytest.mark.parametrize(
    ("text", "reason", "says"),
    [
        ("colour > 3", "unknown-field", "nelements"),
        ("_crystalign_band_gap > 1", "unknown-field", "_crystalign_band_gap_hse06"),
        ('elements HAZ "O"', "bad-filter", "^"),
        ("elements HAS 'O'", "bad-filter", "double quotes"),
        ('elements HAS "Xx"', "unknown-element", "Xx"),
        ('nsites = "four"', "bad-filter", "number"),
        ("id = 3", "bad-filter", "string"),
        ('elements = "O"', "bad-filter", "HAS"),
        ('elements HAS < "O"', "bad-filter", "not supported"),
        ('elements:nelements HAS "O":3', "bad-filter", "not supported"),
        ("3 < 4", "bad-filter", "field"),
        ("nsites > nelements", "bad-filter", "number or a string"),
        ('chemical_formula_reduced = "not a formula"', "bad-formula", "Fe2O3"),
        ("nsites <", "bad-filter", "nsites"),
        ("  ", "bad-filter", "empty"),
        ("(" * 40 + "nsites>1" + ")" * 40, "filter-too-deep", "32"),
        ("nsites>1 AND " * 400 + "nsites>1", "filter-too-long", "2000"),
    ],
)
def test_a_filter_that_cannot_be_used_says_why(rows, text, reason, says):
    with pytest.raises(QueryError) as caught:
        parse_filter(text, make_fields(rows.properties))
    assert caught.value.reason == reason
    assert says in str(caught.value)
