"""Processor time and memory of one optimiser step by the size of the batch, whole and in micro-batches.

    python tests/benchmarks/bench_gradient_cache.py --data URI

One process; each case in a process of its own, so that its peak is its own. The same rows pass
whole (the floor, where its graph fits into memory) and cut (gradient caching). Features are made
before the step and held through it, as a training rank holds those of its step. Seconds are those of
the processor, so that what else runs on the machine does not count. Without `--data`
the crystals are those of the demonstration corpus; where there are fewer crystals than rows, they
are repeated under ids of their own, and the table says how many differ.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import chain, count, islice
from multiprocessing import get_context
from typing import NamedTuple

import torch
import tyro
from rich.console import Console
from rich.table import Table

from crystalign.batch import Batch, MicroBatches, make_batch
from crystalign.config import Config
from crystalign.material import Material
from crystalign.model import Model, ModelConfig, prepare
from crystalign.shards.dataset import Dataset
from crystalign.training.config import PretrainConfig
from crystalign.training.loop import train
from crystalign.training.presets import preset


class BenchGradientCache(Config):
    """Time one optimiser step."""

    data: str | None = None
    """Dataset whose rows are trained on; by default the demonstration corpus, with computed powder patterns."""
    preset: str = "default"
    """Whose encoders are trained."""
    modalities: tuple[str, ...] = ("crystal", "xrd")
    """Which of them."""
    batch_sizes: tuple[int, ...] = (1024, 4096, 16384)
    """B."""
    micro_batch_size: int = 256
    """Rows that pass the encoders together."""
    whole_up_to: int = 1024
    """Largest batch that is trained in one piece, too: its graph must fit into memory."""
    threads: int = 1
    """Of torch."""


class Measured(NamedTuple):
    """Of one step."""

    rows: int
    """B."""
    different: int
    """Crystals among them."""
    size: int | None
    """Rows of a micro-batch; None in one piece."""
    loss: float
    """Before the step."""
    seconds: float
    """Of the processor, for the step."""
    features: int
    """Bytes."""
    before: int
    """Bytes resident before the step, features included."""
    peak: int
    """Bytes resident at most during the step."""


def main(config: BenchGradientCache) -> None:
    """Print one row per case."""
    table = Table(
        "batch", "crystals", "micro-batch", "loss", "CPU s/step", "samples/CPU s", "ratio", "features", "before, peak"
    )
    whole: float | None = None
    for rows in config.batch_sizes:
        sizes = (None, config.micro_batch_size) if rows <= config.whole_up_to else (config.micro_batch_size,)
        for size in sizes:
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
                found = alone.submit(measure, config, rows, size).result()
            rate = rows / found.seconds
            whole = rate if size is None else whole
            table.add_row(
                f"{rows:,}",
                f"{found.different:,}",
                "whole" if size is None else f"{size:,}",
                f"{found.loss:.6f}",
                f"{found.seconds:.1f}",
                f"{rate:,.0f}",
                "" if whole is None else f"{rate / whole:.2f}",
                f"{found.features / 1e6:,.0f} MB",
                f"{found.before / 1e9:.2f}, {found.peak / 1e9:.2f} GB",
            )
    console = Console(width=130)
    console.print(table)
    model = f"{config.preset}: {', '.join(config.modalities)}"
    console.print(f"{len(os.sched_getaffinity(0))} cores, {config.threads} thread(s), {model}, {config.data or 'demo'}")


def measure(config: BenchGradientCache, rows: int, size: int | None) -> Measured:
    """One step of the training loop after one that warms up."""
    torch.set_num_threads(config.threads)
    model, (batch, different) = fresh(config), load(config, rows, size)
    settings = PretrainConfig(
        data="none", out="none", model=model.config, batch_size=rows, micro_batch_size=size, log_every_steps=1
    )
    small = min(rows, 64)
    warm, _ = load(config, small, None if size is None else small // 2)
    train(settings, fresh(config), [warm], total_steps=1)
    before = memory("VmRSS")
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak is counted anew
    records: list[dict[str, float]] = []
    began = time.process_time()
    train(settings, model, [batch], total_steps=1, on_log=records.append)
    seconds = time.process_time() - began
    features = sum(t.nbytes for p in batch.parts for inputs in p.inputs.values() for t in inputs.values())
    return Measured(rows, different, size, records[0]["loss"], seconds, features, before, memory("VmHWM"))


def fresh(config: BenchGradientCache) -> Model:
    """The preset's model of some modalities, the same in every process."""
    specs = preset(config.preset)["model"].modalities
    chosen = {name: specs[name] for name in config.modalities}
    described = ModelConfig(modalities=chosen, embedding_dim=preset(config.preset)["model"].embedding_dim)
    texts = [m.value("text") for m in islice(materials(config), 1000)] if "text" in chosen else []
    torch.manual_seed(0)
    return Model(described, prepare(described, {"text": [text for text in texts if text is not None]}))


def load(config: BenchGradientCache, rows: int, size: int | None) -> tuple[Batch | MicroBatches, int]:
    """The features of the first rows, and how many crystals they are; values are let go part by part."""
    modalities = fresh(config).modalities
    different: set[str] = set()

    def named() -> Iterator[Material]:
        rounds = (((turn, material) for material in materials(config)) for turn in count())
        for turn, material in islice(chain.from_iterable(rounds), rows):
            different.add(material.id)
            yield dataclasses.replace(material, id=f"{material.id}/{turn}")

    source = named()
    cut = [make_batch(list(islice(source, size or rows)), modalities) for _ in range(0, rows, size or rows)]
    return (cut[0] if len(cut) == 1 else MicroBatches(tuple(cut))), len(different)


def materials(config: BenchGradientCache) -> Iterator[Material]:
    """Of the dataset, or of the demonstration corpus."""
    if config.data is not None:
        yield from Dataset.open(config.data).materials(modalities=[m for m in config.modalities if m != "crystal"])
        return
    from crystalign.modalities.composition import Composition
    from crystalign.physics.diffraction import powder_peaks
    from crystalign.sources.demo import DemoSource

    source = DemoSource()
    for found in (found for item in source.items() for found in source.load(item)):
        if isinstance(found, Material):
            derived = {"xrd": powder_peaks(found.crystal), "composition": Composition.of(found.crystal)}
            yield dataclasses.replace(found, modalities={**found.modalities, **derived})


def memory(name: str) -> int:
    """Bytes, as Linux counts them for this process."""
    with open("/proc/self/status") as file:
        (line,) = (line for line in file if line.startswith(name))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main(tyro.cli(BenchGradientCache, description=__doc__))
