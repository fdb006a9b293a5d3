"""The newest checkpoint that verifies is the truth about a run."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import pytest
import torch

from crystalign import storage
from crystalign.batch import make_batch
from crystalign.errors import VerificationError
from crystalign.model import Model, ModelConfig, load
from crystalign.training import checkpoint
from crystalign.training.checkpoint import (
    checkpoint_uri,
    checkpoints,
    latest_checkpoint,
    load_checkpoint,
    prune_checkpoints,
    save_checkpoint,
)
from crystalign.training.checkpoint_writer import CheckpointWriter
from crystalign.training.config import PretrainConfig
from crystalign.training.loop import TrainState, train

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
        with pytest.raises(VerificationError):
            load_checkpoint(checkpoint_uri(run, 30))


def test_a_run_without_checkpoints_has_none(tmp_path):
    assert latest_checkpoint(f"file://{tmp_path}/nothing") is None


def test_a_run_none_of_whose_checkpoints_is_whole_does_not_start_again_at_zero(run):
    for step in (10, 20, 30):
        (local(checkpoint_uri(run, step)) / "model.safetensors").unlink()
    with pytest.raises(VerificationError, match=r"none of the 3 checkpoints.*model\.safetensors.*missing"):
        latest_checkpoint(run)


def kept(run: str) -> list[int]:
    return [step for step, _ in checkpoints(run)]


def test_old_checkpoints_go_and_the_newest_stay(run, monkeypatch):
    deleted: list[str] = []
    delete = storage.delete
    monkeypatch.setattr(storage, "delete", lambda uri: (deleted.append(uri), delete(uri))[1])
    assert prune_checkpoints(run, keep=2) == [checkpoint_uri(run, 10)]
    gone = checkpoint_uri(run, 10)
    assert deleted == [f"{gone}/manifest.json", gone], "the manifest first, so that none is ever seen half deleted"
    assert not local(gone).exists()
    assert latest_checkpoint(run) == checkpoint_uri(run, 30)
    load_checkpoint(checkpoint_uri(run, 20))


def scored(run: str, found: dict[int, dict[str, float]]) -> None:
    model = Model(CONFIG)
    for step, metrics in found.items():
        save_checkpoint(run, model, TrainState(step), metrics=metrics)


def test_the_best_by_retrieval_and_the_newest_stay(tmp_path):
    run = str(tmp_path / "run")
    found = {10: 0.1, 20: 0.5, 30: 0.4, 40: 0.3, 50: 0.2}
    scored(run, {step: {"retrieval": value, "loss": value} for step, value in found.items()})
    prune_checkpoints(run, keep=2)
    assert kept(run) == [50, 30, 20]
    scored(run, {60: {"loss": 0.0}})  # there was no time to measure its retrieval: it stays as the newest alone
    prune_checkpoints(run, keep=2)
    assert kept(run) == [60, 30, 20]


def test_without_retrieval_the_lowest_losses_stay(tmp_path):
    run = str(tmp_path / "run")
    scored(run, {step: {"loss": loss} for step, loss in {10: 0.9, 20: 0.1, 30: 0.2, 40: 0.3}.items()})
    prune_checkpoints(run, keep=1)
    assert kept(run) == [40, 20]


def test_checkpoints_beyond_the_one_that_was_just_stored_did_not_verify_and_go(tmp_path):
    run = str(tmp_path / "run")
    scored(run, {70: {"retrieval": 0.5}, 80: {"retrieval": 0.6}, 100: {"retrieval": 0.9}, 90: {"loss": 1.0}})
    prune_checkpoints(run, keep=1, newest=90)
    assert kept(run) == [90, 80]


def test_what_an_upload_that_broke_off_left_behind_is_cleared_away(run):
    (local(checkpoint_uri(run, 20)) / "manifest.json").unlink()
    assert prune_checkpoints(run, keep=9) == []
    assert not local(checkpoint_uri(run, 20)).exists()
    assert kept(run) == [30, 10]


def test_what_is_published_with_a_checkpoint_is_there_before_a_run_can_go_on_from_it(tmp_path):
    run, seen = str(tmp_path / "run"), []
    model = Model(CONFIG)
    with CheckpointWriter(run, model, keep=1, publish=lambda: seen.append(kept(run))) as writer:
        for step in (10, 20):
            writer.save(model, TrainState(step))
    assert seen == [[], [10]]


def test_a_checkpoint_holds_the_step_it_was_taken_at_though_it_is_written_later(
    tmp_path, synthetic_materials, monkeypatch
):
    release = threading.Event()
    serialise = checkpoint._files
    monkeypatch.setattr(checkpoint, "_files", lambda *args: (release.wait(60), serialise(*args))[1])
    run = str(tmp_path / "run")
    torch.manual_seed(5)
    model = Model(CONFIG)
    batch = make_batch(synthetic_materials(8), model.modalities)
    settings = PretrainConfig(data="none", out="none", model=CONFIG, batch_size=8, checkpoint_every_steps=2)
    expected: dict[str, torch.Tensor] = {}
    with CheckpointWriter(run, model, keep=1) as writer:

        def on_checkpoint(trained: Model, state: TrainState) -> None:
            if state.step == 2:
                expected.update({name: tensor.clone() for name, tensor in trained.state_dict().items()})
                expected.update({name: tensor.clone() for name, tensor in state.optimiser.items()})
                writer.save(trained, state)

        train(settings, model, [batch] * 5, total_steps=5, on_checkpoint=on_checkpoint)
        assert checkpoints(run) == [], "five steps were done before the first file was written"
        writer.check()
        release.set()
    found, state = load_checkpoint(checkpoint_uri(run, 2))
    assert state.step == 2
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.state_dict().items())
    assert all(torch.equal(tensor, expected[name]) for name, tensor in state.optimiser.items())
    assert len(state.optimiser) == 3 * len(list(model.parameters()))
    assert any(not torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())


def test_one_checkpoint_is_written_at_a_time(tmp_path, monkeypatch):
    model, release, began = Model(CONFIG), threading.Event(), threading.Event()
    upload = storage.upload
    monkeypatch.setattr(storage, "upload", lambda *args: (began.set(), release.wait(60), upload(*args))[2])
    run = str(tmp_path / "run")
    with CheckpointWriter(run, model, keep=9) as writer:
        writer.save(model, TrainState(1))
        second = threading.Thread(target=writer.save, args=(model, TrainState(2)))
        second.start()
        assert began.wait(60)
        second.join(timeout=0.3)
        assert second.is_alive(), "the second waits for the first"
        release.set()
        second.join(timeout=60)
        assert kept(run)[-1] == 1
    assert kept(run) == [2, 1]


def test_an_error_of_the_training_is_not_hidden_by_one_of_the_upload(tmp_path):
    model = Model(CONFIG)
    (tmp_path / "run").write_text("not a folder")

    def diverge() -> None:
        with CheckpointWriter(str(tmp_path / "run"), model, keep=1) as writer:
            writer.save(model, TrainState(7))
            raise FloatingPointError("diverged")

    with pytest.raises(FloatingPointError) as caught:
        diverge()
    assert "checkpoint of step 7 could not be stored" in caught.value.__notes__[0]
