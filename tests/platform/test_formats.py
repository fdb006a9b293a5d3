"""Datasets and models of earlier releases open, but where a network would be shown something else than it learned."""

from __future__ import annotations

import json

import pytest
import torch

from crystalign.errors import DatasetError, ModelError
from crystalign.model import Model, load
from crystalign.model_config import ModalitySpec, ModelConfig
from crystalign.shards.dataset import Dataset
from crystalign.shards.manifest import MANIFEST
from crystalign.shards.writer import commit_manifest, write_shard

CRYSTAL = ModalitySpec(encoder="gated-graph", options={"hidden": 8, "layers": 1, "width": 16})
COMPOSITION = ModalitySpec(encoder="composition-transformer", options={"hidden": 16, "layers": 1})
DENSITY = ModalitySpec(encoder="conv3d", options={"channels": [4, 8]})


def as_of_format(folder, number: int) -> None:
    path = folder / "config.json"
    values = json.loads(path.read_text())
    if number < 3:
        values["config"]["objective"] = values["config"]["objective"]["kind"]
    path.write_text(json.dumps(values | {"format": number}))


def model(**modalities: ModalitySpec) -> Model:
    torch.manual_seed(0)
    return Model(ModelConfig(embedding_dim=8, modalities=modalities))


def test_a_model_of_format_1_opens_and_keeps_its_format_and_identity(tmp_path):
    model(crystal=CRYSTAL, composition=COMPOSITION).save_pretrained(tmp_path / "model")
    as_of_format(tmp_path / "model", 1)
    first = load(tmp_path / "model")
    assert first.format == 1
    first.save_pretrained(tmp_path / "again")
    assert load(tmp_path / "again").sha256 == first.sha256
    assert json.loads((tmp_path / "again" / "config.json").read_text())["format"] == 1


def test_a_model_that_learned_voxels_in_other_settings_is_refused(tmp_path):
    model(crystal=CRYSTAL, charge_density=DENSITY).save_pretrained(tmp_path / "model")
    assert load(tmp_path / "model").format == 3
    as_of_format(tmp_path / "model", 4)
    with pytest.raises(ModelError, match="format 4, this version reads 1"):
        load(tmp_path / "model")
    as_of_format(tmp_path / "model", 1)
    with pytest.raises(ModelError, match=r"format 1: .* trained it on charge_density .* Train it again"):
        load(tmp_path / "model")


def test_an_earlier_formats_densities_and_pictures_are_refused_and_nothing_else(tmp_path, synthetic_materials):
    uri = str(tmp_path / "data")
    commit_manifest(uri, [write_shard(uri, "a", synthetic_materials(8))])
    Dataset.open(uri).require_current(("charge_density", "image", "xrd"))
    path = tmp_path / "data" / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 2}))
    older = Dataset.open(uri)
    older.require_current(("crystal", "xrd", "dos"))
    for name in ("charge_density", "image"):
        with pytest.raises(DatasetError, match=rf"version 2, in which {name} was stored .* ingest the source again"):
            older.require_current(("xrd", name))
