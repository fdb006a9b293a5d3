"""Substitution: probabilities as published, balanced charges, volumes as by pymatgen, no crystal twice."""

from __future__ import annotations

import functools
import itertools
import json
import warnings
from collections import Counter
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Composition

from crystalign.crystal import SYMBOLS, Crystal, reduced_formula
from crystalign.material import Provenance
from crystalign.periodic import pairs_within
from crystalign.physics.bond_radii import bond_radii, bond_radius, closest_contact
from crystalign.physics.symmetry import symmetry
from crystalign.substitution.charge_balance import is_balanced
from crystalign.substitution.family import VOLUME_CHANGE, Family, Parent, Unit
from crystalign.substitution.probabilities import (
    cumulative_probabilities,
    replaceable_elements,
    replacement_probabilities,
)

pytest.importorskip("smact", reason="the extra `enumerate` is not installed")

Z = {symbol: z for z, symbol in enumerate(SYMBOLS)}
SOURCE = Provenance("known", "CC-BY-4.0", "2026")


def rock_salt(cation: str, anion: str, edge: float) -> Crystal:
    half = np.array([[0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]]) * edge
    return Crystal(half, np.array([[0.0] * 3, [0.5] * 3]), np.array([Z[cation], Z[anion]]))


def perovskite(a: str, b: str, x: str, edge: float) -> Crystal:
    frac = [[0.5] * 3, [0.0] * 3, [0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.5]]
    return Crystal(np.eye(3) * edge, np.array(frac), np.array([Z[a], Z[b], Z[x], Z[x], Z[x]]))


PEROVSKITES = [
    perovskite(*args)
    for args in (("Sr", "Ti", "O", 3.90), ("Ba", "Zr", "O", 4.19), ("Cs", "Pb", "Br", 5.99), ("K", "Mg", "F", 4.00))
]


def family(crystals: list[Crystal], known: set[str] = frozenset()) -> Family:
    found = symmetry(crystals[0])
    parents = [Parent(f"p{n}", crystal, found.number, SOURCE) for n, crystal in enumerate(crystals)]
    assert found.prototype is not None
    return Family(found.prototype, parents, known | {crystal.formula for crystal in crystals})


@pytest.fixture(scope="module")
def children():
    """Three hundred children of four perovskites, and their parents by id."""
    return family(PEROVSKITES).children(300, [0, 0]), {f"p{n}": c for n, c in enumerate(PEROVSKITES)}


# --- probabilities --------------------------------------------------------------------------------------------------


def test_the_probabilities_follow_from_the_published_strengths():
    from pymatgen.core import Species

    table = resources.files("pymatgen.core") / "structure_prediction" / "data" / "lambda.json"
    rows = json.loads(table.read_text(encoding="utf-8"))
    weights: Counter[str] = Counter()
    for one, other, strength in rows:
        if "D1+" in (one, other) or strength <= -5:
            continue
        a, b = Species.from_str(one), Species.from_str(other)
        if a.symbol == b.symbol or a.oxi_state != b.oxi_state or "Sr" not in {a.symbol, b.symbol}:
            continue
        partner = b.symbol if a.symbol == "Sr" else a.symbol
        if bond_radius(Z[partner]) is not None:
            weights[partner] += np.exp(strength)
    row = replacement_probabilities()[Z["Sr"]]
    assert {s: pytest.approx(w / weights.total(), rel=1e-12) for s, w in weights.items()} == {
        SYMBOLS[z]: p for z, p in enumerate(row) if p
    }
    assert weights.most_common(1)[0][0] in {"Ba", "Ca", "Eu"}


def test_every_row_adds_up_and_never_replaces_an_element_by_itself():
    table = replacement_probabilities()
    some = sorted(replaceable_elements())
    assert table[some].sum(axis=1) == pytest.approx(1)
    assert not np.diagonal(table).any()
    assert len(some) > 80


@pytest.mark.parametrize("draw", [0.0, 0.5, 1.0 - 2**-53])
def test_a_draw_always_gives_an_element_that_may_replace_the_old_one(draw):
    for z in replaceable_elements():
        drawn = int((cumulative_probabilities()[z] <= draw).sum())
        assert replacement_probabilities()[z, drawn] > 0


# --- what a child is ------------------------------------------------------------------------------------------------


@functools.cache
def oxidation_states() -> dict[str, list[int]]:
    """Element → oxidation states that the ICSD reports at least three times, from SMACT's table of counts."""
    import smact

    rows = json.loads((Path(smact.data_directory) / "oxidation_states_icsd24_counts.json").read_text())
    states: dict[str, list[int]] = {}
    for row in rows:
        if row["results_count"] >= 3 and row["oxidation_state"]:
            states.setdefault(row["element"], []).append(int(row["oxidation_state"]))
    return states


def neutral_by_hand(crystal: Crystal) -> bool:
    """Whether some choice of one oxidation state per element is neutral, straight from the definition."""
    counts = crystal.composition
    states = [oxidation_states()[SYMBOLS[z]] for z in counts]
    return any(
        sum(q * n for q, n in zip(choice, counts.values(), strict=True)) == 0 for choice in itertools.product(*states)
    )


def test_every_child_is_neutral_by_an_independent_sum(children):
    made, _ = children
    anions = {8, 9, 16, 17, 34, 35, 53}
    with_anions = [child.crystal for child in made if anions & set(child.crystal.composition)]
    assert len(with_anions) > 200
    assert all(neutral_by_hand(crystal) for crystal in with_anions)


@pytest.mark.parametrize(
    ("formula", "accepted"), [("ClNa", True), ("Cl2Na", False), ("O3SrTi", True), ("F3Na", False), ("AlNi", True)]
)
def test_salts_must_be_neutral_and_alloys_need_not(formula, accepted):
    assert is_balanced(dict(zip(*numbers_of(formula), strict=True))) is accepted


def numbers_of(formula: str) -> tuple[list[int], list[int]]:
    amounts = Composition(formula)
    return [element.Z for element in amounts], [int(n) for n in amounts.values()]


def test_the_answer_is_that_of_smact():
    """For random compositions of two to five elements, and two where SMACT alone would take long."""
    from smact.screening import smact_validity

    rng = np.random.default_rng(0)
    some, answers = sorted(replaceable_elements()), []
    for _ in range(600):
        elements = rng.choice(some, int(rng.integers(2, 6)), replace=False).tolist()
        counts = rng.integers(1, 5, len(elements)).tolist()
        composition = dict(zip(elements, counts, strict=True))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = smact_validity(reduced_formula(composition))
        assert is_balanced(composition) is expected, composition
        answers.append(expected)
    assert 100 < sum(answers) < 500


def test_many_elements_with_many_states_are_decided_all_the_same():
    metals = ("Mn", "Fe", "V", "Cr", "Mo", "Re", "Ru")
    assert is_balanced({Z["O"]: 12} | {Z[symbol]: 1 for symbol in metals})
    assert not is_balanced({Z["O"]: 1, Z["F"]: 40} | {Z[symbol]: 1 for symbol in metals[:4]})


def test_a_child_is_its_parent_with_other_elements_and_another_volume(children):
    made, parents = children
    assert len(made) == 300
    for child in made:
        parent = parents[child.provenance.reference.split()[1]]
        np.testing.assert_array_equal(child.crystal.frac_coords, parent.frac_coords)
        ratio = child.crystal.lattice / np.where(parent.lattice == 0, 1, parent.lattice)
        assert np.ptp(ratio[parent.lattice != 0]) < 1e-12
        assert 1 / VOLUME_CHANGE <= child.crystal.volume / parent.volume <= VOLUME_CHANGE
        assert child.provenance.hypothetical
        assert child.provenance.licence == "CC-BY-4.0"
        pairs = {(int(a), int(b)) for a, b in zip(parent.atomic_numbers, child.crystal.atomic_numbers, strict=True)}
        assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})
        named = {f"{SYMBOLS[a]}→{SYMBOLS[b]}" for a, b in pairs if a != b}
        assert named
        assert named <= set(child.provenance.reference.replace(",", " ").split())


def test_a_child_has_the_space_group_and_the_prototype_it_states(children):
    for child in children[0][::10]:
        found = symmetry(child.crystal)
        assert (found.number, found.prototype) == (child.spacegroup_number, child.prototype)


def test_no_child_occurs_twice_or_is_known_already(children):
    made, parents = children
    formulas = [child.crystal.formula for child in made]
    assert len(set(formulas)) == len(formulas)
    assert not {parent.formula for parent in parents.values()} & set(formulas)
    assert len({child.id for child in made}) == len(made)
    again = family(PEROVSKITES, known=set(formulas[:150])).children(300, [0, 0])
    assert not set(formulas[:150]) & {child.crystal.formula for child in again}


# --- volume ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("crystal", [*PEROVSKITES, rock_salt("Na", "Cl", 5.64), rock_salt("Ti", "C", 4.33)])
def test_the_closest_contact_is_that_of_pymatgen(crystal):
    from pymatgen.analysis.structure_prediction.volume_predictor import DLSVolumePredictor

    predictor = DLSVolumePredictor(min_scaling=None, max_scaling=None)
    expected = (predictor.predict(crystal.to_pymatgen()) / crystal.volume) ** (1 / 3)
    pairs = pairs_within(crystal.lattice, crystal.cart_coords, 7.0)
    distances = np.full((len(crystal), len(crystal)), np.inf)
    np.minimum.at(distances, (pairs.senders, pairs.receivers), pairs.distances)
    assert closest_contact(bond_radii(crystal.atomic_numbers), distances) == pytest.approx(expected, rel=1e-9)


def test_the_volume_of_a_child_follows_from_pymatgens_prediction_for_both(children):
    from pymatgen.analysis.structure_prediction.volume_predictor import DLSVolumePredictor

    predictor = DLSVolumePredictor(min_scaling=None, max_scaling=None)
    made, parents = children
    for child in made[::25]:
        parent = parents[child.provenance.reference.split()[1]]
        on_parent = Crystal(parent.lattice, parent.frac_coords, child.crystal.atomic_numbers)
        ratio = predictor.predict(on_parent.to_pymatgen()) / predictor.predict(parent.to_pymatgen())
        assert child.crystal.volume == pytest.approx(parent.volume * ratio, rel=1e-9)


def test_larger_ions_make_a_larger_cell():
    salts = {c.crystal.formula: c.crystal for c in family([rock_salt("Na", "Cl", 5.64)]).children(200, [0, 0])}
    assert salts["ClLi"].volume < rock_salt("Na", "Cl", 5.64).volume < salts["ClRb"].volume
    assert salts["ClRb"].lattice[0, 1] * 2 == pytest.approx(6.58, rel=0.08)  # Å, as measured


# --- who makes what -------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_children_and_another_seed_others():
    first, again, other = (family(PEROVSKITES).children(50, seed) for seed in ([0, 0], [0, 0], [1, 0]))
    assert [c.id for c in first] == [c.id for c in again]
    assert all(np.array_equal(a.crystal.lattice, b.crystal.lattice) for a, b in zip(first, again, strict=True))
    assert {c.id for c in first} != {c.id for c in other}


def test_the_units_of_a_family_share_its_children_without_overlap():
    parts = [family(PEROVSKITES).children(60, [0, 0], Unit(n, 3)) for n in range(3)]
    formulas = [{child.crystal.formula for child in part} for part in parts]
    assert [len(part) for part in parts] == [60] * 3
    assert len(set.union(*formulas)) == 180


def test_an_exhausted_family_says_so_by_giving_fewer():
    made = family([rock_salt("Na", "Cl", 5.64)]).children(10_000, [0, 0])
    assert 20 < len(made) < 500
    formulas = {child.crystal.formula for child in made}
    assert {"BrNa", "ClK", "FLi"} <= formulas
