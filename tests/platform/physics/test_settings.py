"""Axes and origins: all rotations of a lattice, and the one setting whose low waves score highest."""

from __future__ import annotations

import numpy as np
import pytest

from crystalign.physics.settings import best_setting, lattice_point_group, proper_rotations, rarest_sites
from crystalign.physics.symmetry import standard_axes
from crystalign.physics.voxels import change_cell, coefficients_at, spectrum_of

HEXAGONAL = np.array([[1.0, 0, 0], [-0.5, np.sqrt(3) / 2, 0], [0, 0, 1.6]])
FCC = np.ones((3, 3)) - np.eye(3)
TRICLINIC = np.array([[4.1, 0.0, 0.0], [0.7, 5.2, 0.0], [-0.9, 1.1, 6.3]])
ORDERS = [(48, FCC), (24, HEXAGONAL), (16, np.diag([3.0, 3, 4])), (8, np.diag([3.0, 4, 5])), (2, TRICLINIC)]
ORDERS += [(16, np.diag([2.0, 2, 90])), (24, HEXAGONAL * [[2.46], [2.46], [37.5]]), (12, FCC + 0.2)]


@pytest.mark.parametrize(("order", "lattice"), ORDERS)
@pytest.mark.parametrize("shear", [np.eye(3), [[1, 0, 0], [0, 1, 0], [3, -2, 1]], [[1, 2, 0], [0, 1, 0], [0, -1, 1]]])
def test_lattices_have_the_point_groups_of_the_textbook_in_any_axes(order, lattice, shear):
    cell = np.array(shear) @ lattice
    group = lattice_point_group(cell)
    assert len(np.unique(group, axis=0)) == len(group) == order
    turned = group @ cell
    np.testing.assert_allclose(turned @ turned.transpose(0, 2, 1), np.tile(cell @ cell.T, (order, 1, 1)), atol=1e-9)
    proper = proper_rotations(cell)
    assert len(proper) == order // 2
    np.testing.assert_allclose(np.linalg.det(proper), 1.0)


def test_the_setting_that_is_kept_scores_highest_of_all_densities():
    """Against the densities themselves: each is made, transformed and summed on its own."""
    rng = np.random.default_rng(0)
    rho, turns, origins = rng.random((11, 11, 11)), proper_rotations(HEXAGONAL), rng.random((3, 3))
    spectrum = spectrum_of(rho)
    best, origin = best_setting(turns, origins, lambda waves: coefficients_at(spectrum, waves))
    waves = [h for h in np.ndindex(11, 11, 11) if tuple(np.array(h) - 5) > (0, 0, 0)]
    waves = np.array(waves) - 5
    weights = np.exp(1j * np.arange(1, len(waves) + 1) ** 2)

    def score(turn, place):
        made = np.fft.fftn(change_cell(rho, turn.T, 33, place)) / 33**3
        return float((weights * made[tuple(waves.T)]).sum().real)

    scores = {(turn.tobytes(), tuple(place)): score(turn, place) for turn in turns for place in origins}
    assert max(scores, key=scores.__getitem__) == (best.tobytes(), tuple(origin))
    assert len({round(value, 9) for value in scores.values()}) == len(turns) * len(origins)


def test_origins_lie_on_the_rarest_kind():
    assert rarest_sites(np.array([8, 8, 22, 38, 8])).tolist() == [False, False, True, False, False]
    assert rarest_sites(np.array([14, 14])).all()


def test_copies_of_a_site_in_a_supercell_are_one_origin_at_their_mean(textbook, transform):
    """Ten thousandths of an ångström between the copies: the origin lies in the middle, whatever the order."""
    from crystalign.crystal import Crystal

    double = transform(textbook["TiO2"], [[1, 0, 0], [0, 1, 0], [0, 0, 2]])
    chosen = int(np.flatnonzero(double.atomic_numbers == 22)[0])
    moved = double.frac_coords.copy()
    moved[chosen] += [0.001, 0, 0] / np.linalg.norm(double.lattice[0])
    shifted, plain = (
        standard_axes(Crystal(double.lattice, x, double.atomic_numbers)) for x in (moved, double.frac_coords)
    )
    assert len(plain.origins) == 2
    apart = (shifted.origins @ shifted.linear.T - plain.origins @ plain.linear.T) @ double.lattice
    np.testing.assert_allclose(sorted(np.linalg.norm(apart, axis=1)), [0.0, 0.0005], atol=1e-9)
