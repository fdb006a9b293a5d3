"""Random filters and their one-token deletions, against the rules of OPTIMADE in plain Python.

The evaluator below walks the tree of another parser, that of optimade-python-tools, row by row, and so
shares no code with what it checks.
"""

from __future__ import annotations

import functools
import operator
import re
from math import gcd

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from both_ways import selected
from crystalign.crystal import SYMBOLS
from crystalign.errors import QueryError
from crystalign.index.filters import element_bits, make_fields, parse_filter
from crystalign.properties import PropertySpec, Quantity

GAP = PropertySpec(quantity=Quantity.BAND_GAP, method="pbe", source="mp", vintage="2026")
FIELDS = make_fields([GAP])
FORMULAS = [
    "FeO",
    "Fe2O3",
    "O2Ti",
    "ClNa",
    "C",
    "Fe189O200",
    "BaO3Ti",
    "Fe3O4",
    "Li2O",
    "OZn",
    "Fe",
    "H2O",
    "CO2",
]
COMPARE = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "=": operator.eq,
    "!=": operator.ne,
}
QUICK = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)


def rows():
    made = []
    for i, formula in enumerate([*FORMULAS, *FORMULAS[:6]]):
        counts = {s: int(n or 1) for s, n in re.findall(r"([A-Z][a-z]?)(\d*)", formula)}
        gap = None if i % 4 == 0 else [0.0, 0.5, 1.0, 2.5, -1.0][i % 5]
        made.append(
            {
                "id": ['m-"1"', "m-1", "M-1", "m\\2", "é", "a b", "", "m-10", "zz"][i % 9] + str(i),
                "counts": counts,
                "elements": set(counts),
                "nelements": len(counts),
                "nsites": [1, 2, 3, 10, 100][i % 5],
                "chemical_formula_reduced": formula,
                "space_group_it_number": None if i % 3 == 0 else [1, 62, 225][i % 3],
                "nperiodic_dimensions": 3,
                "_crystalign_chemsys": "-".join(sorted(counts)),
                "_crystalign_remarks": None if i % 2 else 'no "H"',
                "_crystalign_band_gap": gap,
                "_crystalign_band_gap_pbe": gap,
            }
        )
    return made


ROWS = rows()


def table():
    bits = [element_bits(SYMBOLS.index(s) for s in row["elements"]) for row in ROWS]
    take = lambda name: [row[name] for row in ROWS]  # noqa: E731 (read once)
    return pa.table(
        {
            "id": take("id"),
            "formula": take("chemical_formula_reduced"),
            "chemsys": take("_crystalign_chemsys"),
            "n_sites": pa.array(take("nsites"), pa.int32()),
            "spacegroup_number": pa.array(take("space_group_it_number"), pa.int16()),
            "remarks": pa.array(take("_crystalign_remarks"), pa.string()),
            GAP.column: pa.array(take("_crystalign_band_gap"), pa.float64()),
            "elements_low": pa.array([b[0] for b in bits], pa.uint64()),
            "elements_high": pa.array([b[1] for b in bits], pa.uint64()),
            "nelements": pa.array(take("nelements"), pa.int32()),
        }
    )


TABLE = table()


# --- what the specification says, row by row --------------------------------------------------------------------------


@functools.cache
def other_parser():
    from optimade.filterparser import LarkParser

    return LarkParser(version=(1, 2, 0)).lark


def truth(node, row):
    """True, False or None of a tree of optimade-python-tools."""
    kids = node.children
    if node.data == "expression":
        found = [truth(kid, row) for kid in kids]
        return True if True in found else None if None in found else False
    if node.data == "expression_clause":
        found = [truth(kid, row) for kid in kids]
        return False if False in found else None if None in found else True
    if node.data == "expression_phrase":
        inner = truth(kids[-1], row)
        return inner if len(kids) == 1 or inner is None else not inner
    assert node.data == "comparison"
    if kids[0].data == "constant_first_comparison":
        constant, sign, value = kids[0].children
        mirrored = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}
        return compare(name_of(value.children[0]), mirrored.get(str(sign), str(sign)), constant_of(constant), row)
    prop, right = kids[0].children
    return RIGHT[right.data](name_of(prop), right.children, row)


def name_of(node):
    assert node.data == "property", node
    return ".".join(map(str, node.children))


def constant_of(node):
    leaf = node.children[0]
    token = str(leaf.children[0])
    return float(token) if leaf.data == "number" else re.sub(r"\\(.)", r"\1", token[1:-1])


def compare(name, sign, value, row):
    if name == "chemical_formula_anonymous":
        same = counts_of(row["counts"].values()) == counts_of(
            int(n or 1) for n in re.findall(r"[A-Z][a-z]?(\d*)", value)
        )
        return same if sign == "=" else not same
    known = row.get(name)
    if known is None:
        return None
    if sign in {"=", "!="} and name == "chemical_formula_reduced":
        counts = {s: int(n or 1) for s, n in re.findall(r"([A-Z][a-z]?)(\d*)", value)}
        same = counts_of(counts.values(), counts) == counts_of(row["counts"].values(), row["counts"])
        return same if sign == "=" else not same
    if sign in {"=", "!="} and name == "_crystalign_chemsys":
        value = "-".join(sorted(set(value.split("-"))))
    return COMPARE[sign](known, value)


def counts_of(values, names=None):
    """Amounts without a common divisor: sorted, or by element where names are given."""
    values = list(values)
    divisor = gcd(*values)
    reduced = [v // divisor for v in values]
    return dict(zip(names, reduced, strict=True)) if names is not None else sorted(reduced)


def known(name, kids, row):
    there = row.get(name, "made" if name == "chemical_formula_anonymous" else None) is not None
    return there is (str(kids[-1]) == "KNOWN")


def fuzzy(name, kids, row):
    text = row.get(name)
    if text is None:
        return None
    return {"CONTAINS": str.__contains__, "STARTS": str.startswith, "ENDS": str.endswith}[str(kids[0])](
        text, constant_of(kids[-1])
    )


def has(name, kids, row):
    held = row.get(name)
    if held is None:
        return None
    last = kids[-1]
    wanted = {constant_of(value) for value in (last.children if last.data == "value_list" else [last])}
    mode = str(kids[-2]) if len(kids) > 2 else "ALL"
    return {"ALL": wanted <= held, "ANY": bool(wanted & held), "ONLY": held <= wanted}[mode]


def length(name, kids, row):
    held = row.get(name)
    sign = str(kids[1]) if len(kids) > 2 else "="
    return None if held is None else COMPARE[sign](len(held), int(kids[-1].children[0]))


RIGHT = {
    "value_op_rhs": lambda name, kids, row: compare(name, str(kids[0]), constant_of(kids[1]), row),
    "known_op_rhs": known,
    "fuzzy_string_op_rhs": fuzzy,
    "set_op_rhs": has,
    "length_op_rhs": length,
    "set_zip_op_rhs": lambda name, kids, row: None,
}


def expected(text):
    """Which rows the specification lets through; None where the text is no filter."""
    from lark.exceptions import LarkError

    try:
        tree = other_parser().parse(text)
    except LarkError:
        return None
    if len(tree.children) != 1:  # that grammar allows several expressions side by side, the specification one
        return None
    return [truth(tree.children[0], row) is True for row in ROWS]


def ours(text):
    try:
        return selected(TABLE, text, FIELDS).tolist()
    except QueryError:
        return None


# --- random filters ---------------------------------------------------------------------------------------------------

signs = st.sampled_from(list(COMPARE))
numbers = st.sampled_from(["0", "1", "2", "3", "10", "-1", "0.5", "2.5e0", ".5", "+2", "1e2", "99", "225"])
texts = st.sampled_from(["", "m", "m-1", 'm-"1"0', "\\", "M", "é", "a b", "1", "O", "Fe", "zz", "H", '"'])
element = st.sampled_from(["O", "Fe", "Ti", "C", "U", "H", "Og"])


def quoted(text):
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


@st.composite
def leaf(draw):
    number = st.sampled_from(["nelements", "nsites", "space_group_it_number", "nperiodic_dimensions"])
    number = draw(st.one_of(number, st.sampled_from(["_crystalign_band_gap", "_crystalign_band_gap_pbe"])))
    text = draw(st.sampled_from(["id", "_crystalign_remarks", "_crystalign_chemsys", "chemical_formula_reduced"]))
    sign, value = draw(signs), draw(numbers)
    names = [quoted(e) for e in draw(st.lists(element, min_size=1, max_size=3))]
    formula = draw(st.sampled_from(["FeO", "OFe", "TiO2", "Fe4O6", "O3Fe2", "Fe", "NaCl", "Fe189O200", "C2", "H2O"]))
    anonymous = draw(st.sampled_from(["A", "AB", "A2B", "A3B2", "A4B6", "AB2", "A3BC", "A200B189"]))
    system = draw(st.sampled_from(["Fe-O", "O-Fe", "O", "Na-Cl", "Ti-O-Ba"]))
    equal = draw(st.sampled_from(["=", "!="]))
    ordering = draw(st.sampled_from(["<", "<=", ">", ">="]))
    any_name = st.sampled_from([number, text, "id", "chemical_formula_anonymous", "_exmpl_thing"])
    return draw(
        st.sampled_from(
            [
                f"{number} {sign} {value}",
                f"{value} {sign} {number}",
                f"id {sign} {quoted(draw(texts))}",
                f"_crystalign_remarks {sign} {quoted(draw(texts))}",
                f"{quoted(draw(texts))} {sign} id",
                f"{text} {ordering} {quoted(draw(texts))}",
                f"{text} CONTAINS {quoted(draw(texts))}",
                f"{text} STARTS WITH {quoted(draw(texts))}",
                f"{text} ENDS {quoted(draw(texts))}",
                f"{draw(any_name)} IS {draw(st.sampled_from(['KNOWN', 'UNKNOWN']))}",
                f"elements HAS {names[0]}",
                f"elements HAS {draw(st.sampled_from(['ALL', 'ANY', 'ONLY']))} {' , '.join(names)}",
                f"elements LENGTH {draw(st.sampled_from(['', '>=', '<', '!=', '=']))} {draw(st.integers(-1, 4))}",
                f"chemical_formula_reduced {equal} {quoted(formula)}",
                f"chemical_formula_anonymous {equal} {quoted(anonymous)}",
                f"_crystalign_chemsys {equal} {quoted(system)}",
                f"_exmpl_thing {sign} {value}",
                f"_exmpl_thing HAS ANY {names[0]}",
                f"_exmpl_a.b+c CONTAINS {quoted(draw(texts))}",
            ]
        )
    )


def _bracketed(inner):
    return st.one_of(
        st.lists(inner, min_size=2, max_size=4).map(" AND ".join),
        st.lists(inner, min_size=2, max_size=4).map(" OR ".join),
        inner.map("( {} )".format),
        inner.map("NOT ( {} )".format),
        leaf().map("NOT {}".format),
    )


filters = st.recursive(leaf(), _bracketed, max_leaves=8)
TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[a-z_][a-z_0-9+.]*|[A-Z]+|[<>!]?=|[<>]|[+-]?[\d.]+(?:e\d+)?|\S')


@QUICK
@given(filters)
def test_a_random_filter_allows_the_rows_that_the_specification_allows(text):
    assert ours(text) == expected(text) is not None


@QUICK
@given(filters, st.data())
def test_a_filter_that_lost_a_token_is_refused_or_means_what_it_says(text, data):
    tokens = TOKEN.findall(text)
    lost = data.draw(st.integers(0, len(tokens) - 1))
    left = " ".join(tokens[:lost] + tokens[lost + 1 :])
    if (found := ours(left)) is not None:
        assert found == expected(left)


@QUICK
@given(filters, st.data())
def test_tokens_that_change_places_are_refused_or_mean_what_they_say(text, data):
    tokens = TOKEN.findall(text)
    order = data.draw(st.tuples(*[st.integers(0, len(tokens) - 1)] * 2))
    tokens[order[0]], tokens[order[1]] = tokens[order[1]], tokens[order[0]]
    changed = " ".join(tokens)
    if (found := ours(changed)) is not None:
        assert found == expected(changed)


def test_the_oracle_tells_rows_apart():
    kept = [sum(expected(text)) for text in ('elements HAS "O"', "nsites<10", "_crystalign_band_gap<1", 'id < "m"')]
    assert all(0 < n < len(ROWS) for n in kept), kept
    assert len(np.unique([row["id"] for row in ROWS])) == len(ROWS)


@pytest.mark.parametrize("text", ["nelements>0 nelements>100", 'id="a" id="b"', "nsites>1 (nsites>2)"])
def test_conditions_side_by_side_are_refused(text):
    with pytest.raises(QueryError, match="join its conditions with AND or OR"):
        parse_filter(text, FIELDS)
