"""Lower convex hull of energies over composition: the energy of the most stable mixture of phases.

    E_hull(x) = min Σ_j λ_j E_j   with   Σ_j λ_j x_j = x,   λ_j ≥ 0

where x_j are the atomic fractions and E_j the energies per atom of the phases (S. P. Ong et al., Chem. Mater. 20, 1798
(2008)). The energy above the hull of a phase is E − E_hull(x), with the phase itself among the phases.

Up to seven elements, the function is the maximum over the planes of the lower facets of the hull, which Qhull finds for
all compositions at once. The number of facets grows fast with the number of elements, so beyond that each composition
is one linear program (HiGHS).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MAX_QHULL = 7
"""Largest number of elements for which the facets are enumerated."""
TOLERANCE = 1e-8
"""eV/atom; energies that differ by less are equal."""
_FLAT = 1e-10

Floats = NDArray[np.float64]


def hull_energies(fractions: Floats, phases: Floats, energies: Floats, *, max_qhull: int = MAX_QHULL) -> Floats:
    """Energy of the lower convex hull at some compositions.

    Args:
        fractions: (M, n) atomic fractions of the compositions, each row with the sum 1.
        phases: (N, n) atomic fractions of the phases; every element must be among them as a phase of its own.
        energies: (N,) energies per atom of the phases, in eV/atom relative to any reference.
        max_qhull: number of elements up to which facets are enumerated.

    Returns:
        (M,) energies of the hull, eV/atom.

    Raises:
        ValueError: an element is not among the phases, so the hull does not cover all compositions.
    """
    n = phases.shape[1]
    references = np.full(n, np.inf)
    pure = phases.max(axis=1) > 1.0 - 1e-12
    np.minimum.at(references, phases[pure].argmax(axis=1), energies[pure])
    if not np.isfinite(references).all():
        message = "an element is not among the phases, so the hull does not cover all compositions"
        raise ValueError(message)
    formation = energies - phases @ references
    below = (formation < -_FLAT) & ~pure
    offsets = fractions @ references
    if n == 1 or not below.any():
        return np.asarray(offsets)
    corners = np.vstack([np.eye(n), phases[below]])  # (K, n); phases above the plane of the elements are no vertices
    heights = np.concatenate([np.zeros(n), formation[below]])
    method = _by_facets if n <= max_qhull else _by_programs
    return np.asarray(offsets + method(fractions, corners, heights))


def _by_facets(fractions: Floats, corners: Floats, heights: Floats) -> Floats:
    """Return the maximum over the planes of all lower facets, (M,)."""
    from scipy.spatial import ConvexHull

    top = np.append(np.full(corners.shape[1] - 1, 1.0 / corners.shape[1]), 1.0)  # so that the hull is never flat
    points = np.vstack([np.column_stack([corners[:, 1:], heights]), top])
    equations = np.unique(ConvexHull(points).equations, axis=0)  # normal · point + offset ≤ 0 inside
    lower = equations[equations[:, -2] < -1e-9]
    planes = -np.column_stack([lower[:, :-2], lower[:, -1]]) / lower[:, -2:-1]
    result = np.full(len(fractions), -np.inf)
    step = max(1, 2**22 // len(planes))  # 32 MB at a time
    for start in range(0, len(fractions), step):
        rows = fractions[start : start + step, 1:]
        result[start : start + step] = (rows @ planes[:, :-1].T + planes[:, -1]).max(axis=1)
    return np.asarray(np.minimum(result, 0.0))


def _by_programs(fractions: Floats, corners: Floats, heights: Floats) -> Floats:
    """Return the optimum of one linear program per composition, (M,)."""
    from scipy.optimize import linprog

    tolerances = {"dual_feasibility_tolerance": 1e-10, "primal_feasibility_tolerance": 1e-10}
    result = np.empty(len(fractions))
    for row, composition in enumerate(fractions):
        # the dual: the highest plane below all corners, whose value needs no exact composition
        solved = linprog(
            -composition, A_ub=corners, b_ub=heights, bounds=(None, None), method="highs-ds", options=tolerances
        )
        assert solved.status == 0, solved.message
        result[row] = -solved.fun
    return np.asarray(np.minimum(result, 0.0))
