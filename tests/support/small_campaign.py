"""A labelled dataset, small networks and a campaign over them, for tests and for drivers in processes of their own."""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from crystalign.crystal import Crystal
from crystalign.finetuning.trials.config import TrialConfig
from crystalign.material import Material, Provenance
from crystalign.modalities.composition import Composition
from crystalign.modalities.vector import Vector
from crystalign.properties import PropertySpec, Quantity
from crystalign.shards.writer import commit_manifest, write_shard
from crystalign_jobs.campaign.config import Tune
from crystalign_jobs.campaign.run import tune
from crystalign_jobs.campaign.work import Watch

CATIONS, ANIONS, SCALES = (3, 11, 12, 19, 20, 22, 25, 26, 29, 30, 38, 56), (8, 9, 16, 17, 34, 35), (0.97, 1.03)


def spec(quantity: Quantity) -> PropertySpec:
    return PropertySpec(quantity=quantity, method="pbe", source="synthetic", vintage="2026")


ENERGY, BULK = spec(Quantity.FORMATION_ENERGY_PER_ATOM), spec(Quantity.BULK_MODULUS_VRH)
IONIC, RARE = spec(Quantity.TOTAL_MAGNETIZATION_PER_ATOM), spec(Quantity.REFRACTIVE_INDEX)
VOLUME = spec(Quantity.VOLUME_PER_ATOM)
SPECS = (ENERGY, BULK, IONIC, RARE, VOLUME)

GRAPH = {"encoder": "gated-graph", "options": {"hidden": 8, "layers": 1, "width": 16, "gaussians": 8}}
TABLE = {"encoder": "tabular-mlp", "options": {"inputs": 3, "layers": [32, 32]}, "features": {"width": 3}}
FORMULA = {"encoder": "composition-transformer", "options": {"hidden": 8, "layers": 1}}
RECIPE = {"max_epochs": 12, "warmup_epochs": 1, "batch_size": 32, "patience": 12, "save_seconds": 0.0}


def binary(number: int, cation: int, anion: int, scale: float) -> Material:
    edge = scale * (3.5 + 0.02 * cation + 0.03 * anion)
    site = [0.5] * 3 if (cation + anion) % 2 == 0 else [0.25] * 3
    crystal = Crystal(edge * (np.ones((3, 3)) - np.eye(3)) / 2, np.array([[0, 0, 0], site]), np.array([cation, anion]))
    modalities = {"composition": Composition.of(crystal)}
    if number % 4:
        modalities["tabular"] = Vector(np.array([edge, cation / 10, anion / 10], np.float32))
    properties = {
        ENERGY: -0.5 - 0.04 * (36 - anion) - 0.02 * cation + 8.0 * (scale - 1.0) ** 2,
        BULK: 600.0 * float(np.exp(-0.9 * (edge - 3.5))),
        IONIC: float(anion > 16),
        VOLUME: crystal.volume / 2,
    } | ({RARE: 2.0} if number < 3 else {})
    provenance = Provenance("synthetic", "CC0-1.0", "2026")
    return Material(f"binary-{number:03d}", crystal, provenance, modalities, properties)


def write_dataset(uri: str) -> str:
    """144 materials of 72 formulas; three of four have descriptors."""
    combined = itertools.product(SCALES, CATIONS, ANIONS)
    materials = [binary(number, cation, anion, scale) for number, (scale, cation, anion) in enumerate(combined)]
    commit_manifest(uri, [write_shard(uri, "part-0", materials, SPECS, rows_per_group=48)], SPECS)
    return uri


def write_model(folder: str | Path, **rule: Any) -> str:
    """An aligned model that has seen the training part alone."""
    import torch

    from crystalign.model import Model, ModelConfig
    from crystalign.model_config import ModelCard
    from crystalign.shards.splits import SplitRule

    torch.manual_seed(0)
    model = Model(ModelConfig(modalities={"crystal": GRAPH, "composition": FORMULA}, embedding_dim=8))
    model.save_pretrained(folder, ModelCard(split=SplitRule(**({"train": 0.8} | rule)).model_dump()))
    return str(folder)


def settings(data: str, out: str | Path, **changes: Any) -> Tune:
    """One task, a constant and a network on descriptors, two learning rates, two seeds: five trials."""
    base: dict[str, Any] = {
        "data": data,
        "out": str(out),
        "tasks": {"energy": {"target": "formation_energy_per_atom"}},
        "initialisations": {"mean": "mean", "scratch": {"encoders": {"tabular": TABLE}}},
        "learning_rates": (1e-2, 1e-3),
        "seeds": (0, 1),
        "recipe": RECIPE,
    }
    return Tune.from_mapping(base | changes, origin="the test")


def audit(folder: str | Path, *, dies: dict[str, Any] | None = None) -> Watch:
    """A watch that notes every epoch of every trial, and lets one thing happen.

    Args:
        folder: where notes are written.
        dies: of `{"seed", "lr", "epoch", "how", "times"}`: `kill` of the process, `raise`, or `hang`, which notes its
            epoch again and again.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    notes = str(folder)

    def write(config: TrialConfig, epoch: int) -> None:
        with (Path(notes) / f"{config.id}.txt").open("a") as note:
            note.write(f"{epoch} {os.getpid()}\n")

    def watch(config: TrialConfig, metrics: dict[str, float]) -> None:
        epoch = int(metrics["epoch"])
        write(config, epoch)
        if dies is None or (config.seed, config.lr, epoch) != (dies["seed"], dies["lr"], dies["epoch"]):
            return
        if dies["how"] == "raise":
            raise ValueError("the furnace is cold")
        while dies["how"] == "hang":
            time.sleep(0.1)
            write(config, epoch)
        earlier = len(list(Path(notes).glob("death-*")))
        if earlier < dies["times"]:
            (Path(notes) / f"death-{earlier}").touch()
            os.kill(os.getpid(), signal.SIGKILL)

    return watch


def epochs_of(folder: str | Path) -> dict[str, list[int]]:
    """Trial → the epochs that were noted, in order."""
    return {
        place.stem: [int(line.split()[0]) for line in place.read_text().splitlines()]
        for place in sorted(Path(folder).glob("*.txt"))
    }


if __name__ == "__main__":
    data, out, notes = sys.argv[1:4]
    tune(settings(data, out), watch=audit(notes, dies=json.loads(sys.argv[4])))
