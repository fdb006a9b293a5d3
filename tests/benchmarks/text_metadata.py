"""What is known of each crystal of the text benchmark, and its bonds: plain tables, nothing of the search."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import spglib
from numpy.typing import NDArray
from pymatgen.analysis.molecule_structure_comparator import CovalentRadius
from pymatgen.core import Element, Lattice
from pymatgen.optimization.neighbors import find_points_in_spheres

TOLERANCE = 0.45  # Å: a bond is no longer than the sum of the covalent radii and this (Cheon et al. 2017)
LETTERS = "ABCDEFGHIJKLMNOP"
RADII = np.array([CovalentRadius.radius.get(Element.from_Z(z).symbol, 1.6) if z else 0.0 for z in range(119)])

Rows = NDArray[np.int64]


class Metadata:
    """What is known of each crystal, by row; what costs time is computed when asked for, and kept."""

    def __init__(self, crystals: pa.Table, properties: pa.Table) -> None:
        self.ids: list[str] = crystals["material_id"].to_pylist()
        if self.ids != properties["material_id"].to_pylist():
            raise ValueError("crystals and properties are not the same materials in the same order")
        self.names: list[str] = crystals["formula"].to_pylist()
        self.sites = crystals["nsites"].to_numpy().astype(np.int64)
        self.space_group = crystals["spacegroup_number"].to_numpy().astype(np.int64)
        self._starts = np.concatenate([[0], np.cumsum(self.sites)])
        self._numbers = _flat(crystals["atomic_numbers"]).astype(np.int64)
        self._positions = _flat(crystals["frac_coords"]).reshape(-1, 3).astype(float)
        self._cells = _flat(crystals["lattice"]).reshape(-1, 6)
        owner = np.repeat(np.arange(len(self.ids)), self.sites)
        counts = np.bincount(owner * 120 + self._numbers, minlength=120 * len(self.ids)).reshape(-1, 120)
        self.amounts = (counts // np.gcd.reduce(counts, axis=1)[:, None]).astype(np.int16)
        volume = crystals["volume"].to_numpy()
        mass = counts @ np.array([0.0] + [float(Element.from_Z(z).atomic_mass) for z in range(1, 119)] + [0.0])
        self.columns: dict[str, NDArray[np.float64]] = {
            name: properties[name].to_numpy().astype(float)
            for name in properties.column_names
            if pa.types.is_floating(properties.schema.field(name).type)
        }
        self.columns["magnetization_per_atom"] = np.abs(self.columns["total_magnetization"]) / self.sites
        self.columns |= {"n_sites": self.sites.astype(float), "volume_per_atom": volume / self.sites}
        self.columns["density"] = 1.66053907 * mass / volume
        self._bonds: dict[int, Bonds] = {}
        self._layers: dict[int, str | None] = {}
        self._primitive: dict[int, int] = {}

    @cached_property
    def anonymous(self) -> NDArray[np.str_]:
        """Formulas such as AB2, with amounts that rise."""
        known: dict[bytes, str] = {}
        ordered = np.sort(self.amounts, axis=1)
        return np.array([known.setdefault(row.tobytes(), _anonymous(row[row > 0])) for row in ordered])

    def bonds(self, row: int) -> Bonds:
        """The bonds of one crystal."""
        if row not in self._bonds:
            self._bonds[row] = Bonds(*self._cell(row))
        return self._bonds[row]

    def layers(self, row: int) -> str | None:
        """weakly: nothing bonds the layers; alkali: alkali metals do, and these alone; None: no layers."""
        if row not in self._layers:
            bonds = self.bonds(row)
            alkali = np.isin(bonds.numbers, [3, 11, 19, 37, 55])
            kind = "weakly" if bonds.dimensionality(np.ones_like(alkali)) == 2 else None
            if kind is None and alkali.any() and bonds.dimensionality(~alkali) == 2:
                kind = "alkali"
            self._layers[row] = kind
        return self._layers[row]

    def primitive(self, row: int) -> int:
        """The number of sites of its primitive cell."""
        if row not in self._primitive:
            cell: Any = self._cell(row)
            found = spglib.find_primitive(cell, symprec=0.01)
            self._primitive[row] = len(found[2]) if found else int(self.sites[row])
        return self._primitive[row]

    def _cell(self, row: int) -> tuple[NDArray[np.float64], NDArray[np.float64], Rows]:
        part = slice(self._starts[row], self._starts[row + 1])
        matrix = np.array(Lattice.from_parameters(*self._cells[row]).matrix)
        return matrix, self._positions[part], self._numbers[part]


class Bonds:
    """Pairs of atoms that are closer than the sum of their covalent radii and `TOLERANCE`."""

    def __init__(self, matrix: NDArray[np.float64], positions: NDArray[np.float64], numbers: Rows) -> None:
        reach = RADII[numbers] + TOLERANCE / 2
        places = np.ascontiguousarray(positions @ matrix)
        found = find_points_in_spheres(places, places, 2 * float(reach.max()), np.ones(3, dtype=np.int64), matrix, 1e-8)
        first, second, step, distance = found
        kept = (distance > 0.1) & (distance < reach[first] + reach[second])
        self.numbers = numbers
        self.first, self.second = first[kept].astype(np.int32), second[kept].astype(np.int32)
        self.step = step[kept].astype(np.int32)

    def dimensionality(self, atoms: NDArray[np.bool_]) -> int:
        """The largest number of directions in which a cluster of these atoms repeats, 0 to 3 (Larsen et al. 2019)."""
        kept = atoms[self.first] & atoms[self.second]
        edges: dict[int, list[tuple[int, NDArray[np.int32]]]] = {}
        for i, j, step in zip(self.first[kept].tolist(), self.second[kept].tolist(), self.step[kept], strict=True):
            edges.setdefault(i, []).append((j, step))
        cell: dict[int, NDArray[np.int32]] = {}
        largest = 0
        for start in edges:
            if start in cell:
                continue
            cell[start], waiting, cycles = np.zeros(3, dtype=np.int32), [start], set()
            while waiting:
                i = waiting.pop()
                for j, step in edges[i]:
                    image = cell[i] + step
                    if j not in cell:
                        cell[j] = image
                        waiting.append(j)
                    elif (image != cell[j]).any():
                        cycles.add(tuple((image - cell[j]).tolist()))
            largest = max(largest, int(np.linalg.matrix_rank(np.array(list(cycles)))) if cycles else 0)
        return largest

    def coordinated(self, centres: Sequence[int], ligand: int, counts: Sequence[int], *, corners: bool) -> bool:
        """Whether each atom of some elements has so many bonds to another, as `Coordination` says."""
        central = np.isin(self.numbers, centres)
        outward = central[self.first] & (self.numbers[self.second] == ligand)
        bonded = np.bincount(self.first[outward], minlength=len(self.numbers))[central]
        if not bonded.size or not np.isin(bonded, counts).all():
            return False
        if not corners:
            return True
        arms: dict[int, list[tuple[int, NDArray[np.int32]]]] = {}
        for i, x, step in zip(self.first[outward], self.second[outward], self.step[outward], strict=True):
            arms.setdefault(int(x), []).append((int(i), step))
        reached: dict[int, list[tuple[int, ...]]] = {}
        for around in arms.values():
            for (i, a), (j, b) in itertools.permutations(around, 2):
                reached.setdefault(i, []).append((j, *(a - b).tolist()))
        found = [reached.get(int(i), []) for i in np.flatnonzero(central)]
        return all(len(set(others)) == len(others) and len(others) in counts for others in found)


def load_metadata(crystals: str | Path, properties: str | Path, limit: int | None = None) -> Metadata:
    """Read both tables, or their first `limit` rows.

    Raises:
        ValueError: the two are not the same materials in the same order.
    """
    return Metadata(*(pq.read_table(path).slice(0, limit) for path in (crystals, properties)))


def _anonymous(amounts: NDArray[np.int16]) -> str:
    return "".join(f"{letter}{n if n > 1 else ''}" for letter, n in zip(LETTERS, amounts, strict=False))


def _flat(column: pa.ChunkedArray) -> NDArray[Any]:
    return np.concatenate([chunk.flatten().to_numpy() for chunk in column.chunks])
