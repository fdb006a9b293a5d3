"""A small service: forty salts, an untrained model of five modalities, an index, and fine-tuned models beside it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from crystalign.crystal import Crystal
from crystalign.index.build import build_index
from crystalign.index.embeddings import (
    LIGHT_COLUMNS,
    EmbeddingManifest,
    EmbeddingProvenance,
    embedding_table,
    write_embeddings,
)
from crystalign.material import HYPOTHETICAL, Material, Provenance
from crystalign.modalities.composition import Composition
from crystalign.modalities.dos import DensityOfStates
from crystalign.modalities.text import Text
from crystalign.model import Model, ModelConfig, load, prepare
from crystalign.model_config import ModalitySpec, ModelCard
from crystalign.physics.diffraction import powder_peaks
from crystalign.properties import PropertySpec, Quantity
from crystalign.shards.dataset import Dataset
from crystalign.shards.writer import commit_manifest, write_shard

GAP = PropertySpec(quantity=Quantity.BAND_GAP, method="pbe", source="test", vintage="1")
ENERGIES = np.linspace(-12.0, 12.0, 481)


class Places(NamedTuple):
    """Where the parts of the small service are."""

    dataset: str
    model: str
    index: str


def salts() -> list[Material]:
    """Forty salts in the CsCl structure, with everything but a charge density; every fifth has no gap."""
    materials = []
    for number, (a, b) in enumerate((a, b) for a in (3, 11, 19, 37, 55, 12, 20, 38) for b in (8, 9, 16, 17, 35)):
        crystal = Crystal(np.eye(3) * (3.0 + a / 40), np.array([[0, 0, 0], [0.5] * 3]), np.array([a, b]))
        density = np.exp(-((ENERGIES + 2 + number / 20) ** 2)) + np.exp(-((ENERGIES - 3) ** 2))
        modalities = {
            "composition": Composition.of(crystal),
            "text": Text(f"{crystal.formula}, a cubic salt, cell {number}"),
            "xrd": powder_peaks(crystal),
            "dos": DensityOfStates(ENERGIES, density, 2).standardised(),
        }
        properties = {} if number % 5 == 0 else {GAP: number / 10}
        known = {"spacegroup_number": 221, "prototype": "AB:221:a.b"}
        provenance = Provenance("test", "CC-BY-4.0", "1", "made for tests")
        materials.append(Material(f"salt/{number:02d}", crystal, provenance, modalities, properties, **known))
    return materials


def tiny_config() -> ModelConfig:
    """Five modalities in 16 dimensions; none reads a charge density."""
    return ModelConfig(
        embedding_dim=16,
        modalities={
            "crystal": ModalitySpec(encoder="gated-graph", options={"hidden": 8, "layers": 1}),
            "dos": ModalitySpec(encoder="dos-transformer", options={"hidden": 16, "layers": 1, "patch": 10}),
            "xrd": ModalitySpec(encoder="xrd-resnet", options={"channels": (4, 4, 4, 4), "hidden": 8}),
            "text": ModalitySpec(encoder="bert", options={"hidden": 16, "layers": 1, "vocabulary": 100}),
            "composition": ModalitySpec(encoder="composition-transformer", options={"hidden": 16, "layers": 1}),
        },
    )


def embed(model: Model, data: str, model_uri: str, uri: str) -> None:
    """What `crystalign embed` does, in this process."""
    dataset = Dataset.open(data)
    making = EmbeddingProvenance(model_sha256=model.sha256, dataset_sha256=dataset.manifest.sha256, modality="crystal")
    files = []
    for shard, entry in enumerate(dataset.manifest.shards):
        table = dataset.read(shard, columns=[*LIGHT_COLUMNS, HYPOTHETICAL, GAP.column, "crystal", "text"])
        crystals = [material.crystal for material in dataset.materials()][
            sum(e.rows for e in dataset.manifest.shards[:shard]) :
        ]
        vectors = model.embed("crystal", crystals[: entry.rows])
        written = embedding_table(table, vectors, shard=shard, positions=range(entry.rows), properties=(GAP,))
        files.append(write_embeddings(uri, f"shard-{shard}", written, making))
    EmbeddingManifest(
        model_uri=model_uri,
        model_sha256=model.sha256,
        modality="crystal",
        dimension=16,
        dataset_uri=data,
        dataset_sha256=dataset.manifest.sha256,
        rows=dataset.manifest.rows,
        properties=(GAP,),
        licences=("CC-BY-4.0",),
        files=tuple(files),
    ).write(uri)


def build(folder: Path, materials: list[Material], card: ModelCard | None = None) -> Places:
    """A dataset in two shards, an untrained model, an index in four segments."""
    places = Places(str(folder / "data"), str(folder / "model"), str(folder / "index"))
    half = len(materials) // 2
    parts = [("part-0", materials[:half]), ("part-1", materials[half:])]
    shards = [write_shard(places.dataset, name, rows, [GAP], rows_per_group=8) for name, rows in parts]
    commit_manifest(places.dataset, shards, [GAP])
    config = tiny_config()
    torch.manual_seed(0)
    texts = [material.value("text") for material in materials]
    model = Model(config, prepare(config, {"text": texts}))
    model.save_pretrained(places.model, card or ModelCard(name="tiny", steps=7))
    embed(load(places.model), places.dataset, places.model, str(folder / "embeddings"))
    build_index(str(folder / "embeddings"), places.index, rows_per_segment=len(materials) // 4)
    return places


PREDICTORS = {
    "by-formula": {"composition": {"encoder": "composition-transformer", "options": {"hidden": 8, "layers": 1}}},
    "by-pattern": {"xrd": {"encoder": "xrd-resnet", "options": {"channels": (4, 4, 4, 4), "hidden": 8}}},
    "by-spectrum": {"dos": {"encoder": "dos-transformer", "options": {"hidden": 8, "layers": 1}}},
}


def fine_tune(data: str, folder: Path, names: Iterable[str] = tuple(PREDICTORS)) -> str:
    """A folder of fine-tuned models of the gap, by their names."""
    from crystalign.finetuning.trials.config import TrialConfig
    from crystalign.finetuning.trials.trial import run_trial

    (folder / "best").mkdir()
    for name in names:
        recipe = {"max_epochs": 3, "warmup_epochs": 1}
        values = {"data": data, "task": {"target": "band_gap"}, "encoders": PREDICTORS[name], "recipe": recipe}
        run_trial(TrialConfig.from_mapping(values, origin=name), str(folder / "trials" / name))
        (folder / "trials" / name / "model").rename(folder / "best" / name)
    return str(folder / "best")
