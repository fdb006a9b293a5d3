"""Training learns, resumes exactly, and computes the same on any number of workers."""

from __future__ import annotations

import csv
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import training_rank as worker
from crystalign.batch import make_batch
from crystalign.errors import ConfigError
from crystalign.model import Model, ModelConfig, prepare
from crystalign.training.config import OptimiserConfig, PretrainConfig
from crystalign.training.loop import TrainState, train
from crystalign.training.metrics import MetricLog
from crystalign.training.presets import PRESETS, preset
from crystalign.training.schedule import learning_rate, make_optimiser
from forked_ranks import run_ranks

pytestmark = pytest.mark.timeout(900)  # several processes, one after the other: minutes on a busy machine
WORLD_SIZES = (2, 3)

MODEL = ModelConfig(
    modalities={
        "crystal": {"encoder": "gated-graph", "options": {"hidden": 16, "layers": 2, "width": 64}},
        "xrd": {
            "encoder": "xrd-resnet",
            "options": {"channels": (8, 16), "positions": 16, "reduced": 16, "hidden": 64, "width": 64},
            "features": {"n_points": 512},
        },
        "text": {"encoder": "bert", "options": {"hidden": 32, "layers": 1, "vocabulary": 400, "dropout": 0.1}},
    },
    embedding_dim=32,
)


def settings(**changes) -> PretrainConfig:
    values = {"data": "none", "out": "none", "model": MODEL, "batch_size": 32, "log_every_steps": 5}
    return PretrainConfig(**values | {"optimiser": {"lr": 3e-3}} | changes)


def fresh(materials) -> Model:
    torch.manual_seed(0)
    return Model(MODEL, prepare(MODEL, {"text": [m.value("text") for m in materials]}))


def recall_at_1(model: Model, materials, first: str, second: str) -> float:
    a, b = (model.embed(name, [m.value(name) for m in materials]) for name in (first, second))
    return float(((a @ b.T).argmax(axis=1) == np.arange(len(a))).mean())


def test_64_crystals_are_learnt_by_heart(synthetic_materials):
    materials = synthetic_materials(64)
    model = fresh(materials)
    batch = make_batch(materials, model.modalities)
    before = recall_at_1(model, materials, "crystal", "xrd")
    records: list[dict[str, float]] = []
    train(settings(), model, [batch] * 60, total_steps=60, on_log=records.append)
    assert before < 0.2
    assert recall_at_1(model, materials, "crystal", "xrd") > 0.9
    assert recall_at_1(model, materials, "xrd", "crystal") > 0.9
    assert recall_at_1(model, materials, "crystal", "text") > 0.9
    assert recall_at_1(model, materials, "text", "xrd") > 0.5  # emergent: never trained
    assert records[-1]["loss"] < 0.3 < records[0]["loss"]
    assert [r["step"] for r in records] == [float(s) for s in range(5, 61, 5)]
    assert records[-1]["samples"] == 60 * 64
    assert {"loss/crystal-xrd", "temperature/crystal-text", "lr", "grad_norm"} <= set(records[-1])


def test_a_resumed_run_is_bit_equal_to_an_uninterrupted_one(synthetic_materials):
    materials = synthetic_materials(40)
    names = fresh(materials).modalities
    batches = [make_batch(materials[step : step + 16], names, np.random.default_rng(step)) for step in range(0, 24, 3)]
    whole = fresh(materials)
    train(settings(), whole, batches, total_steps=8)
    first = fresh(materials)
    half = train(settings(checkpoint_every_steps=4), first, batches[:4], total_steps=8)
    saved = {n: t.clone() for n, t in first.state_dict().items()}
    second = fresh(materials)
    second.load_state_dict(saved)
    state = TrainState(half.step, half.samples, half.seconds, {}, {n: t.clone() for n, t in half.optimiser.items()})
    torch.manual_seed(99)  # a restart has another random state
    train(settings(), second, batches[4:], total_steps=8, start_step=4, state=state)
    assert all(torch.equal(second.state_dict()[n], t) for n, t in whole.state_dict().items())
    with pytest.raises(ConfigError, match="step 8"):
        train(settings(), second, batches, total_steps=8, start_step=4, state=state)


def test_checkpoints_are_taken_when_due_and_at_the_end(synthetic_materials):
    model = fresh(synthetic_materials(8))
    batch = make_batch(synthetic_materials(8), model.modalities)
    taken: list[tuple[int, int]] = []

    def note(saved: Model, state: TrainState) -> None:
        taken.append((state.step, len(state.optimiser)))

    train(settings(checkpoint_every_steps=2), model, [batch] * 9, total_steps=5, on_checkpoint=note)
    trained = 3 * sum(p.requires_grad for p in model.parameters())
    assert taken == [(2, trained), (4, trained), (5, trained)]


def test_training_stops_when_the_minutes_are_over(synthetic_materials):
    model = fresh(synthetic_materials(8))
    batch = make_batch(synthetic_materials(8), model.modalities)
    records: list[dict[str, float]] = []
    state = train(settings(max_minutes=1e-6), model, [batch] * 9, total_steps=9, on_log=records.append)
    assert state.step == 1
    assert records[-1]["progress"] >= 1.0


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> dict[int, dict[str, torch.Tensor]]:
    """World size → the weights that it trained."""
    folder = tmp_path_factory.mktemp("ranks")
    run_ranks(worker, folder, WORLD_SIZES)
    return {1: worker.run(0, 1)} | {w: load_file(folder / f"of-{w}.safetensors") for w in WORLD_SIZES}


@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_any_number_of_workers_trains_the_same_weights(weights, world_size):
    single, several = weights[1], weights[world_size]
    assert single.keys() == several.keys()
    for name, expected in single.items():
        torch.testing.assert_close(several[name], expected, rtol=1e-7, atol=1e-9, msg=name)


def test_the_schedule_rises_and_falls():
    config = OptimiserConfig(lr=1.0, warmup_fraction=0.1)
    rates = [learning_rate(config, p) for p in (0.0, 0.05, 0.1, 0.55, 1.0, 1.2)]
    np.testing.assert_allclose(rates, [0.0, 0.5, 1.0, 0.5, 0.0, 0.0], atol=1e-12)


def test_norms_biases_embeddings_and_temperatures_do_not_decay(synthetic_materials):
    model = fresh(synthetic_materials(8))
    groups = make_optimiser(model, OptimiserConfig(weight_decay=0.1)).param_groups
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    names = {name for name, p in model.named_parameters() if id(p) in decayed}
    assert "encoders.crystal.convolutions.0.edge.weight" in names
    assert not [n for n in names if "norm" in n.lower() or n.endswith("bias") or "scale" in n or "embeddings" in n]
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


def test_a_constant_schedule_only_warms_up():
    optimiser = OptimiserConfig(lr=2.0, warmup_fraction=0.5, schedule="constant")
    assert [learning_rate(optimiser, progress) for progress in (0.0, 0.25, 0.5, 0.75, 1.0)] == [0.0, 1.0, 2.0, 2.0, 2.0]


def test_temperatures_stay_above_a_hundredth(synthetic_materials):
    model = fresh(synthetic_materials(8))
    with torch.no_grad():
        model.log_scales["crystal__xrd"].fill_(9.0)
    batch = make_batch(synthetic_materials(8), model.modalities)
    train(settings(), model, [batch], total_steps=1)
    assert float(model.logit_scales()["crystal", "xrd"].detach()) <= 100.001


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_completed_with_data_and_out_is_a_configuration(name):
    config = PretrainConfig.from_mapping({**preset(name), "data": "d", "out": "o"}, origin=name)
    assert PretrainConfig.from_mapping(config.model_dump(mode="json"), origin="itself") == config


def test_an_unknown_preset_is_refused():
    with pytest.raises(ConfigError, match="tiny, default, multimat-paper, matbind-paper, clasp-paper"):
        preset("huge")


def test_metrics_go_to_csv_and_tensorboard_and_a_restart_continues_them(tmp_path):
    run = f"file://{tmp_path}"
    log = MetricLog(settings(), run)
    for step in (5, 10, 15):
        log.write({"step": float(step), "loss": 1.0 / step})
    log.close()
    log = MetricLog(settings(loggers=("csv",)), run, start_step=10)
    log.write({"step": 15.0, "loss": 0.5, "loss/crystal-dos": 0.25})
    log.close()
    rows = list(csv.DictReader((tmp_path / "metrics.csv").open()))
    assert [(row["step"], row["loss"], row["loss/crystal-dos"]) for row in rows] == [
        ("5", "0.2", ""),
        ("10", "0.1", ""),
        ("15", "0.5", "0.25"),
    ]
    assert list((tmp_path / "tensorboard").glob("events.out.tfevents.*"))


def test_a_logger_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ConfigError, match="mlflow"):
        MetricLog(settings(loggers=("mlflow",)), f"file://{tmp_path}")
