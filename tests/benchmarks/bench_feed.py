"""The stream of a training run with a model that costs nothing, beside a plain Arrow scan and the features alone.

    python tests/benchmarks/bench_feed.py --data DATASET

The floor reads the same columns with pyarrow and computes the same features, as many processes at a
time as the stream has tasks, and counts the processor time of these two alone; what the stream does
besides is decode, collate, order and move. The second table asks whether a batch looks as if it had
been drawn from the whole training split at random: χ² of its kinds (anonymous formulas), per degree
of freedom, is 1 then.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from collections import Counter
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import tyro
from rich.console import Console
from rich.table import Table

from crystalign import storage
from crystalign.config import Config
from crystalign.modalities import make_modality
from crystalign.shards.dataset import Dataset
from crystalign.shards.order import EpochOrder
from crystalign.shards.schema import table_to_materials
from crystalign.shards.selection import Selection
from crystalign.shards.splits import SplitRule
from crystalign.training.feed import FeedPlan
from crystalign.training.presets import default_model
from crystalign_ray.session import session

MODALITIES = {name: spec.features for name, spec in default_model().modalities.items()}
KINDS = 20
"""The most frequent anonymous formulas, and all others together."""


class BenchFeed(Config):
    """Measure the stream."""

    data: str
    """A dataset that holds what the preset `default` trains on."""
    batch_size: int = 256
    """Global batch."""
    seconds: float = 30.0
    """For which each is measured."""
    tasks: tuple[int, ...] = (1, 2)
    """How many tasks featurise at the same time."""


def main(config: BenchFeed) -> None:
    """Print both tables."""
    dataset = Dataset.open(config.data)
    selection = Selection.build(dataset, SplitRule(), "train")
    console = Console(width=120)
    table = Table("tasks", "floor: scan + features, samples/s", "stream, samples/s", "stream / floor")
    with tempfile.TemporaryDirectory(prefix="crystalign-bench-") as folder:
        plan = plan_of(config, dataset, selection.save(folder))
        for tasks in config.tasks:
            floor = floor_rate(config, tasks)
            with session("local"):
                rate = stream_rate(config, plan, tasks)
            table.add_row(str(tasks), f"{floor:,.0f}", f"{rate:,.0f}", f"{rate / floor:.2f}")
    console.print(table)
    table = Table("window, rows", "row groups in it", "χ² / degrees of freedom", "standard error")
    for window in (2048, 16384):
        table.add_row(f"{window:,}", *uniformity(dataset, selection, config.batch_size, window))
    console.print(table)
    console.print(f"{len(os.sched_getaffinity(0))} cores, batch {config.batch_size}, {len(dataset):,} rows")


def plan_of(config: BenchFeed, dataset: Dataset, selection: str) -> FeedPlan:
    """As `pretrain` feeds one rank; the epochs never end here."""
    return FeedPlan(
        data=config.data,
        data_sha256=dataset.manifest.sha256,
        selection=selection,
        modalities=MODALITIES,
        seed=0,
        batch_size=config.batch_size,
        window_rows=16384,
        world_size=1,
        epochs=1000,
    )


def floor_rate(config: BenchFeed, processes: int) -> float:
    """Samples per second of all processes together."""
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        return sum(pool.starmap(floor_of_process, [(config.data, config.seconds)] * processes))


def floor_of_process(data: str, seconds: float) -> float:
    """Samples per second of processor time in scanning and featurising."""
    import torch

    torch.set_num_threads(1)
    dataset = Dataset.open(data)
    modalities = {name: make_modality(name, settings) for name, settings in MODALITIES.items()}
    rng = np.random.default_rng(0)
    spent, count, until = 0.0, 0, time.monotonic() + seconds
    columns = dataset.read(0, 0, modalities=tuple(modalities)).column_names
    while time.monotonic() < until:
        entry = dataset.manifest.shards[int(rng.integers(len(dataset.manifest.shards)))]
        group = int(rng.integers(len(entry.row_groups)))
        began = time.process_time()
        with storage.open_input(storage.join(dataset.uri, entry.path)) as source:
            table = pq.ParquetFile(source).read_row_group(group, columns=columns)
        spent += time.process_time() - began
        materials = table_to_materials(table, dataset.manifest.properties, modalities=tuple(modalities))
        values = [(modality, m.value(name)) for m in materials for name, modality in modalities.items()]
        began = time.process_time()
        for modality, value in values:
            if value is not None:
                modality.featurise(value, rng=rng)
        spent += time.process_time() - began
        count += len(materials)
    return count / spent


def stream_rate(config: BenchFeed, plan: FeedPlan, tasks: int) -> float:
    """Samples per second that one rank is given, from the second window on."""
    from crystalign_jobs.pretraining.stream import RankFeed, split, stream

    fed = RankFeed(split(stream(plan, tasks=tasks), 1)[0], rank=0, start_step=0)
    fed.start()
    batches = iter(fed)
    for _ in range(plan.window_rows // plan.batch_size):
        next(batches)  # of the first window, some of which waited while the stream started
    began, count = time.monotonic(), 0
    while time.monotonic() - began < config.seconds:
        count += int(next(batches).batch.real.sum())
    return count / (time.monotonic() - began)


def uniformity(dataset: Dataset, selection: Selection, batch_size: int, window: int) -> tuple[str, str, str]:
    """Row groups that a window holds, and the mean over an epoch of χ² per degree of freedom, with its error."""
    kinds = kinds_of(dataset)
    order = EpochOrder(selection, seed=0, epoch=0, batch_size=batch_size, window_rows=window)
    everything = np.concatenate([selection.rows(place) for place in range(len(selection.masks))])
    share = np.bincount([kinds[tuple(place)] for place in everything.tolist()], minlength=KINDS) / len(everything)
    found = []
    for step in range(order.steps - 1):
        seen = np.bincount([kinds[tuple(place)] for place in order.rows(step).tolist()], minlength=KINDS)
        found.append(((seen - batch_size * share) ** 2 / (batch_size * share)).sum())
    # drawn without replacement: the variance is smaller by (N − B) / (N − 1)
    expected = (KINDS - 1) * (selection.n - batch_size) / (selection.n - 1)
    ratio, error = np.mean(found) / expected, np.sqrt(2.0 / (KINDS - 1) / len(found))
    groups = -(-window * len(selection.masks) // selection.n)
    return f"{min(groups, len(selection.masks))} of {len(selection.masks)}", f"{ratio:.3f}", f"{error:.3f}"


def kinds_of(dataset: Dataset) -> dict[Any, int]:
    """(shard, row group, row) → the number of its kind."""
    names = {}
    for shard, entry in enumerate(dataset.manifest.shards):
        for group in range(len(entry.row_groups)):
            column = dataset.read(shard, group, columns=["prototype"]).column("prototype").to_pylist()
            names |= {(shard, group, row): str(name).partition(":")[0] for row, name in enumerate(column)}
    frequent = [name for name, _ in Counter(names.values()).most_common(KINDS - 1)]
    numbers = {name: number for number, name in enumerate(frequent)}
    return {place: numbers.get(name, KINDS - 1) for place, name in names.items()}


if __name__ == "__main__":
    main(tyro.cli(BenchFeed, description=__doc__))
