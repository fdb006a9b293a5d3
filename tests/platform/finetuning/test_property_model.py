"""A fine-tuned model: its directory, its frozen encoders, its predictions with whatever modalities there are."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from crystalign.errors import ConfigError, InputError, ModelError
from crystalign.finetuning.data.features import FeatureStore, batch_of
from crystalign.finetuning.data.scaling import TargetScaler
from crystalign.finetuning.model.building import fresh_encoders, fresh_projection, taken_from
from crystalign.finetuning.model.property_model import PropertyModel
from crystalign.finetuning.network.config import Calibration, NetworkConfig
from crystalign.finetuning.prediction.domain import Domain
from crystalign.finetuning.prediction.intervals import calibrate
from crystalign.finetuning.prediction.predictor import PredictorGroup, predict_together
from crystalign.finetuning.trials.ensemble import Ensemble, load_predictor
from crystalign.model import Model, ModelConfig
from crystalign.properties import PropertySpec, Quantity

GRAPH = {"encoder": "gated-graph", "options": {"hidden": 8, "layers": 1, "width": 16, "gaussians": 8}}
FORMULA = {"encoder": "composition-transformer", "options": {"hidden": 8, "layers": 1}}
TABLE = {"encoder": "tabular-mlp", "options": {"inputs": 4, "layers": [8, 8]}, "features": {"width": 4}}
ALL = {"crystal": GRAPH, "composition": FORMULA, "tabular": TABLE}
ENERGY = PropertySpec(quantity=Quantity.FORMATION_ENERGY_PER_ATOM, method="pbe", source="synthetic", vintage="2026")
MODULI = tuple(
    ENERGY.model_copy(update={"quantity": q}) for q in (Quantity.BULK_MODULUS_VRH, Quantity.SHEAR_MODULUS_VRH)
)


def network(modalities=None, targets=(ENERGY,), **changes) -> NetworkConfig:
    values = {
        "modalities": modalities or {"crystal": GRAPH},
        "task": {"target": tuple(spec.column for spec in targets)},
        "targets": [spec.model_dump() for spec in targets],
        "scaler": TargetScaler(mean=(1.0,) * len(targets), std=(2.0,) * len(targets)).model_dump(),
    }
    return NetworkConfig.from_mapping(values | changes, origin="the test")


def made(seed: int = 0, **changes) -> PropertyModel:
    torch.manual_seed(seed)
    config = network(**changes)
    encoders = fresh_encoders(config.modalities, {})
    projections = {name: fresh_projection(e.width, config.embedding_dim or 2) for name, e in encoders.items()}
    return PropertyModel(config, encoders, projections if config.embedding_dim else None).eval()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"vectors": "embedding", "embedding_dim": 6},
        {"modalities": ALL, "fusion": {"kind": "attention", "width": 8}},
        {"modalities": ALL, "fusion": {"kind": "hybrid"}, "head": {"kind": "mlp", "hidden": [8]}},
        {"targets": MODULI, "head": {"kind": "elastic", "hidden": [8]}},
    ],
)
def test_a_saved_model_predicts_the_same(tmp_path, binaries, changes):
    model = made(**changes)
    model.calibration = Calibration(n=(30,) * len(model.targets), radii={"0.9": (0.5,) * len(model.targets)})
    model.domain = Domain(torch.randn(7, 1).expand(7, _width(model, binaries)).numpy().copy(), 1.5)
    before = model.predict(binaries[:9])
    model.save_pretrained(tmp_path / "model")
    again = PropertyModel.from_pretrained(tmp_path / "model")
    after = again.predict(binaries[:9])
    for name in ("mean", "lower", "upper", "out_of_domain"):
        assert np.array_equal(getattr(before, name), getattr(after, name)), name
    assert before.ids == tuple(m.id for m in binaries[:9])
    assert (before.upper > before.mean).all()
    assert again.sha256 == model.sha256
    assert not [path for path in (tmp_path / "model").rglob("*") if path.suffix in {".pkl", ".pt", ".bin"}]
    described = (tmp_path / "model" / "README.md").read_text()
    assert [spec.label for spec in model.config.targets if spec.label not in described] == []


def _width(model: PropertyModel, materials) -> int:
    return model.represent(model.encode(batch_of(materials[:1], model.modalities))).shape[1]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda d: (d / "model.safetensors").write_bytes(b"0"), "is not what config.json says"),
        (lambda d: (d / "model.safetensors").unlink(), "no fine-tuned model"),
        (lambda d: (d / "config.json").write_text("{}"), "predicts no property"),
        (lambda d: (d / "config.json").write_text("x"), "not JSON"),
        (lambda d: _change(d, format=9), "format 9"),
        (lambda d: _change(d, files={"../x": "0"}), "outside its directory"),
    ],
)
def test_a_broken_directory_says_what_is_wrong(tmp_path, damage, said):
    made().save_pretrained(tmp_path / "model")
    damage(tmp_path / "model")
    with pytest.raises(ModelError, match=said):
        PropertyModel.from_pretrained(tmp_path / "model")


def _change(folder, **values) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_an_aligned_model_is_told_apart(tmp_path):
    torch.manual_seed(0)
    Model(ModelConfig(modalities={"crystal": GRAPH, "composition": FORMULA})).save_pretrained(tmp_path / "aligned")
    with pytest.raises(ModelError, match="predicts no property"):
        PropertyModel.from_pretrained(tmp_path / "aligned")


def test_pre_trained_encoders_are_copied(binaries):
    torch.manual_seed(0)
    base = Model(ModelConfig(modalities={"crystal": GRAPH, "composition": FORMULA}, embedding_dim=12)).eval()
    encoders, projections = taken_from(base, ["crystal"])
    specs = {"crystal": base.config.modalities["crystal"].model_dump()}
    model = PropertyModel(network(specs, vectors="embedding", embedding_dim=12), encoders, projections)
    batch = batch_of(binaries[:5], model.modalities)
    with torch.no_grad():
        same = base.embed("crystal", [m.crystal for m in binaries[:5]])
        assert np.allclose(model.encode(batch).vectors["crystal"].numpy(), same, atol=1e-6)
        next(model.encoders.parameters()).add_(1.0)
    assert np.array_equal(base.embed("crystal", [m.crystal for m in binaries[:5]]), same)
    with pytest.raises(ConfigError, match="no modality 'xrd'"):
        taken_from(base, ["xrd"])


def test_frozen_encoders_neither_learn_nor_drop(binaries):
    model = made(modalities={"composition": {"encoder": "crabnet", "options": {"hidden": 16, "residual": [16]}}})
    model.freeze()
    model.train()
    batch = batch_of(binaries[:4], model.modalities)
    first, _ = model(batch)
    second, _ = model(batch)
    assert torch.equal(first, second)
    first.sum().backward()
    assert all(p.grad is None for p in model.encoders.parameters())
    assert all(p.grad is not None for p in model.heads.parameters())


def test_a_material_is_predicted_from_what_it_has(binaries):
    model = made(modalities=ALL, fusion={"kind": "early"})
    both = model.predict([binaries[1], binaries[1].crystal])  # the bare crystal has no descriptors
    assert np.isfinite(both.mean).all()
    assert both.mean[0] != both.mean[1]
    alone = made(modalities={"tabular": TABLE})
    assert alone.predict([binaries[1]]).mean.shape == (1, 1)
    with pytest.raises(InputError, match=r"'binary-000' has none of tabular") as caught:
        alone.predict([binaries[0]])
    assert caught.value.reason == "no-modality"
    assert alone.predict([]).mean.shape == (0, 1)


def test_a_prediction_does_not_depend_on_its_company(binaries):
    model = made(modalities=ALL, fusion={"kind": "attention", "width": 8})
    together = model.predict(binaries[:10], batch_size=4).mean
    alone = np.concatenate([model.predict([m]).mean for m in binaries[:10]])
    assert np.allclose(together, alone, atol=1e-5)


def test_heads_on_one_frozen_encoder_share_a_pass(binaries, monkeypatch):
    first = made()
    second = made()
    second.heads["joint"].layers[0].bias.data.add_(1.0)
    other = made(seed=1)
    assert first.encoder_sha256() == second.encoder_sha256() != other.encoder_sha256()
    apart = {name: m.predict(binaries[:5]).mean for name, m in (("a", first), ("b", second), ("c", other))}
    passes = []
    encode = PropertyModel.encode
    monkeypatch.setattr(PropertyModel, "encode", lambda self, batch: passes.append(self) or encode(self, batch))
    found = predict_together({"a": first, "b": second, "c": other}, binaries[:5])
    assert passes == [first, other]
    assert {name: p.mean.tolist() for name, p in found.items()} == {n: v.tolist() for n, v in apart.items()}
    assert found["b"].mean - found["a"].mean == pytest.approx(2.0)  # σ times the bias


def test_who_shares_a_pass_is_as_far_from_its_training_materials_as_alone(binaries):
    first = made(modalities={"crystal": GRAPH, "composition": FORMULA})
    second = made(seed=1, modalities={"composition": FORMULA, "crystal": GRAPH})
    for model in (first, second):
        model.encoders = torch.nn.ModuleDict({name: first.encoders[name] for name in model.config.modalities})
        with torch.no_grad():
            vectors = model.represent(model.encode(batch_of(binaries[:40], model.modalities))).numpy()
        model.domain = Domain.fit(vectors[:30], vectors[30:])
    assert first.encoder_sha256() == second.encoder_sha256()
    apart = {name: model.predict(binaries[40:50]) for name, model in (("a", first), ("b", second))}
    group = PredictorGroup({"a": first, "b": second})
    group.share_encoders()
    found = group.predict(binaries[40:50])
    for name, alone in apart.items():
        assert found[name].out_of_domain == pytest.approx(alone.out_of_domain, rel=1e-5)
        assert found[name].mean == pytest.approx(alone.mean, rel=1e-5)


def test_an_ensemble_is_the_mean_of_its_members(tmp_path, binaries):
    members = [made(seed) for seed in range(3)]
    each = np.stack([m.predict(binaries[:6]).mean for m in members])
    rng = np.random.default_rng(0)
    scaled, wanted = [rng.normal(size=(40, 1)) for _ in range(3)], rng.normal(size=(40, 1))
    ensemble = Ensemble(members, calibrate(np.mean(scaled, axis=0), wanted, np.std(scaled, axis=0, ddof=1)))
    found = ensemble.predict(binaries[:6])
    assert np.allclose(found.mean, each.mean(axis=0))
    widths = (found.upper - found.lower).ravel()
    assert np.argsort(widths).tolist() == np.argsort(each.std(axis=0).ravel()).tolist()
    ensemble.save_pretrained(str(tmp_path / "ensemble"))
    again = load_predictor(str(tmp_path / "ensemble"))
    assert np.array_equal(again.predict(binaries[:6]).lower, found.lower)
    made(seed=9).write(str(tmp_path / "ensemble" / "1"))
    with pytest.raises(ModelError, match="member 1"):
        load_predictor(str(tmp_path / "ensemble"))
    with pytest.raises(ModelError, match="same targets"):
        Ensemble([made(), made(targets=MODULI)])
    with pytest.raises(ModelError, match="at least two"):
        Ensemble([made()])


def test_elastic_tensors_are_those_of_the_moduli(binaries):
    model = made(targets=MODULI, head={"kind": "elastic", "hidden": [8]})
    tensors = model.elastic_tensors(binaries[:3])
    bulk = tensors[:, :3, :3].sum(axis=(1, 2)) / 9.0  # Voigt's and Reuss' bulk modulus are the same in cubic crystals
    assert model.predict(binaries[:3]).mean[:, 0] == pytest.approx(bulk, rel=1e-4)
    with pytest.raises(ConfigError, match="linear head"):
        made().elastic_tensors(binaries[:1])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"modalities": {"crystal": FORMULA}}, "reads 'composition', not 'crystal'"),
        ({"vectors": "embedding"}, "embedding_dim"),
        ({"head": {"kind": "elastic"}, "modalities": {"composition": FORMULA}}, "elastic reads the structure"),
        ({"head": {"kind": "elastic"}, "modalities": ALL, "fusion": {"kind": "late"}}, "early or attention"),
    ],
)
def test_a_network_that_contradicts_itself_is_refused(changes, said):
    with pytest.raises(ConfigError, match=said):
        network(**changes)


def test_features_are_made_once_and_kept_up_to_a_limit(labelled, energies, monkeypatch):
    model = made(modalities=ALL)
    calls = []
    cls = type(model.modalities["crystal"])
    featurise = cls.featurise
    monkeypatch.setattr(cls, "featurise", lambda self, value, **k: calls.append(1) or featurise(self, value, **k))
    store, places = FeatureStore(labelled), energies.places[5:25]
    store.prepare(places, model.modalities)
    first = store.batch(places, model.modalities)
    assert len(calls) == 20
    small = FeatureStore(labelled, limit=0)
    small.prepare(places, model.modalities)
    second = small.batch(places, model.modalities)
    assert small.bytes == 0
    assert len(calls) == 40
    for name, inputs in first.inputs.items():
        assert all(torch.equal(t, second.inputs[name][key]) for key, t in inputs.items() if t.is_floating_point())
        assert torch.equal(first.present[name], second.present[name])
    assert first.present["tabular"].tolist() == [bool((5 + n) % 3) for n in range(20)]
