"""Milliseconds on one core for the three lattice sums of all pairs of a crystal.

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_lattice_sums.py

Cells are random, at 15 Å³ per atom, and sheared. Beside ours stand its limit and the cost of the
published implementation (PotNet, on one core of another machine), and in the same run the floor:
computing the N² distances to the nearest image, without any sum. The needle is 2 × 2 × 90 Å. With
`--batch`, the batched version in torch, on a GPU where there is one, per crystal of a batch.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table

from crystalign.config import Config
from crystalign.physics import lattice_sums
from crystalign.physics.ewald_torch import lattice_sums_batch

LIMITS = {4: 0.6, 24: 4.0, 100: 45.0}
PUBLISHED = {4: 11.0, 8: 43.0, 16: 171.0, 24: 384.0, 48: 1570.0, 100: 6800.0, 200: 27200.0}


class BenchLatticeSums(Config):
    """Time the lattice sums."""

    sizes: tuple[int, ...] = (4, 8, 16, 24, 48, 100, 200)
    """Atoms per cell."""
    repeats: int = 20
    """Each is timed this often, and the fastest counts: what else runs on the machine only adds."""
    batch: int = 0
    """Crystals of a batch in torch; 0 leaves it out."""


def main(config: BenchLatticeSums) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    table = Table(
        "atoms", "ours, ms", "limit, ms", "published, ms", "published / ours", "distances alone, ms", "batched, ms"
    )
    for n in config.sizes:
        edge = (15.0 * n) ** (1 / 3)
        lattice, frac = edge * (np.eye(3) + 0.15 * rng.normal(size=(3, 3))), rng.random((n, 3))
        ours = best(lambda: lattice_sums(lattice, frac), config.repeats)  # noqa: B023
        floor = best(lambda: distances(lattice, frac), config.repeats)  # noqa: B023
        batched = f"{in_batch(lattice, frac, config):.2f}" if config.batch else "–"
        published = PUBLISHED.get(n)
        row = (f"{published:,.0f}", f"{published / ours:,.0f}") if published else ("–", "–")
        table.add_row(str(n), f"{ours:.2f}", f"{LIMITS[n]}" if n in LIMITS else "–", *row, f"{floor:.3f}", batched)
    needle, sites = np.diag([2.0, 2.0, 90.0]), np.array([[0, 0, 0.1], [0, 0, 0.6], [0.5, 0.5, 0.8], [0.5, 0, 0.3]])
    table.add_row("4, needle", f"{best(lambda: lattice_sums(needle, sites), config.repeats):.2f}", *["–"] * 5)
    console = Console(width=120)
    console.print(table)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    console.print(f"1 of {len(os.sched_getaffinity(0))} cores, {device}, the fastest of {config.repeats}")


def best(work: Callable[[], object], repeats: int) -> float:
    """Milliseconds of the fastest run."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return 1e3 * min(times)


def distances(lattice: np.ndarray, frac: np.ndarray) -> np.ndarray:
    """(N, N) Å, to the image nearest in fractional coordinates."""
    between = frac[:, None] - frac
    return np.linalg.norm((between - np.rint(between)) @ lattice, axis=-1)


def in_batch(lattice: np.ndarray, frac: np.ndarray, config: BenchLatticeSums) -> float:
    """Milliseconds per crystal in torch."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    lattices = torch.tensor(lattice, device=device).expand(config.batch, 3, 3)
    sites, sizes = torch.tensor(frac, device=device).repeat(config.batch, 1), torch.tensor([len(frac)] * config.batch)
    return best(lambda: lattice_sums_batch(lattices, sites, sizes).cpu(), max(2, config.repeats // 5)) / config.batch


if __name__ == "__main__":
    main(tyro.cli(BenchLatticeSums, description=__doc__))
