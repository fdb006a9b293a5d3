"""What each encoder costs: features per second, vectors per second, and the share of time outside the network.

    python tests/benchmarks/bench_encoders.py --data URI

One thread, one process, its processor time: rates are per core. Where the dataset lacks an encoder's modality, that
modality's stand-in is timed and marked. A GPU, where there is one, gets a column of its own for the
network; the features are made on the CPU whatever computes the vectors.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import cycle
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.progress import track
from rich.table import Table

from crystalign.config import Config
from crystalign.encoders import ENCODERS, encoder_class, encoder_settings
from crystalign.encoders.encoder import Encoder
from crystalign.errors import InputError
from crystalign.modalities import Inputs, make_modality
from crystalign.shards.dataset import Dataset
from crystalign.shards.schema import table_to_materials


class BenchEncoders(Config):
    """Time featurisation and network of every encoder."""

    data: str
    """Dataset whose rows are encoded."""
    rows: int = 512
    """Of the dataset, from the first shard."""
    batch_size: int = 32
    """Samples that pass the network together."""
    seconds: float = 4.0
    """Each half of each measurement stops after this long."""
    names: tuple[str, ...] = ()
    """Encoders to time; none given means all."""


def main(config: BenchEncoders) -> None:
    """Print one row per encoder."""
    torch.set_num_threads(1)
    gpu = torch.cuda.is_available()
    dataset = Dataset.open(config.data)
    materials = table_to_materials(dataset.read(0), dataset.manifest.properties)[: config.rows]
    columns = ["encoder", "modality", "parameters", "features/s", "vectors/s", "outside the network"]
    table = Table(*columns, *(["vectors/s, GPU"] if gpu else []), title=f"{dataset.manifest.rows:,} rows, per core")
    for name in track(config.names or tuple(ENCODERS), "timing", transient=True):
        entry = ENCODERS[name]
        modality = make_modality(entry.modality, entry.features)
        values = [value for m in materials if (value := m.value(entry.modality)) is not None]
        label = entry.modality if values else f"{entry.modality} (stand-in)"
        made, samples = features(modality, values, config.seconds)
        encoder = build(name, values)
        batches = [
            modality.collate(samples[start : start + config.batch_size])
            for start in range(0, len(samples), config.batch_size)
        ]
        sizes = [len(samples[start : start + config.batch_size]) for start in range(0, len(samples), config.batch_size)]
        parts = [samples[start : start + config.batch_size] for start in range(0, len(samples), config.batch_size)]
        collated = rate(parts, sizes, modality.collate, config)
        vectors = rate(batches, sizes, encoder, config)
        outside = 1.0 / made + 1.0 / collated
        row = [name, label, f"{sum(p.numel() for p in encoder.parameters()):,}", f"{made:,.0f}", f"{vectors:,.0f}"]
        row.append(f"{outside / (outside + 1.0 / vectors):.0%}")
        if gpu:
            moved = [to_gpu(batch) for batch in batches]
            row.append(f"{rate(moved, sizes, encoder.cuda(), config, time.perf_counter):,.0f}")
        table.add_row(*row)
    Console(width=130).print(table)


def features(modality: Any, values: list[Any], seconds: float) -> tuple[float, list[Any]]:
    """Samples per second, and the samples; values that the modality refuses are passed over."""
    if not values:
        sample = modality.empty_sample()
        began = time.process_time()
        for _ in range(32):
            modality.empty_sample()
        return 32 / (time.process_time() - began), [sample] * 64
    samples = []
    began = time.process_time()
    for value in values:
        try:
            samples.append(modality.featurise(value))
        except InputError:
            continue
        if time.process_time() - began > seconds:
            break
    return len(samples) / (time.process_time() - began), samples


def build(name: str, values: list[Any]) -> Encoder:
    """The encoder, its tokenizer trained on the values where it has one."""
    cls, settings = encoder_class(name), encoder_settings(name)
    return cls.build(settings, cls.prepare(settings, values or ["a crystal"])).eval()


def rate(
    batches: list[Any],
    sizes: list[int],
    work: Callable[[Any], Any],
    config: BenchEncoders,
    clock: Callable[[], float] = time.process_time,
) -> float:
    """Samples per second of a piece of work, the first batch not counted."""
    done, began = 0, 0.0
    with torch.no_grad():
        work(batches[0])
        began = clock()
        for batch, size in cycle(zip(batches, sizes, strict=True)):
            work(batch)
            done += size
            if clock() - began > config.seconds:
                break
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return done / (clock() - began)


def to_gpu(inputs: Inputs) -> Inputs:
    """The tensors of a batch on the GPU."""
    return {name: tensor.cuda() for name, tensor in inputs.items()}


if __name__ == "__main__":
    main(tyro.cli(BenchEncoders, description=__doc__))
