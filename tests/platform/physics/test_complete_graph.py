from __future__ import annotations

import numpy as np

from crystalign.crystal import Crystal
from crystalign.physics.complete_graph import complete_graph, image_classes
from crystalign.physics.ewald import lattice_sums


def _table(crystal):
    """Sorted rows (receiver, sender, sums) by species."""
    graph, z = complete_graph(crystal), crystal.atomic_numbers.astype(float)
    rows = np.column_stack([z[graph.receivers], z[graph.senders], graph.sums])
    return rows[np.lexsort(rows.round(6).T[::-1])]


def test_a_primitive_cell_has_every_ordered_pair(known):
    n, graph = len(known), complete_graph(known)
    assert sorted(zip(graph.senders, graph.receivers, strict=True)) == [(i, j) for i in range(n) for j in range(n)]
    expected = lattice_sums(known.lattice, known.frac_coords)
    np.testing.assert_array_equal(graph.sums, expected[graph.receivers, graph.senders])
    assert (np.diff(graph.receivers) >= 0).all()


def test_a_supercell_has_the_sums_of_the_primitive_cell(known, cell, transform):
    other = transform(known, cell)
    times = len(other) // len(known)
    np.testing.assert_allclose(_table(other), np.repeat(_table(known), times, axis=0), atol=1e-9)


def test_sites_are_copies_only_where_every_site_is_mapped(textbook, transform):
    rock_salt = transform(textbook["NaCl"], [[2, 0, 0], [0, 1, 0], [0, 0, 1]])
    classes = image_classes(rock_salt)
    assert sorted(np.bincount(classes, minlength=4).tolist()) == [0, 0, 2, 2]
    moved = rock_salt.frac_coords.copy()
    moved[0] += 0.02
    numbers = rock_salt.atomic_numbers
    np.testing.assert_array_equal(image_classes(Crystal(rock_salt.lattice, moved, numbers)), np.arange(4))
    sites = tuple(((int(z), 1.0 - 0.1 * (i == 3)),) for i, z in enumerate(numbers))
    mixed = Crystal(rock_salt.lattice, rock_salt.frac_coords, numbers, sites)
    np.testing.assert_array_equal(image_classes(mixed), np.arange(4))
    noise = 1e-4 * np.random.default_rng(0).random((4, 3))
    noisy = Crystal(rock_salt.lattice, rock_salt.frac_coords + noise, numbers)
    np.testing.assert_array_equal(image_classes(noisy), classes)


def test_a_large_supercell_of_one_atom_is_one_class(textbook, transform):
    copper = transform(textbook["Cu"], 5 * np.eye(3, dtype=int))
    assert image_classes(copper).tolist() == [0] * 125
