"""How many copies of real crystals are taken for other structures, and which different entries for copies.

    python tests/benchmarks/bench_same_structure.py DATASET --rows 25000

Every crystal of a dataset is compared with a copy of itself: rounded as CIFs are, in another cell, turned, with
noise, or strained, each kind in turn. A copy that is not recognised is a false split. Then the groups that
`crystalign duplicates` found among the entries themselves are listed, with what an independent comparison says about
each: whether the space groups agree at 0.01 Å, and the overlap of their powder patterns after a common strain.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table
from tyro.conf import Positional

from crystalign.config import Config
from crystalign.crystal import Crystal
from crystalign.physics.diffraction import powder_peaks
from crystalign.physics.rendering import Instrument, render
from crystalign.physics.same_structure import SameStructure, alike, candidate
from crystalign.shards.dataset import Dataset
from crystalign.shards.schema import GROUP
from crystalign.storage import Uri

HOW = SameStructure()
GRID = 0.4 + 0.005 * np.arange(1060)


class BenchSameStructure(Config):
    """Count false splits and false merges."""

    dataset: Positional[Uri]
    """With structure groups."""
    rows: int = 25_000
    """Crystals that are copied, the first of the dataset."""
    processes: int = 2
    """That compare at the same time."""
    seed: int = 0
    """Of noise, turns and cells."""


def main(config: BenchSameStructure) -> None:
    """Print both tables."""
    dataset = Dataset.open(config.dataset)
    _splits(dataset, config)
    _merges(dataset)


def _splits(dataset: Dataset, config: BenchSameStructure) -> None:
    rows = itertools.islice(dataset.materials(modalities=()), config.rows)
    began = time.monotonic()
    count: Counter[str] = Counter()
    named: dict[str, list[str]] = {name: [] for name in COPIES}
    with ProcessPoolExecutor(config.processes) as pool:
        jobs = ((m.id, m.crystal, number, config.seed) for number, m in enumerate(rows))
        for name, kind, found in pool.map(_compare, jobs, chunksize=64):
            count[kind] += 1
            if not found:
                named[kind].append(name)
    table = Table("copy", "false splits", "of", "share", "such as")
    for kind, lost in named.items():
        share = len(lost) / max(1, count[kind])
        table.add_row(kind, f"{len(lost):,}", f"{count[kind]:,}", f"{share:.2%}", ", ".join(lost[:3]))
    Console(width=110).print(table)
    print(f"{1e3 * (time.monotonic() - began) * config.processes / count.total():.0f} ms for each pair")


def _compare(job: tuple[str, Crystal, int, int]) -> tuple[str, str, bool]:
    name, crystal, number, seed = job
    kind = list(COPIES)[number % len(COPIES)]
    copy = COPIES[kind](crystal, np.random.default_rng([seed, number]))
    return name, kind, alike(candidate(crystal, HOW), candidate(copy, HOW), HOW)


def _rounded(crystal: Crystal, rng: np.random.Generator) -> Crystal:
    from pymatgen.core import Lattice

    parameters = [round(x, 4) for x in Lattice(crystal.lattice).parameters]
    lattice = np.array(Lattice.from_parameters(*parameters).matrix)
    return Crystal(lattice, crystal.frac_coords.round(4), crystal.atomic_numbers, crystal.occupancies)


def _recut(crystal: Crystal, rng: np.random.Generator) -> Crystal:
    """Other axes of the same lattice, and another origin."""
    while True:
        matrix = rng.integers(-1, 2, (3, 3))
        if round(abs(np.linalg.det(matrix))) == 1:
            break
    frac = (crystal.frac_coords + rng.random(3)) @ np.linalg.inv(matrix)
    return Crystal(matrix @ crystal.lattice, frac, crystal.atomic_numbers, crystal.occupancies)


def _turned(crystal: Crystal, rng: np.random.Generator) -> Crystal:
    from scipy.spatial.transform import Rotation

    turn = Rotation.random(random_state=rng).as_matrix()
    return Crystal(crystal.lattice @ turn, crystal.frac_coords, crystal.atomic_numbers, crystal.occupancies)


def _noisy(crystal: Crystal, rng: np.random.Generator) -> Crystal:
    shift = rng.normal(0, 0.005, crystal.frac_coords.shape) @ np.linalg.inv(crystal.lattice)
    return Crystal(crystal.lattice, crystal.frac_coords + shift, crystal.atomic_numbers, crystal.occupancies)


def _strained(crystal: Crystal, rng: np.random.Generator) -> Crystal:
    return _turned(
        Crystal(crystal.lattice * 1.03, crystal.frac_coords, crystal.atomic_numbers, crystal.occupancies), rng
    )


COPIES: dict[str, Callable[[Crystal, np.random.Generator], Crystal]] = {
    "cell and positions to 4 digits": _rounded,
    "other axes and origin": _recut,
    "other axes and origin, to 4 digits": lambda crystal, rng: _rounded(_recut(crystal, rng), rng),
    "turned": _turned,
    "atoms moved by 0.005 Å (normal)": _noisy,
    "edges 3 % longer": _strained,
}


def _merges(dataset: Dataset) -> None:
    """Every pair of a member and its leader."""
    table = dataset.table(["id", "formula", "spacegroup_number", "source", "vintage", GROUP])
    rows = {row["id"]: row for row in table.to_pylist()}
    pairs = [(row, rows[row[GROUP]]) for row in rows.values() if row[GROUP] not in (None, row["id"])]
    found = Table("member", "leader", "formula", "space groups", "V per atom", "patterns' cosine")
    wanted = {row["id"] for pair in pairs for row in pair}
    crystals = {m.id: m.crystal for m in dataset.materials(modalities=()) if m.id in wanted}
    overlaps, agree = [], 0
    for member, leader in sorted(pairs, key=lambda pair: pair[0]["id"]):
        one, other = crystals[member["id"]], crystals[leader["id"]]
        overlap = _overlap(one, other)
        overlaps.append(overlap)
        numbers = f"{member['spacegroup_number']} {leader['spacegroup_number']}"
        agree += member["spacegroup_number"] == leader["spacegroup_number"]
        ratio = one.volume / len(one) / (other.volume / len(other))
        found.add_row(member["id"], leader["id"], one.formula, numbers, f"{ratio:.3f}", f"{overlap:.3f}")
    Console(width=130).print(found)
    if pairs:
        low = np.quantile(overlaps, [0.0, 0.05, 0.5])
        print(f"{len(pairs)} of {len(rows):,} entries are copies of another; {agree} have its space group at 0.01 Å")
        print(f"overlap of the patterns: least {low[0]:.3f}, 5 % below {low[1]:.3f}, median {low[2]:.3f}")


def _overlap(one: Crystal, other: Crystal) -> float:
    """Cosine of the two powder patterns, the second scaled to the first's volume."""
    scale = (one.volume / len(one) / (other.volume / len(other))) ** (1 / 3)
    scaled = Crystal(other.lattice * scale, other.frac_coords, other.atomic_numbers, other.occupancies)
    broad = Instrument(crystallite_size=15.0)
    a, b = (render(powder_peaks(crystal), GRID, broad) for crystal in (one, scaled))
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


if __name__ == "__main__":
    main(tyro.cli(BenchSameStructure, description=__doc__))
