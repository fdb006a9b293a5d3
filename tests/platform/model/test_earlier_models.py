"""Models and runs of earlier releases open, compute and are known as before: their objective's settings were flat."""

from __future__ import annotations

import hashlib
import json

import pytest
import torch

from crystalign.errors import ConfigError, ModelError
from crystalign.model import Model, load
from crystalign.model_config import ModelConfig, ModelFile
from crystalign.objectives.clip import contrastive_loss
from crystalign.training.config import PretrainConfig

MODALITIES = {
    "crystal": {"encoder": "gated-graph", "options": {"hidden": 8, "layers": 1, "width": 16}, "features": {}},
    "dos": {"encoder": "dos-transformer", "options": {"hidden": 8, "layers": 1, "patch": 40}, "features": {}},
    "xrd": {
        "encoder": "xrd-resnet",
        "options": {"channels": [8, 8], "reduced": 4, "hidden": 16, "width": 16},
        "features": {},
    },
}
FLAT = {
    "pairs": [],
    "pair_weights": {},
    "objective": "clip",
    "initial_temperature": 0.07,
    "learn_temperature": True,
    "cosface_scale": 3.0,
    "cosface_margin": 0.5,
    "barlow_off_diagonal": 0.0051,
}
"""Every setting, with its default, as a fresh model of the last release wrote them."""
YOUNGER = ("pair_weights", "cosface_scale", "cosface_margin", "barlow_off_diagonal")
"""Settings that the first saved models do not have."""
FROZEN = (
    (
        '{"format":1,"config":{"modalities":{"crystal":{"encoder":"cgcnn","options":{"hidden":8},"features":'
        '{"cutoff":8.0,"k":12}},"xrd":{"encoder":"xrd-resnet","options":{},"features":{}},"dos":{"encoder":'
        '"dos-transformer","options":{},"features":{}}},"pairs":[["crystal","xrd"],["dos","xrd"]],"embedding_dim":128,'
        '"objective":"clip","initial_temperature":0.07,"learn_temperature":true},"card":{"name":"a"},'
        '"files":{"model.safetensors":"' + 64 * "0" + '"}}',
        "e92f6e6925e52e7b08b04b7ffe93e126df95f99b7be350df5c04786c154092e8",
    ),
    (
        '{"format":1,"config":{"modalities":{"crystal":{"encoder":"cgcnn","options":{"hidden":8},"features":'
        '{"cutoff":8.0,"k":12}},"xrd":{"encoder":"xrd-resnet","options":{},"features":{}},"dos":{"encoder":'
        '"dos-transformer","options":{},"features":{}}},"pairs":[],"embedding_dim":128,'
        '"objective":"clip","initial_temperature":0.07,"learn_temperature":true},"card":{"name":"b"},'
        '"files":{"model.safetensors":"' + 64 * "0" + '"}}',
        "a0d6d38d63456173ebde882aac12a6d656c62d65ca9d49accbae509da9d83171",
    ),
)
"""What the first version wrote, and the identity that indexes and services know it by."""


def flat(**changes) -> dict:
    return {"modalities": MODALITIES, "embedding_dim": 12} | FLAT | changes


def earlier(model: Model, **changes) -> dict[str, bytes]:
    """The files of `model` as the last release wrote them, with flat settings."""
    files = model.to_files()
    described = json.loads(files["config.json"])
    described |= {"format": 2, "config": flat(**changes) | {"modalities": described["config"]["modalities"]}}
    order = ["modalities", "pairs", "pair_weights", "embedding_dim", *list(FLAT)[2:]]
    described["config"] = {name: described["config"][name] for name in order}
    files["config.json"] = (json.dumps(described, indent=2, ensure_ascii=False) + "\n").encode()
    return files


@pytest.mark.parametrize(
    ("changes", "section"),
    [
        ({}, {"kind": "clip", "initial_temperature": 0.07, "learn_temperature": True, "pairs": ()}),
        (
            {"objective": "siglip", "initial_temperature": 0.2, "pairs": "all"},
            {"kind": "siglip", "initial_temperature": 0.2, "learn_temperature": True, "pairs": "all"},
        ),
        (
            {"objective": "cosface", "cosface_scale": 4.0, "pair_weights": {"crystal-xrd": 2.0}},
            {"kind": "cosface", "scale": 4.0, "margin": 0.5, "pairs": (), "pair_weights": {"crystal-xrd": 2.0}},
        ),
        (
            {"objective": "tensorclip", "learn_temperature": False},
            {"kind": "tensorclip", "initial_temperature": 0.07, "learn_temperature": False},
        ),
        ({"objective": "barlow", "barlow_off_diagonal": 0.5}, {"kind": "barlow", "off_diagonal": 0.5}),
    ],
)
def test_flat_settings_move_into_the_section_of_their_objective(changes, section):
    found = ModelConfig.from_mapping(flat(**changes), origin="an earlier release").objective.model_dump()
    assert found == section | ({"pair_weights": found["pair_weights"]} if "pairs" in section else {})
    assert section.items() <= found.items()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": "barlow", "pairs": "all"}, "leave out pairs and pair_weights"),
        ({"cosface_margin": 2.0}, "cosface_margin: Input should be less than 2"),
        ({"objective": {"kind": "clip"}}, r"pairs belongs to the objective: write it as objective\.pairs"),
        ({"objective": "triplet"}, "objective: Input should be 'clip'"),
    ],
)
def test_flat_settings_keep_their_bounds(changes, message):
    with pytest.raises(ConfigError, match=message):
        ModelConfig.from_mapping(flat(**changes), origin="an earlier release")


def test_a_run_of_an_earlier_release_has_the_settings_of_today():
    stored = {"data": "here", "out": "there", "model": flat(objective="cosface", initial_temperature=0.2)}
    today = {"modalities": MODALITIES, "embedding_dim": 12, "objective": {"kind": "cosface", "scale": 3.0}}
    known = PretrainConfig.from_mapping(stored, origin="config.yaml").model_dump(mode="json")
    assert known == PretrainConfig.from_mapping(stored | {"model": today}, origin="today").model_dump(mode="json")


@pytest.mark.parametrize("kind", ["clip", "siglip", "cosface", "tensorclip", "barlow"])
def test_a_model_of_an_earlier_release_computes_the_same_loss(kind, tmp_path):
    torch.manual_seed(0)
    today = {"modalities": MODALITIES, "embedding_dim": 12, "objective": kind}
    model = Model(ModelConfig.from_mapping(today, origin="test"))
    for path, data in earlier(model, objective=kind).items():
        (tmp_path / path).write_bytes(data)
    older = load(tmp_path)
    z = {n: torch.nn.functional.normalize(torch.randn(6, 12, dtype=torch.float64), dim=1) for n in MODALITIES}
    batch = z, {n: torch.ones(6, dtype=torch.bool) for n in z}, {n: torch.arange(6) for n in z}
    assert older.state_dict().keys() == model.state_dict().keys()
    torch.testing.assert_close(older.double().loss(*batch).total, model.double().loss(*batch).total, rtol=0, atol=0)


def test_the_loss_of_an_earlier_clip_model_is_that_of_its_settings(tmp_path):
    torch.manual_seed(0)
    model = Model(ModelConfig.from_mapping(flat(), origin="test"))
    weights = {"crystal-xrd": 4.0}
    older = Model.from_files(earlier(model, pair_weights=weights), origin="an earlier release").double()
    z = {n: torch.nn.functional.normalize(torch.randn(6, 12, dtype=torch.float64), dim=1) for n in MODALITIES}
    batch = z, {n: torch.ones(6, dtype=torch.bool) for n in z}, {n: torch.arange(6) for n in z}
    pairs = [("crystal", "dos"), ("crystal", "xrd")]
    scales = {pair: older.log_scales["__".join(pair)].exp() for pair in pairs}
    expected = contrastive_loss(*batch, scales, pairs, weights={("crystal", "xrd"): 4.0})
    torch.testing.assert_close(older.loss(*batch).total, expected.total, rtol=0, atol=0)


@pytest.mark.parametrize(("text", "identity"), FROZEN)
def test_a_model_saved_by_the_first_version_keeps_its_identity(text, identity):
    described = ModelFile.model_validate_json(text)
    assert described.identity == identity
    again = ModelFile.model_validate_json(described.to_json())
    assert again.identity == identity
    assert not set(json.loads(described.to_json())["config"]) & {*YOUNGER, "section"}


@pytest.mark.parametrize("absent", [(), YOUNGER])
def test_reading_and_saving_an_earlier_model_changes_nothing(absent):
    files = earlier(Model(ModelConfig.from_mapping(flat(), origin="test")))
    saved = json.loads(files["config.json"])
    for name in absent:
        del saved["config"][name]
    files["config.json"] = (json.dumps(saved, indent=2, ensure_ascii=False) + "\n").encode()
    older = Model.from_files(files, origin="an earlier release")
    assert older.to_files()["config.json"] == files["config.json"]
    known = {key: saved[key] for key in ("format", "config", "files")}
    assert older.sha256 == hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


def test_what_an_earlier_model_wrote_down_counts_though_nothing_reads_it():
    model = Model(ModelConfig.from_mapping(flat(), origin="test"))
    first, second = (Model.from_files(earlier(model, cosface_margin=m), origin="earlier") for m in (0.5, 0.3))
    assert first.sha256 != second.sha256


def test_a_younger_setting_does_not_change_who_a_model_is():
    model = Model(ModelConfig.from_mapping(flat(), origin="test"))
    files = model.to_files()
    saved = json.loads(files["config.json"])
    assert set(saved["config"]["objective"]) == set(type(model.config.objective).model_fields), "all are written"
    del saved["config"]["objective"]["pair_weights"]
    files["config.json"] = (json.dumps(saved, indent=2, ensure_ascii=False) + "\n").encode()
    older = Model.from_files(files, origin="before there were weights")
    assert older.to_files()["config.json"] == files["config.json"]
    assert older.sha256 != model.sha256, "settings that are written down count"


def test_a_broken_flat_setting_is_named_when_the_model_is_read():
    files = earlier(Model(ModelConfig.from_mapping(flat(), origin="test")), initial_temperature=7.0)
    with pytest.raises(ModelError, match="initial_temperature: Input should be less than or equal to 1"):
        Model.from_files(files, origin="broken")
