"""A fit learns, stops, goes on where it was killed, and is the same each time."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from crystalign.errors import ConfigError
from crystalign.finetuning.data.features import FeatureStore
from crystalign.finetuning.fitting.fit import fit, prediction_loss
from crystalign.finetuning.fitting.fit_state import load_state
from crystalign.finetuning.fitting.optimiser import fitting_optimiser
from crystalign.finetuning.fitting.recipe import Recipe
from crystalign.finetuning.fitting.rows import LabelledRows
from crystalign.finetuning.model.property_model import PropertyModel
from crystalign.finetuning.trials.plan import plan
from crystalign.finetuning.trials.trial import build_model
from crystalign.training.schedule import lr_scales

SHORT = {"max_epochs": 12, "warmup_epochs": 2, "batch_size": 32, "min_steps": 4, "save_seconds": 0.0}


@pytest.fixture(scope="module")
def planned(trial):
    return plan(trial())


@pytest.fixture(scope="module")
def store(labelled) -> FeatureStore:
    return FeatureStore(labelled)


def run(planned, store, model: PropertyModel | None = None, **changes):
    """A model and how its fit went."""
    given = {name: changes.pop(name) for name in ("folder", "on_epoch", "seed", "key") if name in changes}
    model = model or build_model(planned)
    recipe = Recipe.from_mapping(SHORT | changes, origin="the test")
    return model, fit(model, planned.split, store, recipe, lr=5e-3, **{"seed": 0} | given)


def weights(model: PropertyModel) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(tensor, b[name]) for name, tensor in a.items())


def error(model: PropertyModel, planned, store) -> float:
    """Mean absolute error on the test part, scaled."""
    rows = LabelledRows(model, store, planned.labels)
    found = rows.predict(planned.split.test.rows)
    return float((found - rows.wanted[planned.split.test.rows]).abs().mean())


@pytest.mark.parametrize("loss", ["l1", "huber", "mse"])
def test_it_learns(planned, store, loss):
    before = error(build_model(planned), planned, store)
    model, fitted = run(planned, store, max_epochs=25, loss=loss)
    assert error(model, planned, store) < 0.4 * before
    assert fitted.epochs == 25
    assert fitted.ended == "epochs"
    assert fitted.kept_score == min(record["score"] for record in fitted.history)
    assert fitted.kept_epoch == 1 + np.argmin([record["score"] for record in fitted.history])
    assert not model.training


def test_the_same_seed_gives_the_same_weights_and_another_others(planned, store):
    first, second, third = (run(planned, store, seed=seed)[0] for seed in (0, 0, 1))
    assert same(weights(first), weights(second))
    assert not same(weights(first), weights(third))


def validated(model, planned, store) -> float:
    rows = LabelledRows(model, store, planned.labels)
    found = rows.predict(planned.split.validation.rows)
    return float((found - rows.wanted[planned.split.validation.rows]).abs().mean())


def test_the_best_epoch_is_kept_or_the_last(planned, store):
    labels = planned.labels.permuted(0)  # what is learnt is soon no help
    shuffled = dataclasses.replace(planned, labels=labels, split=_again(planned, labels))
    best, fitted = run(shuffled, store, max_epochs=20, patience=3)
    assert (fitted.ended, fitted.kept_epoch) == ("patience", fitted.epochs - 3)
    assert validated(best, shuffled, store) == pytest.approx(fitted.kept_score, rel=1e-5)
    last, went = run(shuffled, store, max_epochs=20, patience=3, keep="last")
    assert (went.ended, went.kept_epoch, went.epochs) == ("epochs", 20, 20)
    assert went.kept_score == went.history[-1]["score"] > fitted.kept_score
    assert validated(last, shuffled, store) == pytest.approx(went.kept_score, rel=1e-5)


GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=GPU)])
def test_a_killed_fit_goes_on_as_if_nothing_had_happened(planned, store, tmp_path, device):
    def fresh() -> PropertyModel:
        return build_model(planned).to(device)

    whole, fitted = run(planned, store, fresh(), ema=0.9)
    killed = str(tmp_path / "state")

    def kill(metrics) -> None:
        if metrics["epoch"] == 6:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        run(planned, store, fresh(), ema=0.9, folder=killed, key="a", on_epoch=kill)
    assert load_state(killed, "a")[0].epoch == 5
    resumed, went = run(planned, store, fresh(), ema=0.9, folder=killed, key="a")
    assert len(went.history) == 7
    assert (went.epochs, went.kept_epoch, went.kept_score) == (12, fitted.kept_epoch, fitted.kept_score)
    assert same(weights(resumed), weights(whole))
    assert len(list((tmp_path / "state").glob("*.safetensors"))) == 1


def test_a_state_that_is_broken_or_anothers_is_not_used(planned, store, tmp_path, caplog):
    folder = tmp_path / "state"
    run(planned, store, folder=str(folder), key="a", max_epochs=4)
    assert load_state(str(folder), "b") is None
    assert "another trial's" in caplog.text
    tensors = next(folder.glob("*.safetensors"))
    tensors.write_bytes(tensors.read_bytes()[:-1])
    assert load_state(str(folder), "a") is None
    (folder / "state.json").write_text("{")
    assert load_state(str(folder), "a") is None
    (folder / "stop.json").write_text("{}")
    (folder / "results").mkdir()
    (folder / "results" / "epoch-000001.safetensors").write_text("another's")
    _, fitted = run(planned, store, folder=str(folder), key="a", max_epochs=4)
    assert len(fitted.history) == 4
    assert not (folder / "stop.json").exists(), "what was said of another fit goes with its state"
    assert (folder / "results" / "epoch-000001.safetensors").exists()


def test_it_ends_when_it_is_told_to_or_time_or_patience_ends(planned, store):
    seen: list[dict[str, float]] = []
    _, told = run(planned, store, on_epoch=lambda metrics: seen.append(metrics) or metrics["epoch"] == 3)
    assert (told.ended, told.epochs) == ("stopped", 3)
    assert set(seen[0]) == {
        "epoch", "step", "seconds", "lr", "loss", "grad_norm", "score", "kept_score",
        "mae/formation_energy_per_atom_pbe_synthetic_2026",
    }  # fmt: skip
    _, timed = run(planned, store, max_epochs=10_000, max_seconds=1.0)
    assert timed.ended == "seconds"
    assert 1.0 <= timed.seconds < 2.2
    assert timed.history[-1]["lr"] < 0.3 * max(record["lr"] for record in timed.history)
    labels = planned.labels.permuted(0)
    shuffled = dataclasses.replace(planned, labels=labels, split=_again(planned, labels))
    _, tired = run(shuffled, store, max_epochs=200, patience=4)
    assert tired.ended == "patience"
    assert tired.epochs == max(tired.kept_epoch, 2) + 4


def _again(planned, labels):
    from crystalign.finetuning.data.splits import make_split

    return make_split(labels, planned.config.split)


def test_a_probe_leaves_the_encoders_and_gives_what_live_encoders_give(planned, store):
    model = build_model(planned)
    before = weights(model)
    probe, fitted = run(planned, store, model, train="head")
    after = weights(probe)
    moved = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert moved
    assert not [name for name in moved if name.startswith("encoders.")]
    assert fitted.history[-1]["score"] < fitted.history[0]["score"]
    rows = planned.split.test.rows
    cached = LabelledRows(probe, store, planned.labels).predict(rows)
    probe.frozen = False
    assert torch.allclose(LabelledRows(probe, store, planned.labels).predict(rows), cached, atol=1e-6)


def test_early_blocks_learn_slower_and_heads_at_full_rate(planned):
    model = build_model(planned)
    optimiser = fitting_optimiser(model, Recipe(layer_decay=0.5, encoder_lr=0.1, weight_decay=0.2), 1.0)
    rates = {id(p): group["lr"] for group in optimiser.param_groups for p in group["params"]}
    decays = {id(p): group["weight_decay"] for group in optimiser.param_groups for p in group["params"]}
    named = {name: rates[id(p)] for name, p in model.named_parameters()}
    assert len(named) == len(rates)
    assert named["heads.joint.layers.0.weight"] == named["fusion.norms.crystal.weight"] == 1.0
    assert named["encoders.crystal.head.0.weight"] == pytest.approx(0.1)
    assert named["encoders.crystal.norm.weight"] == pytest.approx(0.05)
    assert named["encoders.crystal.convolutions.0.edge.weight"] == pytest.approx(0.025)
    assert named["encoders.crystal.elements"] < named["encoders.crystal.tabulated.weight"]
    assert {decays[id(p)] for n, p in model.named_parameters() if n.endswith("bias")} == {0.0}
    assert decays[id(model.heads["joint"].layers[0].weight)] == 0.2
    assert lr_scales(model) == {}


def test_few_labels_still_make_several_steps():
    assert Recipe().batch(10_000) == 120
    assert Recipe().batch(100) == 13
    assert Recipe().batch(3) == 1
    with pytest.raises(ConfigError, match="warmup_epochs"):
        Recipe.from_mapping({"max_epochs": 5}, origin="the test")


def test_the_loss_is_the_mean_over_predictors_of_what_they_can_answer():
    outputs = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 8.0]]], requires_grad=True)  # (2, 2, 2)
    wanted = torch.tensor([[0.0, float("nan")], [0.0, 0.0]])
    able = torch.tensor([[True, True], [True, False]])
    loss = prediction_loss(outputs, able, wanted, "l1")
    assert float(loss.detach()) == pytest.approx(0.5 * ((1 + 5 + 6) / 3 + 3 / 1))
    loss.backward()
    assert torch.isfinite(outputs.grad).all()
    assert (outputs.grad[0, :, 1] == 0).all()
    nobody = prediction_loss(outputs, torch.zeros(2, 2, dtype=torch.bool), wanted, "mse")
    assert float(nobody.detach()) == 0.0


@pytest.mark.parametrize("kind", ["late", "hybrid"])
def test_each_modality_of_a_late_fusion_learns_alone(trial, labelled, store, kind):
    encoders = {
        "composition": {"encoder": "composition-transformer", "options": {"hidden": 16, "layers": 1}},
        "tabular": {
            "encoder": "tabular-mlp",
            "options": {"inputs": 4, "layers": [16, 16]},
            "features": {"width": 4},
        },
    }
    planned = plan(trial(encoders=encoders, fusion={"kind": kind, "weights": "stacked"}))
    model, _ = run(planned, store)
    assert float(model.weights.sum()) == pytest.approx(1.0)
    assert model.weights.tolist() != [1 / len(model.weights)] * len(model.weights)
    _, able = LabelledRows(model, store, planned.labels).outputs(planned.split.test.rows)
    assert able[:, 0].all()
    assert 0 < able[:, 1].float().mean() < 1
