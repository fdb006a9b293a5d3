"""A dataset of small binaries with labels that follow from what they are, and networks small enough to learn them."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from crystalign.crystal import Crystal
from crystalign.finetuning.data.task import Labels, Task, read_labels
from crystalign.finetuning.trials.config import TrialConfig
from crystalign.material import Material, Provenance
from crystalign.modalities.composition import Composition
from crystalign.modalities.vector import Vector
from crystalign.physics.symmetry import symmetry
from crystalign.properties import PropertySpec, Quantity
from crystalign.shards.dataset import Dataset
from crystalign.shards.writer import commit_manifest, write_shard

CATIONS, ANIONS, SCALES = (3, 11, 12, 19, 20, 22, 25, 26, 29, 30, 38, 56), (8, 9, 16, 17, 34, 35), (0.97, 1.0, 1.06)


def spec(quantity: Quantity, method: str = "pbe", vintage: str = "2026") -> PropertySpec:
    return PropertySpec(quantity=quantity, method=method, source="synthetic", vintage=vintage)


GAP, HSE = spec(Quantity.BAND_GAP), spec(Quantity.BAND_GAP, method="hse06")
ENERGY = spec(Quantity.FORMATION_ENERGY_PER_ATOM)
BULK, SHEAR = spec(Quantity.BULK_MODULUS_VRH), spec(Quantity.SHEAR_MODULUS_VRH)
OLD = spec(Quantity.EFERMI, vintage="2019")
RARE = spec(Quantity.REFRACTIVE_INDEX)
BINARY = spec(Quantity.TOTAL_MAGNETIZATION_PER_ATOM)
SPECS = (GAP, HSE, ENERGY, BULK, SHEAR, OLD, RARE, BINARY)


def binary(number: int, cation: int, anion: int, scale: float) -> Material:
    edge = scale * (3.5 + 0.02 * cation + 0.03 * anion)
    rock_salt = (cation + anion) % 2 == 0
    site = [0.5] * 3 if rock_salt else [0.25] * 3
    crystal = Crystal(edge * (np.ones((3, 3)) - np.eye(3)) / 2, np.array([[0, 0, 0], site]), np.array([cation, anion]))
    energy = -0.5 - 0.04 * (36 - anion) - 0.02 * cation + 8.0 * (scale - 1.0) ** 2
    modalities = {"composition": Composition.of(crystal)}
    if number % 3:
        numbers = np.array([edge, cation / 10, anion / 10, float(rock_salt)], np.float32)
        modalities["tabular"] = Vector(numbers)
    properties = {
        GAP: max(0.0, 0.08 * (30 - anion) - 0.02 * (cation - 20)),
        ENERGY: energy,
        BULK: 600.0 * np.exp(-0.9 * (edge - 3.5)),
        OLD: energy + 1.0,
        BINARY: float(anion > 16),
    }
    properties |= {SHEAR: 0.5 * properties[BULK] + 2.0} if number % 2 else {}
    properties |= {HSE: properties[GAP] + 1.0} if number % 4 else {}
    properties |= {RARE: 2.0} if number < 3 else {}
    found = symmetry(crystal)
    return Material(
        f"binary-{number:03d}",
        crystal,
        Provenance("synthetic", "CC0-1.0", "2026"),
        modalities,
        properties,
        found.number,
        found.prototype,
    )


@pytest.fixture(scope="session")
def binaries() -> list[Material]:
    """216 materials of 72 formulas; two of three have descriptors."""
    combined = itertools.product(SCALES, CATIONS, ANIONS)
    return [binary(number, cation, anion, scale) for number, (scale, cation, anion) in enumerate(combined)]


@pytest.fixture(scope="session")
def labelled(binaries, tmp_path_factory) -> Dataset:
    """The binaries on disk, in two shards."""
    uri = str(tmp_path_factory.mktemp("labelled") / "data")
    shards = [
        write_shard(uri, f"part-{n}", binaries[start : start + 108], SPECS, rows_per_group=32)
        for n, start in enumerate((0, 108))
    ]
    commit_manifest(uri, shards, SPECS)
    return Dataset.open(uri)


@pytest.fixture(scope="session")
def energies(labelled) -> Labels:
    """Formation energies of all binaries."""
    return read_labels(labelled, Task(target="formation_energy_per_atom"))


GRAPH = {"encoder": "gated-graph", "options": {"hidden": 16, "layers": 1, "width": 32, "gaussians": 16}}
SHORT = {"max_epochs": 30, "warmup_epochs": 2, "batch_size": 32, "min_steps": 4, "patience": 5}


@pytest.fixture(scope="session")
def trial(labelled) -> Callable[..., TrialConfig]:
    """A short trial on the formation energy with a small graph network; keywords change it."""

    def make(**changes) -> TrialConfig:
        values = {
            "data": labelled.uri,
            "task": {"target": "formation_energy_per_atom"},
            "encoders": {"crystal": GRAPH},
            "recipe": SHORT,
            "lr": 5e-3,
        }
        return TrialConfig.from_mapping(values | changes, origin="the test")

    return make
