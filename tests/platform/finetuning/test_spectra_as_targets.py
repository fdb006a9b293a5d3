"""A spectrum is predicted as the mean of those that lie next to the crystal in the aligned space."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from crystalign.errors import ConfigError
from crystalign.finetuning.prediction.spectra import SpectrumTarget, part_of
from crystalign.modalities.dos import GRID, DensityOfStates
from crystalign.model import Model, ModelCard, ModelConfig
from crystalign.shards.dataset import Dataset
from crystalign.shards.splits import SplitRule
from crystalign.shards.writer import commit_manifest, write_shard

CONFIG = ModelConfig(
    modalities={
        "crystal": {"encoder": "gated-graph", "options": {"hidden": 8, "layers": 1, "width": 16}},
        "dos": {"encoder": "dos-transformer", "options": {"hidden": 8, "layers": 1, "patch": 20}},
        "xrd": {"encoder": "xrd-resnet", "options": {"channels": (4, 8), "positions": 8, "reduced": 8, "hidden": 16}},
    },
    embedding_dim=8,
)


@pytest.fixture(scope="module")
def model() -> Model:
    torch.manual_seed(0)
    made = Model(CONFIG).eval()
    made.card = ModelCard(split=SplitRule(train=0.5, validation=0.2).model_dump())
    return made


def perfect(model: Model, materials, monkeypatch) -> None:
    """Crystals and spectra of one material get one vector, others orthogonal ones."""
    vectors = np.eye(len(materials), dtype=np.float32)
    place = {id(m.value(name)): n for n, m in enumerate(materials) for name in ("crystal", "dos", "xrd")}
    monkeypatch.setattr(model, "embed", lambda name, values: vectors[[place[id(value)] for value in values]])


@pytest.mark.parametrize("name", ["dos", "xrd"])
def test_a_perfect_alignment_finds_its_own_spectrum(model, synthetic_materials, monkeypatch, name):
    materials = synthetic_materials(20)
    perfect(model, materials, monkeypatch)
    alone = SpectrumTarget.fit(model, name, materials, neighbours=1).errors(materials[:8])
    assert np.abs(alone.predicted).max() == 0.0
    assert alone.mean.min() > 0.05
    five = SpectrumTarget.fit(model, name, materials).errors(materials[:8])
    assert five.predicted.max() < 1e-3  # the weights of the four others are e^(-1/τ)


def test_neighbours_weigh_by_their_cosine(model, synthetic_materials, monkeypatch):
    materials = synthetic_materials(3)
    vectors = {"crystal": np.array([[1.0, 0.0]]), "dos": np.array([[0.0, 1.0], [0.8, 0.6], [0.6, 0.8]])}
    monkeypatch.setattr(model, "embed", lambda name, values: vectors[name][: len(values)].astype(np.float32))
    target = SpectrumTarget.fit(model, "dos", materials, neighbours=2)
    found = target.predict([materials[0].crystal])[0]
    sharp = float(model.logit_scales()["crystal", "dos"].detach())
    weights = np.exp(sharp * np.array([0.8, 0.6]))
    assert found == pytest.approx(weights / weights.sum() @ target.curves[1:], rel=1e-5)


def test_what_a_spectrum_does_not_reach_neither_counts_nor_is_averaged(model, synthetic_materials, monkeypatch):
    def spectrum(high: float, level: float) -> DensityOfStates:
        energies = np.arange(-12.0, high, 0.02)
        return DensityOfStates(energies, np.full(len(energies), level), 1).standardised()

    levels = ((12.0, 1.0), (5.0, 3.0), (5.0, 1.0))
    materials = [
        replace(m, modalities={"dos": spectrum(*level)})
        for m, level in zip(synthetic_materials(3), levels, strict=True)
    ]
    vectors = {"crystal": np.ones((3, 1)), "dos": np.ones((2, 1))}
    monkeypatch.setattr(model, "embed", lambda name, values: vectors[name][: len(values)].astype(np.float32))
    target = SpectrumTarget.fit(model, "dos", materials[:2], neighbours=2)
    found = target.predict([materials[0].crystal])[0]
    assert found[GRID < 4.9] == pytest.approx(2.0)
    assert found[GRID > 5.1] == pytest.approx(1.0), "only one of the two is known there"
    assert target.errors(materials[2:]).predicted == pytest.approx(1.0), "no error beyond 5 eV, where nobody knows"


def test_training_spectra_are_of_the_models_own_split(model, synthetic_materials, tmp_path):
    uri = str(tmp_path / "data")
    commit_manifest(uri, [write_shard(uri, "a", synthetic_materials(60), (), rows_per_group=16)], ())
    dataset = Dataset.open(uri)
    parts = {which: part_of(model, dataset, which, "dos") for which in ("train", "validation", "test")}
    formulas = {which: {m.crystal.formula for m in found} for which, found in parts.items()}
    assert not formulas["train"] & formulas["test"]
    assert sum(map(len, parts.values())) == 60
    target = SpectrumTarget.fit(model, "dos", parts["train"])
    errors = target.errors(parts["test"])
    assert errors.predicted.shape == errors.mean.shape == (len(parts["test"]),)
    assert target.predict([]).shape == (0, target.curves.shape[1])


def test_what_is_no_spectrum_is_refused(model, synthetic_materials):
    with pytest.raises(ConfigError, match="'text' is not a spectrum"):
        SpectrumTarget.fit(model, "text", synthetic_materials(2))
    with pytest.raises(ConfigError, match="no modality 'phonon_dos'"):
        SpectrumTarget.fit(model, "phonon_dos", synthetic_materials(2))
    with pytest.raises(ConfigError, match="none of 0"):
        SpectrumTarget.fit(model, "dos", [])
    bare = Model(CONFIG)
    with pytest.raises(ConfigError, match="does not record"):
        part_of(bare, None, "train", "dos")
