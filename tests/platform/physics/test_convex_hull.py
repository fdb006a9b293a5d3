"""The lower convex hull of energies: equal to pymatgen's, by facets and by linear programs, whatever the reference."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from crystalign.physics.convex_hull import hull_energies

Floats = NDArray[np.float64]
SYMBOLS = ("Li", "Fe", "P", "O", "Mn", "Co", "Na", "S")


def phases(n: int, count: int, seed: int) -> tuple[Floats, Floats]:
    """(N, n) fractions and (N,) energies of the elements and of phases of small integer formulas."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 5, size=(count, n))
    counts = counts[counts.sum(axis=1) > 0]
    counts = np.vstack([np.eye(n), counts])
    references = rng.normal(-5.0, 2.0, n)
    fractions = counts / counts.sum(axis=1, keepdims=True)
    mixing = -3.0 * rng.random(len(counts)) * (1.0 - (fractions**2).sum(axis=1)) + 0.5 * rng.random(len(counts))
    return fractions, fractions @ references + mixing


@pytest.mark.parametrize(("n", "count"), [(1, 4), (2, 15), (3, 40), (4, 60), (5, 40)])
@pytest.mark.parametrize("max_qhull", [0, 7])
def test_the_hull_is_that_of_pymatgen(n: int, count: int, max_qhull: int) -> None:
    from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
    from pymatgen.core import Composition

    fractions, energies = phases(n, count, seed=n)
    compositions = [
        Composition({s: x for s, x in zip(SYMBOLS, row, strict=False) if x}, allow_negative=False) for row in fractions
    ]
    diagram = PhaseDiagram([PDEntry(c, e) for c, e in zip(compositions, energies, strict=True)])
    expected = [diagram.get_hull_energy_per_atom(c) for c in compositions]
    found = hull_energies(fractions, fractions, energies, max_qhull=max_qhull)
    np.testing.assert_allclose(found, expected, atol=1e-8)
    above = [diagram.get_e_above_hull(PDEntry(c, e)) for c, e in zip(compositions, energies, strict=True)]
    np.testing.assert_allclose(energies - found, above, atol=1e-8)
    assert (found <= energies + 1e-9).all()


@pytest.mark.parametrize("n", [2, 3, 5, 6, 8])
def test_facets_and_linear_programs_agree(n: int) -> None:
    fractions, energies = phases(n, 25, seed=n)
    others = np.random.default_rng(0).dirichlet(np.ones(n), size=10)
    one, other = (hull_energies(others, fractions, energies, max_qhull=limit) for limit in (9, 0))
    np.testing.assert_allclose(one, other, atol=1e-9)


@pytest.mark.parametrize("max_qhull", [0, 7])
def test_the_hull_follows_the_reference_and_ignores_phases_above_it(max_qhull: int) -> None:
    fractions, energies = phases(4, 30, seed=1)
    rng = np.random.default_rng(2)
    hull = hull_energies(fractions, fractions, energies, max_qhull=max_qhull)
    shift = rng.normal(size=4)
    moved = hull_energies(fractions, fractions, energies + fractions @ shift, max_qhull=max_qhull)
    np.testing.assert_allclose(moved, hull + fractions @ shift, atol=1e-9)
    extra = rng.dirichlet(np.ones(4), size=20)
    above = hull_energies(extra, fractions, energies, max_qhull=max_qhull) + 0.01
    more = (np.vstack([fractions, extra]), np.concatenate([energies, above]))
    np.testing.assert_allclose(hull_energies(fractions, *more, max_qhull=max_qhull), hull, atol=1e-9)
    order = rng.permutation(4)
    again = hull_energies(fractions[:, order], fractions[:, order], energies, max_qhull=max_qhull)
    np.testing.assert_allclose(again, hull, atol=1e-9)


def test_a_subsystem_has_the_same_hull_alone_and_within_a_larger_system() -> None:
    fractions, energies = phases(4, 80, seed=3)
    inside = fractions[:, 3] == 0
    assert 4 < inside.sum() < len(inside)
    small = hull_energies(fractions[inside][:, :3], fractions[inside][:, :3], energies[inside])
    large = hull_energies(fractions[inside], fractions, energies)
    np.testing.assert_allclose(small, large, atol=1e-9)
    stable = np.ones(len(energies), bool)
    stable[inside] = energies[inside] <= small + 1e-8
    np.testing.assert_allclose(
        hull_energies(fractions, fractions[stable], energies[stable]),
        hull_energies(fractions, fractions, energies),
        atol=1e-9,
    )


def test_without_a_stable_compound_the_hull_is_the_plane_of_the_elements() -> None:
    fractions = np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5], [0.25, 0.75]])
    energies = np.array([-1.0, -3.0, -1.9, -2.5])
    np.testing.assert_allclose(hull_energies(fractions, fractions, energies), [-1.0, -3.0, -2.0, -2.5])
    energies[0] = -0.5  # another polymorph of the first element is lower
    lower = (np.vstack([fractions, [[1.0, 0.0]]]), np.append(energies, -1.0))
    np.testing.assert_allclose(hull_energies(fractions, *lower), [-1.0, -3.0, -2.0, -2.5])


def test_an_element_without_a_phase_has_no_hull() -> None:
    with pytest.raises(ValueError, match="an element is not among the phases"):
        hull_energies(np.array([[0.5, 0.5]]), np.array([[1.0, 0.0], [0.5, 0.5]]), np.array([0.0, -1.0]))
