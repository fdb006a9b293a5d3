"""Names, numbers and texts of filters that need a rule of their own."""

from __future__ import annotations

import time

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from both_ways import selected
from crystalign.errors import QueryError
from crystalign.index.filters import MAX_FILTER_LENGTH, compile_filter, make_fields, parse_filter


def table(**columns):
    """Rows with the columns that a test asks about."""
    return pa.table(columns)


FIELDS = make_fields(())
SYSTEMS = table(chemsys=["Fe-O", "Fe-O-Ti", "Na-Cl"])
MADE = table(formula=["Fe2O3", "O3Ti2", "FeO3", "AlO3Y", "C", "Al2O3", "BaO3Ti"], nelements=[2, 2, 2, 3, 1, 2, 3])
NAMED = table(id=['a"b', "a\\b", "", "ab", "ä"], remarks=pa.array([None, "no H", None, "", None], pa.string()))


def allowed(rows, text):
    return selected(rows, text, FIELDS).tolist()


@pytest.mark.parametrize("system", ["Fe-O", "O-Fe", "O-Fe-O"])
def test_a_chemical_system_may_be_written_in_any_order(system):
    assert allowed(SYSTEMS, f'_crystalign_chemsys="{system}"') == [True, False, False]
    assert allowed(SYSTEMS, f'"{system}" != _crystalign_chemsys') == [False, True, True]


@pytest.mark.parametrize(
    ("formula", "rows"),
    [("A3B2", [0, 1, 5]), ("A2B3", [0, 1, 5]), ("A6B4", [0, 1, 5]), ("A3B", [2]), ("A3BC", [3, 6]), ("A", [4])],
)
def test_an_anonymous_formula_finds_every_compound_of_its_ratio(formula, rows):
    assert allowed(MADE, f'chemical_formula_anonymous="{formula}"') == [i in rows for i in range(7)]
    assert allowed(MADE, f'chemical_formula_anonymous!="{formula}"') == [i not in rows for i in range(7)]


def test_anonymous_formulas_of_many_elements_are_found_or_refused():
    rows = table(formula=["AlBCFHNO2S2", "AlBCFHNO2S3", "B5C4F3H2N2OSi"], nelements=[8, 8, 7])
    assert allowed(rows, 'chemical_formula_anonymous="A2B2CDEFGH"') == [True, False, False]
    assert allowed(rows, 'chemical_formula_anonymous="A6B5C4D3E2F"') == [False] * 3
    assert allowed(rows, 'chemical_formula_anonymous="A5B4C3D2E2FG"') == [False, False, True]
    assert allowed(rows, f'chemical_formula_anonymous="{"ABCDEFGHIJKLMNOPQRSTUVWXYZ"}Aa"') == [False] * 3
    with pytest.raises(QueryError, match="6 different amounts"):
        parse_filter('chemical_formula_anonymous="A9B8C7D6E5F4G3"', FIELDS)


def test_every_crystal_has_three_periodic_dimensions():
    assert allowed(NAMED, "nperiodic_dimensions=3") == [True] * 5
    assert allowed(NAMED, "2>=nperiodic_dimensions OR nperiodic_dimensions IS UNKNOWN") == [False] * 5


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("_exmpl_bandgap<2", []),
        ("NOT _exmpl_bandgap<2", []),
        ("_exmpl_bandgap IS UNKNOWN", range(5)),
        ("_exmpl_bandgap IS KNOWN", []),
        ('_exmpl1_a<2 OR id="ab"', [3]),
        ('_mp_stability.gga_gga+u_r2scan<0.05 OR id="ab"', [3]),
        ('_exmpl_list HAS ANY "x" OR _exmpl_list LENGTH 2', []),
        ('_exmpl_a:_exmpl_b HAS "x":3', []),
    ],
)
def test_names_of_other_providers_are_unknown_and_said_to_be(text, rows):
    found = compile_filter(text, FIELDS)
    assert selected(NAMED, text, FIELDS).tolist() == [i in rows for i in range(5)]
    assert all("is not known here" in warning for warning in found.warnings)
    assert len(found.warnings) >= 1


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("_crystalign_chemsis='Fe'", "double quotes"),
        ('_crystalign_chemsis="Fe-O"', "_crystalign_chemsys"),
        ("n_sites>1", "nsites"),
        ("nelement>1", "nelements"),
        ('chemical_formula="O"', "chemical_formula_reduced"),
        ("species.mass>1", "The fields are"),
        ("_x=1", "no field '_x'"),
        ("_crystalign_=1", "Did you mean _crystalign"),
    ],
)
def test_our_own_unknown_names_are_refused_with_near_ones(text, near):
    with pytest.raises(QueryError, match=near):
        parse_filter(text, FIELDS)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("elements LENGTH 99999999999999999999", "whole number"),
        ("elements LENGTH 2.5", "whole number"),
        ('elements LENGTH "2"', "whole number"),
        ("elements LENGTH 1e400", "too large"),
        ("nsites=1e400", "too large"),
        ("nsites>-1e400", "too large"),
        ("nsites=99999999999999999999", "smaller number"),
        ("nsites<1e-400", "too small"),
        ("nperiodic_dimensions<1e300", "smaller number"),
        ("nsites=" + "9" * 1000, "too large"),
        ('chemical_formula_reduced="Na0"', "amount 0"),
        ('chemical_formula_reduced="nacl"', "NaCl"),
        ('chemical_formula_reduced="Fe-O"', "_crystalign_chemsys"),
        ('id="\ud800"', "U\\+D800"),
        ("\udfff", "U\\+DFFF"),
        ('_crystalign_chemsys="Fe-Xx"', "Xx"),
        ('_crystalign_chemsys=""', "not an element"),
        ('chemical_formula_anonymous="Fe2O3"', "A3B2"),
        ('chemical_formula_anonymous="A0"', "A3B2"),
        ('chemical_formula_anonymous CONTAINS "A"', "= and !="),
        ('chemical_formula_anonymous>"A"', "= and !="),
        ("nsites=nelements", "not to the field nelements"),
        ("id CONTAINS id", "not to the field id"),
        ("nsites=TRUE", "TRUE is a boolean"),
        ("elements HAS ALL", "ends too early"),
        ('elements HAS ONLY < "O"', "not supported"),
        ('elements HAS ANY STARTS WITH "O"', "not supported"),
        ("NOT NOT nsites>1", "character 5"),
        ("nsites>1 AND AND nsites>2", "character 14"),
        ("nsites>>1", "character 8"),
        ('id="a\\b"', "not an OPTIMADE filter"),
        ('id="a', "not an OPTIMADE filter"),
        ("nsites>1)", "character 9"),
        ("((nsites>1)", "ends too early"),
    ],
)
def test_a_filter_that_nobody_can_answer_is_refused_with_the_reason(text, says):
    with pytest.raises(QueryError, match=says):
        parse_filter(text, FIELDS)


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        (r'id="a\"b"', [0]),
        (r'id="a\\b"', [1]),
        (r'id CONTAINS "\\"', [1]),
        ('id CONTAINS ""', [0, 1, 2, 3, 4]),
        ('id STARTS ""', [0, 1, 2, 3, 4]),
        ('id=""', [2]),
        ('id>="ab"', [3, 4]),
        ('_crystalign_remarks CONTAINS ""', [1, 3]),
        ('NOT _crystalign_remarks CONTAINS "H"', [3]),
        ("_crystalign_remarks IS UNKNOWN", [0, 2, 4]),
        ('NOTid="ab"AND id CONTAINS"a"', [0, 1]),
        ('id="ä"', [4]),
    ],
)
def test_texts_are_compared_character_by_character(text, rows):
    assert allowed(NAMED, text) == [i in rows for i in range(5)]


def test_a_formula_with_decimals_finds_the_crystal_with_mixed_sites():
    rows = table(formula=["Fe189O200", "La7Mn10O30Sr3", "AuCu3"])
    for i, formula in enumerate(["Fe0.945O", "(La0.7Sr0.3)MnO3", "Cu0.75Au0.25"]):
        assert allowed(rows, f'chemical_formula_reduced="{formula}"') == [i == j for j in range(3)]


def test_how_a_formula_was_read_is_said():
    assert compile_filter('chemical_formula_reduced="CuSO4.5H2O"', FIELDS).warnings == (
        "CuSO4.5H2O: read as CuSO4·5H2O",
    )


@pytest.mark.parametrize(
    ("text", "stored", "instead"),
    [
        ('_crystalign_chemsys CONTAINS "Ti-O"', "as in O-Ti for Ti-O", 'elements HAS ALL "O","Ti"'),
        ('_crystalign_chemsys ENDS WITH "O"', "as in O-Ti for Ti-O", 'elements HAS ALL "O"'),
        ('chemical_formula_reduced STARTS WITH "Ti"', "as in O2Ti for TiO2", 'elements HAS ALL "Ti"'),
        ('chemical_formula_reduced CONTAINS "TiO2"', "as in O2Ti for TiO2", 'elements HAS ALL "O","Ti"'),
        ('chemical_formula_reduced CONTAINS "2"', "as in O2Ti for TiO2", ""),
    ],
)
def test_the_stored_order_is_said_where_a_piece_of_a_formula_is_asked(text, stored, instead):
    (warning,) = compile_filter(text, FIELDS).warnings
    assert stored in warning
    assert warning.endswith(instead or "TiO2")


def test_pieces_of_other_texts_need_no_word_about_an_order():
    assert compile_filter('id CONTAINS "Ti-O" OR _crystalign_prototype STARTS WITH "Ti"', FIELDS).warnings == ()


def test_many_warnings_are_counted():
    warnings = compile_filter(" OR ".join(f"_exmpl_a{n}=1" for n in range(50)), FIELDS).warnings
    assert len(warnings) == 9
    assert warnings[-1] == "and 42 more of the kind"


COSTLY = ['id CONTAINS "a{}"', 'chemical_formula_anonymous="A{}B"', 'id<"{}"', 'chemical_formula_reduced="Fe0.{}O"']


@pytest.mark.parametrize("leaf", COSTLY)
def test_filters_that_cost_too_much_are_refused(leaf):
    text = " OR ".join(leaf.format(n) for n in range(2, 100))[:MAX_FILTER_LENGTH].rpartition(" OR ")[0]
    with pytest.raises(QueryError, match="too many comparisons") as caught:
        parse_filter(text, FIELDS)
    assert caught.value.reason == "filter-too-costly"
    parse_filter(" OR ".join(leaf.format(n) for n in range(2, 7)), FIELDS)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.text(max_size=200) | st.text('()" ANDORT<=>nsites1"\\', max_size=200))
def test_any_text_is_a_filter_or_a_query_error_at_once(text):
    started = time.perf_counter()
    try:
        parse_filter(text, FIELDS)
    except QueryError as error:
        str(error).encode()
    assert time.perf_counter() - started < 5
