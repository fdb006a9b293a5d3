"""The newest checkpoint that verifies is the truth about a run."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from crystalign.errors import StorageError, VerificationError
from crystalign.model import Model, ModelConfig, load
from crystalign.training.checkpoint import (
    checkpoint_uri,
    latest_checkpoint,
    load_checkpoint,
    prune_checkpoints,
    save_checkpoint,
)
from crystalign.training.loop import TrainState

CONFIG = ModelConfig(
    modalities={
        "crystal": {"encoder": "gated-graph", "options": {"hidden": 8, "layers": 1, "width": 16}},
        "composition": {"encoder": "composition-transformer", "options": {"hidden": 8, "layers": 1}},
    },
    embedding_dim=8,
)


@pytest.fixture
def run(tmp_path) -> str:
    """A run with checkpoints at steps 10, 20 and 30."""
    uri = f"file://{tmp_path}/run"
    for step in (10, 20, 30):
        torch.manual_seed(step)
        model = Model(CONFIG)
        moments = {f"{n}/exp_avg": torch.full_like(p, step) for n, p in model.named_parameters()}
        save_checkpoint(uri, model, TrainState(step, 100 * step, 1.5 * step, {"epoch": 1}, moments))
    return uri


def local(uri: str) -> Path:
    return Path(uri.removeprefix("file://"))


def test_a_checkpoint_comes_back_as_it_was(run):
    uri = latest_checkpoint(run)
    assert uri == checkpoint_uri(run, 30)
    model, state = load_checkpoint(uri)
    torch.manual_seed(30)
    for (name, found), expected in zip(model.state_dict().items(), Model(CONFIG).state_dict().values(), strict=True):
        assert torch.equal(found, expected), name
    assert (state.step, state.samples, state.seconds, state.cursor) == (30, 3000, 45.0, {"epoch": 1})
    assert all((moment == 30).all() for moment in state.optimiser.values())
    assert len(state.optimiser) == len(list(model.parameters()))


def test_a_checkpoint_is_a_model_directory(run):
    found = load(checkpoint_uri(run, 20)).config
    assert found.aligned == CONFIG.aligned
    assert {name: spec.encoder for name, spec in found.modalities.items()} == {
        name: spec.encoder for name, spec in CONFIG.modalities.items()
    }


@pytest.mark.parametrize("name", ["model.safetensors", "optimiser.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["altered", "truncated", "missing"])
def test_a_broken_checkpoint_is_named_and_passed_over(run, caplog, name, damage):
    path = local(checkpoint_uri(run, 30)) / name
    data = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(data[:-9] if damage == "truncated" else data[:-9] + b"x" + data[-8:])
    with caplog.at_level(logging.WARNING):
        assert latest_checkpoint(run) == checkpoint_uri(run, 20)
    if (name, damage) != ("manifest.json", "missing"):  # then it never was one
        assert "step-00000030" in caplog.text
        with pytest.raises(StorageError if damage == "missing" else VerificationError):
            load_checkpoint(checkpoint_uri(run, 30))


def test_a_run_without_checkpoints_has_none(tmp_path):
    assert latest_checkpoint(f"file://{tmp_path}/nothing") is None


def test_old_checkpoints_go_and_the_newest_stay(run):
    assert prune_checkpoints(run, keep=2) == [checkpoint_uri(run, 10)]
    assert not (local(checkpoint_uri(run, 10)) / "manifest.json").exists()
    assert latest_checkpoint(run) == checkpoint_uri(run, 30)
    load_checkpoint(checkpoint_uri(run, 20))
