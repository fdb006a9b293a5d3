"""Crystal encoders trained from scratch on the same labels for the same time: which predicts best?

    crystalign ingest TABLE --mapping materials_project_2019 --out DATA
    python tests/benchmarks/compare_crystal_encoders.py --data DATA --minutes 10 --seeds 3

Formation energy and band gap together, two outputs of one linear layer on the encoder's vector;
training, validation and test part by formula. The budget is time on one thread, so that a network
pays for its own cost: AdamW, mean absolute error of standardised labels, one cycle of the learning
rate over the minutes. Features are made before the clock starts, for all encoders alike. The mean
of the training labels stands beside as what knowing nothing scores.
"""

from __future__ import annotations

import csv
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn

from crystalign.config import Config
from crystalign.encoders import ENCODERS, make_encoder
from crystalign.errors import InputError
from crystalign.material import Material
from crystalign.modalities import Features, Modality, make_modality
from crystalign.shards.dataset import Dataset
from crystalign.shards.schema import table_to_materials
from crystalign.shards.splits import SplitRule, fraction

TARGETS = ("formation_energy_per_atom", "band_gap")
UNITS = ("eV/atom", "eV")
LOOK_AT = (0.5, 0.7, 0.85, 0.93, 0.98, 2.0)
"""Shares of the time after which the validation part is asked whether this is the best so far."""


class CompareCrystalEncoders(Config):
    """Train each encoder from scratch on formation energies and band gaps."""

    data: str
    """Dataset with both properties."""
    names: tuple[str, ...] = ("dual-space", "gated-graph", "potnet-ranged", "potnet", "cgcnn", "matbind-gcn")
    """Encoders."""
    options: dict[str, Any] = {}
    """Settings of the first encoder that differ from its entry, as JSON."""
    rows: int = 12000
    """Crystals, the first of the dataset."""
    max_sites: int = 40
    """Larger crystals are left out for all."""
    minutes: float = 10.0
    """Training time of each run."""
    seeds: int = 3
    """Runs of each encoder."""
    batch_size: int = 64
    """Crystals of a step."""
    lr: float = 2e-3
    """Peak of the learning rate."""
    out: str | None = None
    """CSV to which each finished run is appended; what stands in it is not run again."""


class Data(NamedTuple):
    """Features and labels of one part."""

    samples: list[Features]
    labels: Tensor
    """(n, 2), NaN where unknown."""


def main(config: CompareCrystalEncoders) -> None:
    """Run what is missing, print the table."""
    torch.set_num_threads(1)
    materials = read(config)
    done = finished(config.out)
    for name in config.names:
        todo = [seed for seed in range(config.seeds) if (name, seed) not in done]
        if not todo:
            continue
        modality = make_modality("crystal", ENCODERS[name].features)
        parts = {part: featurised(modality, found) for part, found in materials.items()}
        for seed in todo:
            options = config.options if name == config.names[0] else {}
            errors, steps = run(config, name, options, seed, modality, parts)
            done[name, seed] = [*errors.tolist(), steps]
            if config.out:
                with Path(config.out).open("a", newline="", encoding="utf-8") as file:
                    csv.writer(file).writerow([name, seed, *done[name, seed]])
    report(config, materials, done)


def read(config: CompareCrystalEncoders) -> dict[str, list[Material]]:
    """Training, validation and test part, by formula."""
    dataset, rule = Dataset.open(config.data), SplitRule()
    parts: dict[str, list[Material]] = {"train": [], "validation": [], "test": []}
    for shard in range(len(dataset.manifest.shards)):
        for material in table_to_materials(dataset.read(shard, modalities=[]), dataset.manifest.properties):
            if len(material.crystal) <= config.max_sites and sum(map(len, parts.values())) < config.rows:
                parts[rule.name_of(fraction(material.crystal.formula))].append(material)
    return parts


def labels(materials: list[Material]) -> Tensor:
    """(n, 2) of `TARGETS`, NaN where unknown."""
    known = [{spec.quantity.value: value for spec, value in m.properties.items()} for m in materials]
    return torch.tensor([[row.get(target, np.nan) for target in TARGETS] for row in known])


def featurised(modality: Modality[Any], materials: list[Material]) -> Data:
    """Features of every crystal that the encoder takes; the others are an error of the comparison."""
    samples = []
    for material in track(materials, "graphs", transient=True):
        try:
            samples.append(modality.featurise(material.crystal))
        except InputError as error:
            raise SystemExit(f"{material.id}: {error}; lower --max-sites") from error
    return Data(samples, labels(materials))


def run(
    config: CompareCrystalEncoders,
    name: str,
    options: dict[str, Any],
    seed: int,
    modality: Modality[Any],
    parts: dict[str, Data],
) -> tuple[NDArray[np.float64], int]:
    """Train one network; its test errors in the units of the labels, and its steps."""
    torch.manual_seed(seed)
    train = parts["train"]
    mean, std = train.labels.nanmean(dim=0), torch.from_numpy(np.nanstd(train.labels.numpy(), axis=0))
    encoder = make_encoder(name, options)
    network = nn.Sequential(encoder, nn.LayerNorm(encoder.width), nn.Linear(encoder.width, len(TARGETS)))
    optimiser = torch.optim.AdamW(network.parameters(), lr=config.lr, weight_decay=1e-2)
    order, steps = np.random.default_rng(seed), 0
    began, looks, looking = time.perf_counter(), 0, 0.0
    best, chosen = np.inf, network.state_dict()
    while (progress := (time.perf_counter() - began - looking) / (60.0 * config.minutes)) < 1.0:
        for group in optimiser.param_groups:
            group["lr"] = config.lr * min(progress / 0.1, 0.5 * (1.0 + np.cos(np.pi * max(0.0, progress - 0.1) / 0.9)))
        rows = order.choice(len(train.samples), config.batch_size, replace=False)
        predicted = network(modality.collate([train.samples[row] for row in rows]))
        error = (predicted - (train.labels[rows] - mean) / std).abs()
        loss = error[torch.isfinite(error)].mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        steps += 1
        if progress > LOOK_AT[looks]:
            since = time.perf_counter()
            looks += 1
            validation = float((evaluate(network, modality, parts["validation"], mean, std) / std.numpy()).sum())
            if validation < best:
                best, chosen = validation, {key: value.clone() for key, value in network.state_dict().items()}
            looking += time.perf_counter() - since
    network.load_state_dict(chosen)
    return evaluate(network, modality, parts["test"], mean, std), steps


def evaluate(network: nn.Module, modality: Modality[Any], part: Data, mean: Tensor, std: Tensor) -> NDArray[np.float64]:
    """(2,) mean absolute errors."""
    network.eval()
    with torch.no_grad():
        found = [
            network(modality.collate(part.samples[start : start + 128])) for start in range(0, len(part.samples), 128)
        ]
    network.train()
    errors = (torch.cat(found) * std + mean - part.labels).abs()
    return np.nanmean(errors.numpy().astype(np.float64), axis=0)


def finished(path: str | None) -> dict[tuple[str, int], list[float]]:
    """Runs that stand in the CSV."""
    if path is None or not Path(path).exists():
        return {}
    with Path(path).open(encoding="utf-8") as file:
        return {(row[0], int(row[1])): [float(value) for value in row[2:]] for row in csv.reader(file)}


def report(
    config: CompareCrystalEncoders,
    materials: dict[str, list[Material]],
    done: dict[tuple[str, int], list[float]],
) -> None:
    """Mean and standard deviation over seeds."""
    table = Table("encoder", *(f"{t} ({u})" for t, u in zip(TARGETS, UNITS, strict=True)), "steps", "runs")
    known, unseen = labels(materials["train"]).numpy(), labels(materials["test"]).numpy()
    nothing = np.nanmean(np.abs(unseen - np.nanmean(known, axis=0)), axis=0)
    table.add_row("mean of the training labels", *(f"{value:.4f}" for value in nothing), "–", "–")
    for name in config.names:
        runs = np.array([values for (found, _), values in done.items() if found == name])
        if len(runs):
            cells = [
                f"{m:.4f} ± {s:.4f}" for m, s in zip(runs.mean(0)[:2], runs.std(0, ddof=len(runs) > 1)[:2], strict=True)
            ]
            table.add_row(name, *cells, f"{runs[:, 2].mean():,.0f}", str(len(runs)))
    sizes = ", ".join(f"{len(found):,} {part}" for part, found in materials.items())
    Console(width=120).print(table, f"{sizes}; {config.minutes:g} minutes on one thread each; ± over seeds")


if __name__ == "__main__":
    main(tyro.cli(CompareCrystalEncoders, description=__doc__))
