"""Crystals whose geometry is known from textbooks, and materials that have every modality."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import pytest

from crystalign.crystal import SYMBOLS, Crystal
from crystalign.material import Material
from synthetic import synthetic_material

FCC = np.array([[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])


def _crystal(lattice, sites) -> Crystal:
    return Crystal(lattice, np.array([s[1] for s in sites]), np.array([SYMBOLS.index(s[0]) for s in sites]))


def _textbook() -> dict[str, Crystal]:
    u, w = 0.305, 3 / 8
    hexagonal = np.array([[3.25, 0, 0], [-1.625, 3.25 * np.sqrt(3) / 2, 0], [0, 0, 3.25 * np.sqrt(8 / 3)]])
    rutile = [("Ti", [0, 0, 0]), ("Ti", [0.5] * 3), ("O", [u, u, 0]), ("O", [-u, -u, 0])]
    rutile += [("O", [0.5 + u, 0.5 - u, 0.5]), ("O", [0.5 - u, 0.5 + u, 0.5])]
    wurtzite = [("Zn", [1 / 3, 2 / 3, 0]), ("Zn", [2 / 3, 1 / 3, 0.5])]
    wurtzite += [("O", [1 / 3, 2 / 3, w]), ("O", [2 / 3, 1 / 3, 0.5 + w])]
    perovskite = [("Sr", [0.5] * 3), ("Ti", [0, 0, 0]), ("O", [0.5, 0, 0]), ("O", [0, 0.5, 0]), ("O", [0, 0, 0.5])]
    return {
        "Cu": _crystal(3.61 * FCC, [("Cu", [0, 0, 0])]),
        "NaCl": _crystal(5.64 * FCC, [("Na", [0, 0, 0]), ("Cl", [0.5] * 3)]),
        "Si": _crystal(5.431 * FCC, [("Si", [0, 0, 0]), ("Si", [0.25] * 3)]),
        "CsCl": _crystal(4.12 * np.eye(3), [("Cs", [0, 0, 0]), ("Cl", [0.5] * 3)]),
        "TiO2": _crystal(np.diag([4.594, 4.594, 2.959]), rutile),
        "ZnO": _crystal(hexagonal, wurtzite),
        "SrTiO3": _crystal(3.905 * np.eye(3), perovskite),
    }


@pytest.fixture(scope="session")
def textbook() -> dict[str, Crystal]:
    """Cu, NaCl, Si, CsCl, rutile, ideal wurtzite and SrTiO3, in primitive cells."""
    return _textbook()


@pytest.fixture(params=sorted(_textbook()))
def known(request) -> Crystal:
    """Each of the textbook crystals in turn."""
    return _textbook()[request.param]


@pytest.fixture(scope="session")
def transform():
    """A function that describes a crystal by another cell: rows of an integer matrix in the old vectors."""

    def apply(crystal: Crystal, matrix) -> Crystal:
        matrix = np.asarray(matrix)
        lattice = matrix @ crystal.lattice
        reach = np.abs(matrix).sum(axis=0).max()
        shifts = np.stack(np.meshgrid(*[np.arange(-reach, reach + 1)] * 3, indexing="ij"), -1).reshape(-1, 3)
        frac = (crystal.frac_coords[:, None] + shifts).reshape(-1, 3) @ np.linalg.inv(matrix)
        numbers = np.repeat(crystal.atomic_numbers, len(shifts))
        frac = np.where(np.abs(frac - np.round(frac)) < 1e-9, np.round(frac), frac)
        inside = ((frac >= 0) & (frac < 1 - 1e-9)).all(axis=1)
        made = Crystal(lattice, frac[inside], numbers[inside].astype(int))
        assert len(made) == len(crystal) * round(abs(np.linalg.det(matrix)))
        return made

    return apply


CELLS = {
    "supercell": [[2, 0, 0], [0, 2, 0], [0, 0, 1]],
    "skewed": [[1, 0, 0], [2, 1, 0], [-1, 1, 1]],
    "skewed supercell": [[1, 1, 0], [-1, 1, 0], [0, 1, 2]],
}


@pytest.fixture(params=sorted(CELLS))
def cell(request) -> list[list[int]]:
    """Other descriptions of the same lattice."""
    return CELLS[request.param]


@pytest.fixture(scope="session")
def synthetic_materials() -> Callable[[int], list[Material]]:
    """n different materials with every modality."""
    made = functools.cache(synthetic_material)  # 60 ms each, and most tests need few
    return lambda n: [made(index) for index in range(n)]
