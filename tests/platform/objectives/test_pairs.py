"""Which pairs a model aligns and how much each weighs; what a saved model says stays true."""

from __future__ import annotations

import hashlib
import json

import pytest
import torch

from crystalign.errors import ConfigError
from crystalign.model import Model, load
from crystalign.model_config import ModelConfig, ModelFile
from crystalign.objectives import barlow_twins_loss, contrastive_loss, cosface_loss, sigmoid_loss, tensor_loss
from crystalign.training.objective import objective

MODALITIES = {
    "crystal": {"encoder": "gated-graph", "options": {"hidden": 8, "layers": 1, "width": 16}},
    "dos": {"encoder": "dos-transformer", "options": {"hidden": 8, "layers": 1, "patch": 40}},
    "xrd": {"encoder": "xrd-resnet", "options": {"channels": (8, 8), "reduced": 4, "hidden": 16, "width": 16}},
    "composition": {"encoder": "composition-transformer", "options": {"hidden": 16, "layers": 1}},
}
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


def config(*names: str, **fields) -> ModelConfig:
    chosen = {name: MODALITIES[name] for name in names or MODALITIES}
    return ModelConfig.from_mapping({"modalities": chosen, "embedding_dim": 12, **fields}, origin="test")


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ((), [("crystal", "dos"), ("crystal", "xrd"), ("crystal", "composition")]),
        ("anchored(crystal)", [("crystal", "dos"), ("crystal", "xrd"), ("crystal", "composition")]),
        ("anchored(xrd)", [("xrd", "crystal"), ("xrd", "dos"), ("xrd", "composition")]),
        (
            "all",
            [
                ("crystal", "dos"),
                ("crystal", "xrd"),
                ("crystal", "composition"),
                ("dos", "xrd"),
                ("dos", "composition"),
                ("xrd", "composition"),
            ],
        ),
        ([["dos", "xrd"], ["xrd", "crystal"]], [("dos", "xrd"), ("xrd", "crystal")]),
    ],
)
def test_pairs_are_anchored_all_or_listed(pairs, expected):
    assert list(config(pairs=pairs).aligned) == expected


def test_any_modality_may_be_the_anchor_and_then_no_crystal_is_needed():
    assert config("dos", "xrd", pairs="anchored(dos)").aligned == (("dos", "xrd"),)
    assert config("dos", "xrd", pairs="all").aligned == (("dos", "xrd"),)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pairs": "anchored(text)"}, r"anchored\(text\) names no modality of this model: crystal"),
        ({"pairs": "anchored"}, "pairs"),
        ({"pair_weights": {"dos-xrd": 2.0}}, "'dos-xrd' is not an aligned pair; there are crystal-dos"),
        ({"pair_weights": {"crystal-dos": 0.0}}, "pair_weights.crystal-dos: .*greater than 0"),
        ({"pair_weights": {"crystal-dos": float("inf")}}, "finite"),
        ({"objective": "tensorclip"}, "exactly three modalities at once, not 4"),
        ({"objective": "barlow", "pairs": "all"}, "leave out pairs"),
        ({"cosface_margin": 2.0}, "cosface_margin"),
    ],
)
def test_a_contradiction_is_refused_by_name(fields, message):
    with pytest.raises(ConfigError, match=message):
        config(**fields)


def drawn(model: Model, n: int = 6):
    torch.manual_seed(1)
    names = model.config.modalities
    z = {name: torch.nn.functional.normalize(torch.randn(n, 12), dim=1) for name in names}
    return z, {name: torch.ones(n, dtype=torch.bool) for name in names}, {name: torch.arange(n) for name in names}


def test_a_model_trains_with_the_objective_its_settings_name():
    weights = {"crystal-xrd": 4.0}
    three = ("crystal", "dos", "xrd")

    def both(**fields):
        model = Model(config(*three, **fields))
        batch = drawn(model)
        return model, batch, objective(model, *batch).total

    w = {("crystal", "xrd"): 4.0}
    m, b, loss = both(pair_weights=weights)
    torch.testing.assert_close(loss, contrastive_loss(*b, m.logit_scales(), m.config.aligned, weights=w).total)
    assert loss != contrastive_loss(*b, m.logit_scales(), m.config.aligned).total
    m, b, loss = both(objective="siglip", pairs="all")
    torch.testing.assert_close(loss, sigmoid_loss(*b, m.logit_scales(), m.pair_biases(), m.config.aligned).total)
    m, b, loss = both(objective="cosface", cosface_margin=0.25, pair_weights=weights)
    torch.testing.assert_close(loss, cosface_loss(*b, m.config.aligned, scale=3.0, margin=0.25, weights=w).total)
    m, b, loss = both(objective="tensorclip", initial_temperature=0.2)
    torch.testing.assert_close(loss, tensor_loss(*b, torch.tensor(5.0)).total)
    m, b, loss = both(objective="barlow", barlow_off_diagonal=0.5)
    torch.testing.assert_close(loss, barlow_twins_loss(*b, off_diagonal_weight=0.5).total)


@pytest.mark.parametrize(
    ("name", "scales"),
    [
        ("clip", {"crystal__dos", "crystal__xrd"}),
        ("siglip", {"crystal__dos", "crystal__xrd"}),
        ("cosface", set()),
        ("tensorclip", {"crystal__dos__xrd"}),
        ("barlow", set()),
    ],
)
def test_temperatures_are_where_the_objective_has_them_and_travel(name, scales, tmp_path):
    model = Model(config("crystal", "dos", "xrd", objective=name, learn_temperature=False))
    assert set(model.log_scales) == scales
    assert not any(scale.requires_grad for scale in model.log_scales.values())
    model.save_pretrained(tmp_path)
    assert load(tmp_path).logit_scales().keys() == model.logit_scales().keys()


@pytest.mark.parametrize(("text", "identity"), FROZEN)
def test_a_model_saved_by_the_first_version_keeps_its_identity(text, identity):
    described = ModelFile.model_validate_json(text)
    assert described.identity == identity
    again = ModelFile.model_validate_json(described.to_json())
    assert again.identity == identity
    assert not set(json.loads(described.to_json())["config"]) & set(YOUNGER)


def test_reading_and_saving_an_older_model_changes_nothing(tmp_path):
    model = Model(config("crystal", "dos"))
    files = model.to_files()
    saved = json.loads(files["config.json"])
    assert set(YOUNGER) <= set(saved["config"]), "a fresh model writes every setting"
    for name in YOUNGER:
        del saved["config"][name]
    files["config.json"] = (json.dumps(saved, indent=2) + "\n").encode()
    older = Model.from_files(files, origin="an older version")
    assert older.to_files()["config.json"] == files["config.json"]
    known = {key: saved[key] for key in ("format", "config", "files")}
    assert older.sha256 == hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()
    assert older.sha256 != model.sha256, "settings that are written down count"


def test_what_is_written_down_counts(tmp_path):
    torch.manual_seed(0)
    first = Model(config("crystal", "dos"))
    files = first.to_files()
    changed = json.loads(files["config.json"])
    changed["config"]["cosface_margin"] = 0.3
    files["config.json"] = json.dumps(changed).encode()
    assert Model.from_files(files, origin="changed").sha256 != first.sha256
