from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from crystalign.crystal import Crystal
from crystalign.errors import CrystalError
from crystalign.physics import neighbours

A_ZNO = 3.25
FIRST_SHELLS = {
    ("Cu", 29): (12, {29: 12}, 3.61 / np.sqrt(2)),
    ("NaCl", 11): (6, {17: 6}, 2.82),
    ("NaCl", 17): (6, {11: 6}, 2.82),
    ("Si", 14): (4, {14: 4}, 5.431 * np.sqrt(3) / 4),
    ("CsCl", 55): (8, {17: 8}, 4.12 * np.sqrt(3) / 2),
    ("ZnO", 30): (4, {8: 4}, A_ZNO * np.sqrt(3 / 8)),
    ("SrTiO3", 22): (6, {8: 6}, 3.905 / 2),
    ("SrTiO3", 38): (12, {8: 12}, 3.905 / np.sqrt(2)),
}


@pytest.mark.parametrize(("name", "z"), FIRST_SHELLS)
def test_first_shells_are_those_of_the_textbook(textbook, name, z):
    crystal = textbook[name]
    count, partners, distance = FIRST_SHELLS[name, z]
    found = neighbours(crystal, cutoff=8.0, k=count)
    for site in np.flatnonzero(crystal.atomic_numbers == z):
        mine = found.receivers == site
        assert mine.sum() == count
        assert Counter(crystal.atomic_numbers[found.senders[mine]].tolist()) == partners
        np.testing.assert_allclose(found.distances[mine], distance, rtol=1e-9)


def test_rutile_has_four_and_two_oxygens_around_titanium(textbook):
    found = neighbours(textbook["TiO2"], cutoff=8.0, k=6)
    lengths = found.distances[found.receivers == 0]
    apical = 0.305 * np.sqrt(2) * 4.594
    equatorial = np.hypot((0.5 - 0.305) * np.sqrt(2) * 4.594, 2.959 / 2)
    np.testing.assert_allclose(lengths, sorted([apical] * 2 + [equatorial] * 4), rtol=1e-9)


def test_every_image_is_an_edge_with_its_own_length(known):
    found = neighbours(known, cutoff=8.0, k=12)
    cart = known.cart_coords
    vectors = cart[found.senders] + found.images @ known.lattice - cart[found.receivers]
    np.testing.assert_allclose(found.vectors, vectors, atol=1e-9)
    np.testing.assert_allclose(found.distances, np.linalg.norm(vectors, axis=1), atol=1e-9)
    edges = np.column_stack([found.senders, found.receivers, found.images])
    assert len(np.unique(edges, axis=0)) == len(edges)
    assert found.distances.min() > 1.0
    assert (np.diff(found.receivers) >= 0).all()
    assert (np.diff(found.distances)[np.diff(found.receivers) == 0] >= 0).all()


def test_all_pairs_within_the_cutoff_are_found(known):
    cutoff = 5.0
    found = neighbours(known, cutoff=cutoff)
    shifts = np.stack(np.meshgrid(*[np.arange(-4, 5)] * 3, indexing="ij"), -1).reshape(-1, 3)
    cart = known.cart_coords
    every = np.linalg.norm(cart[None, :, None] + (shifts @ known.lattice)[None, None] - cart[:, None, None], axis=-1)
    expected = np.sort(every[(every > 1e-6) & (every < cutoff)])
    np.testing.assert_allclose(np.sort(found.distances), expected, atol=1e-9)


def _multiset(crystal: Crystal, k: int | None) -> Counter:
    found = neighbours(crystal, cutoff=5.3, k=k)
    z = crystal.atomic_numbers
    return Counter(zip(z[found.receivers].tolist(), z[found.senders].tolist(), found.distances.round(5), strict=True))


@pytest.mark.parametrize("k", [None, 12])
def test_another_cell_has_the_same_distances(known, cell, transform, k):
    other = transform(known, cell)
    times = len(other) // len(known)
    assert _multiset(other, k) == Counter({edge: times * n for edge, n in _multiset(known, k).items()})


def test_a_shell_is_never_cut(textbook):
    for k in (1, 7, 12):
        assert len(neighbours(textbook["Cu"], cutoff=8.0, k=k).distances) == 12
    assert len(neighbours(textbook["Cu"], cutoff=8.0, k=13).distances) == 18


def test_an_isolated_atom_keeps_its_nearest_images_however_far():
    lonely = Crystal(np.diag([30.0, 31.0, 32.0]), np.zeros((1, 3)), np.array([10]))
    found = neighbours(lonely, cutoff=8.0, k=12)
    np.testing.assert_allclose(found.distances, [30.0, 30.0])


def test_an_atom_far_from_a_cluster_gets_an_edge_and_the_cluster_no_far_ones():
    crystal = Crystal(30.0 * np.eye(3), np.array([[0, 0, 0], [0.1, 0, 0], [0.5, 0.5, 0.5]]), np.array([1, 1, 2]))
    found = neighbours(crystal, cutoff=8.0, k=12)
    assert Counter(found.receivers.tolist()) == {0: 1, 1: 1, 2: 4}
    assert found.distances[found.receivers < 2].max() == pytest.approx(3.0)


def test_a_site_without_neighbours_in_the_radius_is_an_error():
    lonely = Crystal(30.0 * np.eye(3), np.zeros((1, 3)), np.array([10]))
    with pytest.raises(CrystalError, match=r"no neighbour within 8\.0 Å") as caught:
        neighbours(lonely, cutoff=8.0)
    assert caught.value.reason == "no-neighbours"


def test_a_needle_cell_is_no_trouble():
    needle = Crystal(np.diag([2.0, 2.0, 90.0]), np.array([[0, 0, 0], [0, 0, 0.5]]), np.array([26, 26]))
    found = neighbours(needle, cutoff=8.0, k=12)
    assert Counter(found.receivers.tolist()) == {0: 12, 1: 12}
    np.testing.assert_allclose(found.distances[:12], [2.0] * 4 + [np.sqrt(8)] * 4 + [4.0] * 4)
    assert (found.images[:, 2] == 0).all()


def test_five_hundred_atoms_have_twelve_neighbours_each():
    grid = np.stack(np.meshgrid(*[np.arange(5)] * 3, indexing="ij"), -1).reshape(-1, 3)
    frac = np.concatenate([(grid + shift) / 5 for shift in ([0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0])])
    found = neighbours(Crystal(5 * 3.61 * np.eye(3), frac, np.full(500, 29)), cutoff=8.0, k=12)
    assert (np.bincount(found.receivers) == 12).all()
