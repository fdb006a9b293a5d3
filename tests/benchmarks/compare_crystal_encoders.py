"""Crystal encoders trained from scratch on the same data for the same time: which is best?

    crystalign ingest TABLE --mapping materials_project_2019 --limit 16000 --out DATA
    crystalign derive DATA --modalities xrd
    python tests/benchmarks/compare_crystal_encoders.py --data DATA --task properties
    python tests/benchmarks/compare_crystal_encoders.py --data DATA --task retrieval

`properties`: formation energy and band gap, two outputs of one linear layer on the encoder's vector;
mean absolute error of standardised labels. `retrieval`: crystal and powder pattern aligned by the
contrastive loss, the pattern's network the same for all; recall of the right one among all unseen.

The budget is processor time of one thread in the steps, so that a network pays for its own cost:
AdamW, one cycle of the learning rate over the budget. Features are made off the clock. With `--steps`
the budget is that number of steps instead. Training, validation and test part by formula; what is
tested is the state that was best on the validation part.
"""

from __future__ import annotations

import csv
import json
import time
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

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
from crystalign.encoders.encoder import Encoder
from crystalign.errors import InputError
from crystalign.evaluation.retrieval import retrieve, score_by_embedding
from crystalign.material import Material
from crystalign.modalities import Features, Modality, make_modality
from crystalign.objectives.clip import contrastive_loss
from crystalign.shards.dataset import Dataset
from crystalign.shards.schema import table_to_materials
from crystalign.shards.splits import SplitRule, fraction

LOOK_AT = (0.5, 0.7, 0.85, 0.93, 0.98, 2.0)
"""Shares of the budget after which the validation part is asked whether this is the best so far."""
PAIR = ("crystal", "xrd")
WIDTH = 128
"""Length of the aligned vectors of `retrieval`."""

Scores = NDArray[np.float64]


class CompareCrystalEncoders(Config):
    """Train each encoder from scratch, test it, print the table."""

    data: str
    """Dataset with both properties, or with powder patterns."""
    task: Literal["properties", "retrieval"] = "properties"
    """What is learnt."""
    names: tuple[str, ...] = ("dual-space", "gated-graph", "potnet-ranged", "potnet", "cgcnn", "matbind-gcn")
    """Encoders; settings that differ from an entry follow its name as JSON."""
    rows: int = 12000
    """Crystals, the first of the dataset that are small enough."""
    max_sites: int = 20
    """Larger crystals are left out for all; PotNet reads all N² pairs."""
    minutes: float = 2.0
    """Processor time of each run's steps."""
    steps: int = 0
    """Where not 0, the steps of each run, whatever time they take."""
    seeds: int = 3
    """Runs of each encoder."""
    batch_size: int = 64
    """Crystals of a step."""
    lr: float = 1e-3
    """Peak of the learning rate."""
    out: str | None = None
    """CSV to which each finished run is appended; what stands in it is not run again."""


class Part(NamedTuple):
    """Training, validation or test part."""

    materials: list[Material]
    crystals: list[Features]


class Task(Protocol):
    """What the encoders are compared at."""

    parts: dict[str, Part]

    def network(self, encoder: Encoder) -> nn.Module:
        """The encoder with what this task puts on it."""

    def batch(self, crystals: Modality[Any], rows: NDArray[np.int64]) -> Any:
        """Rows of the training part as tensors."""

    def loss(self, network: nn.Module, batch: Any) -> Tensor:
        """Of a batch."""

    def scores(self, network: nn.Module, crystals: Modality[Any], part: str) -> Scores:
        """One per column, the network in evaluation mode."""

    def misfit(self, scores: Scores) -> float:
        """What the validation part makes smallest."""


class Properties:
    """Formation energy and band gap, where known."""

    targets = ("formation_energy_per_atom", "band_gap")
    columns = ("formation energy MAE (eV/atom)", "band gap MAE (eV)")
    digits = 4

    def __init__(self, parts: dict[str, Part]) -> None:
        self.parts = parts
        self.labels = {name: self._labels(part.materials) for name, part in parts.items()}
        self.mean = self.labels["train"].nanmean(dim=0)
        self.std = torch.from_numpy(np.nanstd(self.labels["train"].numpy(), axis=0))

    def _labels(self, materials: list[Material]) -> Tensor:
        known = [{spec.quantity.value: value for spec, value in m.properties.items()} for m in materials]
        return torch.tensor([[row.get(target, np.nan) for target in self.targets] for row in known])

    def network(self, encoder: Encoder) -> nn.Module:
        return nn.Sequential(encoder, nn.LayerNorm(encoder.width), nn.Linear(encoder.width, len(self.targets)))

    def batch(self, crystals: Modality[Any], rows: NDArray[np.int64]) -> tuple[dict[str, Tensor], Tensor]:
        inputs = crystals.collate([self.parts["train"].crystals[row] for row in rows])
        return inputs, (self.labels["train"][rows] - self.mean) / self.std

    def loss(self, network: nn.Module, batch: tuple[dict[str, Tensor], Tensor]) -> Tensor:
        inputs, wanted = batch
        error = (network(inputs) - wanted).abs()
        return error[torch.isfinite(error)].mean()

    def scores(self, network: nn.Module, crystals: Modality[Any], part: str) -> Scores:
        found = [network(crystals.collate(batch)) for batch in batches(self.parts[part].crystals)]
        errors = (torch.cat(found) * self.std + self.mean - self.labels[part]).abs()
        return np.nanmean(errors.numpy().astype(np.float64), axis=0)

    def misfit(self, scores: Scores) -> float:
        return float((scores / self.std.numpy()).sum())

    def nothing(self) -> Scores:
        """Errors of the training labels' mean."""
        return np.nanmean((self.labels["test"] - self.mean).abs().numpy().astype(np.float64), axis=0)


class Aligned(nn.Module):
    """A crystal encoder and a pattern encoder, each projected to the shared space."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({"crystal": encoder, "xrd": make_encoder("xrd-resnet")})
        widths = {"crystal": encoder.width, "xrd": self.encoders["xrd"].width}
        self.heads = nn.ModuleDict({name: nn.Linear(int(width), WIDTH) for name, width in widths.items()})
        self.logit_scale = nn.Parameter(torch.tensor(np.log(1.0 / 0.07)))

    def forward(self, name: str, inputs: dict[str, Tensor]) -> Tensor:
        return nn.functional.normalize(self.heads[name](self.encoders[name](inputs)), dim=1)


class Retrieval:
    """Crystal ↔ powder pattern, rendered anew each time it is seen in training."""

    columns = ("crystal → xrd R@1 (%)", "R@10 (%)", "xrd → crystal R@1 (%)", "R@10 (%)")
    digits = 1

    def __init__(self, parts: dict[str, Part]) -> None:
        self.parts = parts
        self.patterns = make_modality("xrd")
        self.rng = np.random.default_rng(0)
        self.keys = {
            name: np.unique([self.patterns.equivalence(m) for m in part.materials], return_inverse=True)[1]
            for name, part in parts.items()
        }

    def network(self, encoder: Encoder) -> nn.Module:
        return Aligned(encoder)

    def batch(self, crystals: Modality[Any], rows: NDArray[np.int64]) -> tuple[dict[str, Any], dict[str, Tensor]]:
        part = self.parts["train"]
        patterns = [self.patterns.featurise(part.materials[row].value("xrd"), rng=self.rng) for row in rows]
        inputs = {
            "crystal": crystals.collate([part.crystals[row] for row in rows]),
            "xrd": self.patterns.collate(patterns),
        }
        return inputs, {"crystal": torch.from_numpy(rows), "xrd": torch.from_numpy(self.keys["train"][rows])}

    def loss(self, network: nn.Module, batch: tuple[dict[str, Any], dict[str, Tensor]]) -> Tensor:
        inputs, keys = batch
        vectors = {name: network(name, tensors) for name, tensors in inputs.items()}
        present = {name: torch.ones(len(z), dtype=torch.bool) for name, z in vectors.items()}
        scales = {PAIR: network.logit_scale.exp().clamp(max=100.0)}
        return contrastive_loss(vectors, present, keys, scales, [PAIR]).total

    def scores(self, network: nn.Module, crystals: Modality[Any], part: str) -> Scores:
        materials, graphs = self.parts[part]
        patterns = [self.patterns.featurise(m.value("xrd")) for m in materials]
        a = torch.cat([network("crystal", crystals.collate(batch)) for batch in batches(graphs)]).numpy()
        b = torch.cat([network("xrd", self.patterns.collate(batch)) for batch in batches(patterns)]).numpy()
        _, groups = np.unique([m.crystal.formula for m in materials], return_inverse=True)
        outcomes = [retrieve(score_by_embedding(*pair), [self.keys[part]], groups) for pair in ((a, b), (b, a))]
        return np.array([100.0 * outcome.hits(k).mean() for outcome in outcomes for k in (1, 10)])

    def misfit(self, scores: Scores) -> float:
        return -float(scores.sum())


def main(config: CompareCrystalEncoders) -> None:
    """Run what is missing, print the table."""
    torch.set_num_threads(1)
    materials = read(config)
    done = finished(config.out)
    task: Task | None = None
    for label in config.names:
        todo = [seed for seed in range(config.seeds) if (label, seed) not in done]
        name, _, options = label.partition(" ")
        if todo:
            modality = make_modality("crystal", ENCODERS[name].features)
            parts = {part: Part(found, featurised(modality, found)) for part, found in materials.items()}
            task = (Properties if config.task == "properties" else Retrieval)(parts)
        for seed in todo:
            assert task is not None
            scores, steps, minutes = run(config, task, name, json.loads(options or "{}"), seed, modality)
            done[label, seed] = [*scores.tolist(), steps, minutes]
            if config.out:
                with Path(config.out).open("a", newline="", encoding="utf-8") as file:
                    csv.writer(file).writerow([label, seed, *done[label, seed]])
    report(config, materials, done)


def read(config: CompareCrystalEncoders) -> dict[str, list[Material]]:
    """Training, validation and test part, by formula."""
    dataset, rule = Dataset.open(config.data), SplitRule()
    wanted = ["xrd"] if config.task == "retrieval" else []
    parts: dict[str, list[Material]] = {"train": [], "validation": [], "test": []}
    for shard in range(len(dataset.manifest.shards)):
        for material in table_to_materials(dataset.read(shard, modalities=wanted), dataset.manifest.properties):
            if len(material.crystal) <= config.max_sites and sum(map(len, parts.values())) < config.rows:
                parts[rule.name_of(fraction(material.crystal.formula))].append(material)
    return parts


def featurised(modality: Modality[Any], materials: list[Material]) -> list[Features]:
    """Features of every crystal; one that the encoder does not take is an error of the comparison."""
    samples = []
    for material in track(materials, "graphs", transient=True):
        try:
            samples.append(modality.featurise(material.crystal))
        except InputError as error:
            raise SystemExit(f"{material.id}: {error}; lower --max-sites") from error
    return samples


def batches(samples: list[Features]) -> list[list[Features]]:
    """Samples in the portions that are evaluated together."""
    return [samples[start : start + 128] for start in range(0, len(samples), 128)]


def run(
    config: CompareCrystalEncoders,
    task: Task,
    name: str,
    options: dict[str, Any],
    seed: int,
    crystals: Modality[Any],
) -> tuple[Scores, int, float]:
    """Train one network; its test scores, its steps and the minutes they took."""
    torch.manual_seed(seed)
    network = task.network(make_encoder(name, options))
    optimiser = torch.optim.AdamW(network.parameters(), lr=config.lr, weight_decay=1e-2)
    order, steps, spent, looks = np.random.default_rng(seed), 0, 0.0, 0
    n = len(task.parts["train"].materials)
    best, chosen = np.inf, network.state_dict()
    while (progress := steps / config.steps if config.steps else spent / (60.0 * config.minutes)) < 1.0:
        for group in optimiser.param_groups:
            group["lr"] = config.lr * min(progress / 0.1, 0.5 * (1.0 + np.cos(np.pi * max(0.0, progress - 0.1) / 0.9)))
        rows = order.choice(n, config.batch_size, replace=False)
        batch = task.batch(crystals, rows)
        began = time.process_time()
        loss = task.loss(network, batch)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        spent += time.process_time() - began
        steps += 1
        if progress > LOOK_AT[looks]:
            looks += 1
            misfit = task.misfit(tested(task, network, crystals, "validation"))
            if misfit < best:
                best, chosen = misfit, {key: value.clone() for key, value in network.state_dict().items()}
    network.load_state_dict(chosen)
    return tested(task, network, crystals, "test"), steps, spent / 60.0


def tested(task: Task, network: nn.Module, crystals: Modality[Any], part: str) -> Scores:
    """Scores without gradients, the network then back in training mode."""
    network.eval()
    with torch.no_grad():
        scores = task.scores(network, crystals, part)
    network.train()
    return scores


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
    kind = Properties if config.task == "properties" else Retrieval
    table = Table("encoder", *kind.columns, "steps", "minutes", "runs")
    if config.task == "properties":
        nothing = Properties({name: Part(found, []) for name, found in materials.items()}).nothing()
        table.add_row("mean of the training labels", *(f"{value:.{kind.digits}f}" for value in nothing))
    for name in config.names:
        runs = np.array([values for (found, _), values in done.items() if found == name])
        if len(runs):
            spread = runs.std(0, ddof=len(runs) > 1)
            cells = [
                f"{m:.{kind.digits}f} ± {s:.{kind.digits}f}"
                for m, s in list(zip(runs.mean(0), spread, strict=True))[: len(kind.columns)]
            ]
            table.add_row(name, *cells, f"{runs[:, -2].mean():,.0f}", f"{runs[:, -1].mean():.1f}", str(len(runs)))
    sizes = ", ".join(f"{len(found):,} {part}" for part, found in materials.items())
    Console(width=150).print(table, f"{sizes}; at most {config.max_sites} sites; one thread each; ± over seeds")


if __name__ == "__main__":
    main(tyro.cli(CompareCrystalEncoders, description=__doc__))
