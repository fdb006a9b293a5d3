"""A model is a directory without pickle, and its embeddings depend on nothing but their input."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch

from crystalign.batch import Batch, make_batch
from crystalign.errors import ConfigError, ModelError
from crystalign.model import Model, ModelCard, load, prepare
from crystalign.model_config import ModelConfig
from crystalign.training.presets import default_model, tiny_model

SMALL = {
    "crystal": {"encoder": "gated-graph", "options": {"hidden": 8, "layers": 1, "width": 16}},
    "dos": {"encoder": "dos-transformer", "options": {"hidden": 8, "layers": 1, "patch": 40}},
    "charge_density": {"encoder": "conv3d", "options": {"channels": (4, 8), "width": 16}},
    "xrd": {"encoder": "xrd-resnet", "options": {"channels": (8, 8), "reduced": 4, "hidden": 16, "width": 16}},
    "text": {"encoder": "bert", "options": {"hidden": 16, "layers": 1, "vocabulary": 300}},
    "composition": {"encoder": "composition-transformer", "options": {"hidden": 16, "layers": 1}},
}

LISTED = {"kind": "clip", "pairs": [("crystal", "xrd")]}


def config(*names, **fields):
    return ModelConfig(modalities={n: SMALL[n] for n in names or SMALL}, embedding_dim=12, **fields)


@pytest.fixture(scope="module")
def model(synthetic_materials) -> Model:
    torch.manual_seed(3)
    texts = [m.value("text") for m in synthetic_materials(20)]
    return Model(config(), prepare(config(), {"text": texts})).eval()


def test_a_saved_model_embeds_as_before(model, tmp_path, synthetic_materials):
    card = ModelCard(name="small", steps=7, licences=("CC0-1.0",), split={"by": "formula"}, metrics={"R@1": 0.5})
    model.save_pretrained(tmp_path / "model", card)
    again = load(tmp_path / "model")
    assert again.card == card
    assert again.sha256 == model.sha256
    for name in SMALL:
        values = [m.value(name) for m in synthetic_materials(3)]
        np.testing.assert_array_equal(again.embed(name, values), model.embed(name, values))
    readme = (tmp_path / "model" / "README.md").read_text()
    assert "CC0-1.0" in readme
    assert "crystal ↔ dos" in readme
    assert {p.name for p in (tmp_path / "model" / "text").iterdir()} == {"tokenizer.json", "network.json"}


def test_the_identity_is_of_what_the_model_computes(model, tmp_path):
    before = model.sha256
    model.save_pretrained(tmp_path, {"name": "another card"})
    assert load(tmp_path).sha256 == before
    changed = load(tmp_path)
    with torch.no_grad():
        next(changed.parameters()).add_(1e-3)
    assert changed.sha256 != before


def test_embeddings_are_unit_vectors_that_no_neighbour_changes(model, synthetic_materials):
    for name in SMALL:
        values = [m.value(name) for m in synthetic_materials(7)]
        vectors = model.embed(name, values)
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-5)
        np.testing.assert_allclose(model.embed(name, values, batch_size=2), vectors, atol=1e-5)
        np.testing.assert_allclose(model.embed(name, values[3:4])[0], vectors[3], atol=1e-5)
        assert model.embed(name, []).shape == (0, 12)


@pytest.mark.parametrize("path", ["model.safetensors", "text/tokenizer.json"])
def test_an_altered_or_missing_file_is_refused(model, tmp_path, path):
    model.save_pretrained(tmp_path)
    data = bytearray((tmp_path / path).read_bytes())
    data[-1] ^= 1
    (tmp_path / path).write_bytes(data)
    with pytest.raises(ModelError, match=path):
        load(tmp_path)
    (tmp_path / path).unlink()
    with pytest.raises(ModelError, match=path):
        load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c | {"format": 4}, "format 4"),
        (lambda c: c | {"secret": 1}, "secret"),
        (lambda c: {"hello": 1}, "not a model directory"),
        (lambda c: c | {"files": c["files"] | {"../elsewhere": "0"}}, "outside its directory"),
    ],
)
def test_a_configuration_that_is_not_known_is_refused(model, tmp_path, change, message):
    model.save_pretrained(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(change(content)))
    with pytest.raises(ModelError, match=message):
        load(tmp_path)


def test_there_is_no_model_where_there_is_none(tmp_path):
    with pytest.raises(ModelError, match="no model at"):
        load(tmp_path / "nothing")


def test_a_saved_model_holds_every_setting_and_so_outlives_defaults(model):
    import json

    saved = json.loads(model.to_files()["config.json"])["config"]["modalities"]
    assert saved["crystal"]["features"]["cutoff"] == model.modality("crystal").settings.cutoff
    for name, spec in saved.items():
        assert set(spec["options"]) == set(type(model.encoders[name].settings).model_fields)
        assert set(spec["features"]) == set(type(model.modality(name).settings).model_fields)
    again = Model.from_files(model.to_files(), origin="itself")
    assert again.to_files() == model.to_files()


def test_an_unknown_modality_is_refused(model):
    with pytest.raises(ConfigError, match="phonon"):
        model.embed("phonon", [])


def test_rows_without_a_modality_are_zero_and_the_others_in_their_place(model, synthetic_materials):
    full = synthetic_materials(5)
    partly = [m if i % 2 else _without(m, "dos", "text") for i, m in enumerate(full)]
    batch = make_batch([*partly, None], model.modalities)
    assert batch.real.tolist() == [True] * 5 + [False]
    assert batch.present["dos"].tolist() == [False, True, False, True, False, False]
    with torch.no_grad():
        z = model(batch)
    expected = model.embed("dos", [full[1].value("dos"), full[3].value("dos")])
    np.testing.assert_allclose(z["dos"][[1, 3]].numpy(), expected, atol=1e-5)
    assert not z["dos"][[0, 2, 4, 5]].any()
    assert not z["crystal"][5].any()
    assert batch.keys["crystal"][:5, 0].unique().numel() == batch.keys["crystal"][:5, 1].unique().numel() == 5
    assert batch.keys["crystal"][5].tolist() == [0, 0]


def test_a_modality_that_no_row_has_still_has_gradients(model, synthetic_materials):
    batch = make_batch([_without(m, "charge_density") for m in synthetic_materials(3)], model.modalities)
    model.zero_grad()
    sum(z.sum() for z in model(batch).values()).backward()
    grads = [p.grad for p in model.encoders["charge_density"].parameters()]
    assert all(g is not None and not g.any() for g in grads)


def test_a_batch_travels_as_bytes(model, synthetic_materials):
    batch = make_batch([*synthetic_materials(3), None], model.modalities, np.random.default_rng(0))
    again = Batch.from_bytes(batch.to_bytes())
    assert again.real.tolist() == [True, True, True, False]
    for part in ("present", "keys"):
        assert getattr(again, part).keys() == getattr(batch, part).keys()
        assert all(torch.equal(getattr(again, part)[m], getattr(batch, part)[m]) for m in SMALL)
    for name in SMALL:
        assert again.inputs[name].keys() == batch.inputs[name].keys()
        assert all(torch.equal(t, batch.inputs[name][k]) for k, t in again.inputs[name].items())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"modalities": {"crystal": SMALL["crystal"]}}, "at least two"),
        ({"modalities": {"crystal": SMALL["crystal"], "dos": SMALL["xrd"]}}, "reads 'xrd'"),
        ({"modalities": {"dos": SMALL["dos"], "xrd": SMALL["xrd"]}}, "no anchor"),
        ({"modalities": {n: SMALL[n] for n in ("crystal", "dos")}, "objective": LISTED}, "must name two"),
        (
            {
                "modalities": {n: SMALL[n] for n in ("crystal", "dos")},
                "objective": {"kind": "clip", "pairs": [("dos", "crystal"), ("crystal", "dos")]},
            },
            "twice",
        ),
    ],
)
def test_a_contradiction_in_the_settings_is_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        ModelConfig.from_mapping(fields, origin="test")


def test_presets_align_the_crystal_with_everything_and_build(synthetic_materials):
    texts = {"text": [m.value("text") for m in synthetic_materials(10)]}
    for preset in (tiny_model(), default_model()):
        assert {pair[1] for pair in preset.aligned if pair[0] == "crystal"} == {*preset.modalities} - {"crystal"}
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            built = Model(preset, prepare(preset, texts))
        assert set(built.modalities) == set(preset.modalities)


def _without(material, *names):
    import dataclasses

    return dataclasses.replace(material, modalities={k: v for k, v in material.modalities.items() if k not in names})
