"""Hydrogen bonds and contacts between molecules are no bonds; everything else is as CrystalNN says."""

from __future__ import annotations

import numpy as np
import pytest

from crystalign.crystal import Crystal
from crystalign.physics.coordination import bonds

FAR = 30.0 * np.eye(3)


def bonded_pairs(positions: list[list[float]], numbers: list[int]) -> set[tuple[int, int]]:
    crystal = Crystal(FAR, (np.array(positions) + 15.0) / 30.0, np.array(numbers))
    found = bonds(crystal)
    ends = np.sort(np.stack([found.near.receivers, found.near.senders])[:, found.bonded], axis=0).T.tolist()
    return {(a, b) for a, b in ends}


@pytest.mark.parametrize(("far", "count"), [(1.0, 2), (1.15, 2), (1.35, 1), (1.55, 1), (1.75, 1)])
def test_a_hydrogen_bond_is_no_bond_but_a_shared_proton_has_two(far, count):
    pairs = bonded_pairs([[-1.0, 0, 0], [0, 0, 0], [far, 0.0, 0.0]], [8, 1, 8])
    assert len({pair for pair in pairs if 1 in pair}) == count


@pytest.mark.parametrize(("far", "count"), [(2.9, 2), (3.1, 2), (3.3, 1), (3.5, 1)])
def test_a_contact_of_iodine_molecules_is_no_bond_but_polyiodides_have_bonds(far, count):
    assert len(bonded_pairs([[-2.8, 0, 0], [0, 0, 0], [far, 0.0, 0.0]], [53, 53, 53])) == count


def test_long_bonds_to_another_element_stay():
    """Antimony has three short and three long bonds to iodine in SbI3; both kinds count, as in CrystalNN."""
    short, long = 2.9 * np.eye(3), -3.35 * np.eye(3)
    assert len(bonded_pairs([[0, 0, 0], *short.tolist(), *long.tolist()], [51, *[53] * 6])) == 6


def test_what_is_taken_away_is_taken_away_in_both_directions(textbook):
    for crystal in textbook.values():
        found = bonds(crystal)
        n = np.bincount(found.near.receivers[found.bonded], minlength=len(crystal))
        assert n.tolist() == np.bincount(found.near.senders[found.bonded], minlength=len(crystal)).tolist()
