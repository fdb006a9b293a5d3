"""Every encoder in the real training path: a few DDP steps on two workers, the losses of its pair and its rate.

    python tests/benchmarks/train_every_encoder.py --data URI

The dataset decides which modalities there are; give one that has what is to be tried (`crystalign
derive --modalities …` adds pictures and descriptors). Encoders are tried one of each modality at a
time, so that seven runs cover them all. Published text encoders train a small network from scratch.
"""

from __future__ import annotations

import csv
import tempfile
from itertools import zip_longest

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from crystalign import storage
from crystalign.config import Config
from crystalign.encoders import ENCODERS
from crystalign.model_config import ModalitySpec, ModelConfig
from crystalign.shards.dataset import Dataset
from crystalign.training.config import OptimiserConfig
from crystalign_jobs.pretrain import Pretrain, pretrain
from crystalign_ray.session import session


class TrainEveryEncoder(Config):
    """Train each encoder for a few steps."""

    data: str
    """Dataset to train on."""
    steps: int = 12
    """Optimiser steps of each run."""
    batch_size: int = 32
    """Global batch."""
    options: dict[str, dict[str, object]] = {}
    """Encoder → settings that differ from its entry, as JSON."""
    skip: tuple[str, ...] = ()
    """Encoders to leave out."""


def main(config: TrainEveryEncoder) -> None:
    """Train, print one row per run."""
    counts = Dataset.open(config.data).manifest.modalities
    present = {"crystal": 1} | {name: count for name, count in counts.items() if count}
    named = {
        modality: [name for name, e in ENCODERS.items() if e.modality == modality and name not in config.skip]
        for modality in present
    }
    others = {modality: names for modality, names in named.items() if modality != "crystal"}
    table = Table("crystal", "aligned with", "pair", "loss, first", "loss, last", "samples/s")
    with tempfile.TemporaryDirectory(prefix="crystalign-encoders-") as folder, session(None):
        for number, row in enumerate(zip_longest(named["crystal"], *others.values())):
            chosen = dict(zip(("crystal", *others), row, strict=True))
            chosen["crystal"] = chosen["crystal"] or "gated-graph"
            chosen = {modality: name for modality, name in chosen.items() if name is not None}
            if len(chosen) < 2:
                chosen |= {modality: names[0] for modality, names in list(others.items())[:1]}
            rows = train(config, chosen, folder, f"run-{number}")
            rate = f"{float(rows[-1]['samples_per_second']):.0f}"
            for modality, name in chosen.items():
                losses = [float(row[f"loss/crystal-{modality}"]) for row in rows if row.get(f"loss/crystal-{modality}")]
                if modality != "crystal":
                    ends = [f"{np.mean(part):.3f}" for part in (losses[:3], losses[-3:])]
                    table.add_row(chosen["crystal"], name, f"crystal-{modality}", *ends, rate)
    Console(width=140).print(table)


def train(config: TrainEveryEncoder, chosen: dict[str, str], folder: str, name: str) -> list[dict[str, str]]:
    """The metrics of every step."""
    specs = {m: ModalitySpec(encoder=encoder, options=config.options.get(encoder, {})) for m, encoder in chosen.items()}
    run = Pretrain(
        data=config.data,
        out=folder,
        name=name,
        model=ModelConfig(modalities=specs),
        batch_size=config.batch_size,
        epochs=config.steps,  # each has at least one
        max_steps=config.steps,
        optimiser=OptimiserConfig(lr=5e-4, warmup_fraction=0.2),
        log_every_steps=1,
        loggers=("csv",),
    )
    pretrain(run)
    text = storage.read_bytes(storage.join(folder, name, "metrics.csv")).decode()
    return [row for row in csv.DictReader(text.splitlines()) if row["loss"]]


if __name__ == "__main__":
    main(tyro.cli(TrainEveryEncoder, description=__doc__))
