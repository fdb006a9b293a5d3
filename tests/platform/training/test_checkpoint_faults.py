"""A store that refuses, hangs, truncates or lies: an error of ours, in finite time, and the last checkpoint stays."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import faulty_s3
from crystalign import storage, storage_s3
from crystalign.errors import StorageError, VerificationError
from crystalign.model import Model, ModelConfig
from crystalign.training.checkpoint import (
    checkpoint_uri,
    checkpoints,
    latest_checkpoint,
    load_checkpoint,
    prune_checkpoints,
    save_checkpoint,
)
from crystalign.training.checkpoint_writer import CheckpointWriter
from crystalign.training.loop import TrainState

SECONDS = 30.0
"""No fault may hold a run for longer, at the time-outs set here."""
CONFIG = ModelConfig(
    modalities={
        "crystal": {"encoder": "gated-graph", "options": {"hidden": 8, "layers": 1, "width": 16}},
        "composition": {"encoder": "composition-transformer", "options": {"hidden": 8, "layers": 1}},
    },
    embedding_dim=8,
)


@pytest.fixture(scope="module")
def model() -> Model:
    torch.manual_seed(0)
    return Model(CONFIG)


def state(step: int, model: Model) -> TrainState:
    moments = {f"{n}/exp_avg": torch.full_like(p, step) for n, p in model.named_parameters()}
    return TrainState(step, 100 * step, 1.5 * step, {"epoch": 1}, moments)


@pytest.fixture
def proxy(s3: str, moto_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[faulty_s3.FaultyS3]:
    server = faulty_s3.FaultyS3(moto_endpoint)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    for name, value in {"CONNECT_TIMEOUT": 1.0, "REQUEST_TIMEOUT": 1.0, "ATTEMPTS": 1}.items():
        monkeypatch.setattr(storage_s3, name, value)
    storage_s3.s3_filesystem.cache_clear()
    yield server
    server.close()
    storage_s3.s3_filesystem.cache_clear()


@pytest.fixture
def run(proxy: faulty_s3.FaultyS3, s3: str, model: Model) -> str:
    """A run with a checkpoint of step 10, before anything goes wrong."""
    uri = storage.join(s3, "runs", "first")
    save_checkpoint(uri, model, state(10, model))
    return uri


def of_step(step: int, fault: str, method: str = "PUT", name: str = "") -> faulty_s3.Plan:
    """A plan that breaks the requests of one method to one checkpoint."""
    folder = f"step-{step:08d}/{name}"
    return lambda found, key, number: fault if found == method and folder in key else "pass"


def test_a_store_that_is_busy_for_a_moment_is_asked_again(proxy, run, model, monkeypatch):
    monkeypatch.setattr(storage_s3, "ATTEMPTS", 4)
    storage_s3.s3_filesystem.cache_clear()
    refused = iter(["503"] * 3 + ["pass"] * 10_000)
    proxy.plan = lambda method, key, number: next(refused) if method == "PUT" else "pass"
    save_checkpoint(run, model, state(20, model))
    assert [fault for *_, fault in proxy.requests].count("503") == 3
    assert latest_checkpoint(run) == checkpoint_uri(run, 20)


WRONG = {
    "503 for ever": of_step(20, "503"),
    "silently lost": of_step(20, "drop"),
    "one file silently lost": of_step(20, "drop", name="optimiser.safetensors"),
    "the manifest silently lost": of_step(20, "drop", name="manifest.json"),
    "truncated on the way there": of_step(20, "truncate upload"),
    "truncated on the way back": of_step(20, "truncate answer", method="GET"),
    "hanging": of_step(20, "hang"),
    "hanging when read back": of_step(20, "hang", method="GET"),
}


@pytest.mark.parametrize("plan", WRONG.values(), ids=WRONG)
def test_a_checkpoint_that_is_not_stored_is_an_error_and_the_one_before_stays(proxy, run, model, plan):
    proxy.plan = plan
    began = time.monotonic()
    with pytest.raises(StorageError, match="step-00000020"):
        save_checkpoint(run, model, state(20, model))
    assert time.monotonic() - began < SECONDS
    proxy.plan = lambda *_: "pass"
    assert latest_checkpoint(run) == checkpoint_uri(run, 10)
    assert load_checkpoint(checkpoint_uri(run, 10))[1].step == 10


def test_training_hears_of_a_lost_checkpoint_at_its_next_step(proxy, run, model):
    proxy.plan = of_step(20, "drop")

    def go_on_training() -> None:
        with CheckpointWriter(run, model, keep=2) as writer:
            writer.save(model, state(20, model))
            for _ in range(200):
                time.sleep(0.05)
                writer.check()
            pytest.fail("200 steps were done after the upload was lost")

    with pytest.raises(VerificationError, match="checkpoint of step 20 could not be stored"):
        go_on_training()


def test_the_end_of_training_waits_for_the_last_checkpoint(proxy, run, model):
    proxy.plan = of_step(20, "drop")
    with (
        pytest.raises(VerificationError, match="checkpoint of step 20"),
        CheckpointWriter(run, model, keep=2) as writer,
    ):
        writer.save(model, state(20, model))


FAR = {"503": "503", "hang": "hang", "truncated": "truncate answer"}


@pytest.mark.parametrize("fault", FAR.values(), ids=FAR)
def test_a_run_that_cannot_read_its_checkpoint_does_not_go_back_to_an_earlier_one(proxy, run, model, fault):
    save_checkpoint(run, model, state(20, model))
    proxy.plan = of_step(20, fault, method="GET", name="model.safetensors")
    began = time.monotonic()
    with pytest.raises(StorageError, match="step-00000020") as caught:
        latest_checkpoint(run)
    assert not isinstance(caught.value, VerificationError), "nothing is known to be wrong with it"
    assert time.monotonic() - began < SECONDS
    proxy.plan = lambda method, key, number: fault
    with pytest.raises(StorageError):
        latest_checkpoint(run)


class CrashError(Exception):
    """The process died here."""


def crashing_after(n: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let n writes and deletions of the store pass, and die at the next; what was done."""
    done: list[str] = []

    def counted(name: str):
        original = getattr(storage, name)

        def act(*args, **kwargs):
            target = str(args[1] if name == "upload" else args[0])
            if len(done) == n:
                if name == "upload":  # half a file, where the store would show one
                    storage.filesystem(target)[0].create_dir(storage.filesystem(target)[1].rpartition("/")[0])
                    Path(storage.filesystem(target)[1]).write_bytes(Path(args[0]).read_bytes()[:-7])
                raise CrashError
            done.append(f"{name} {target}")
            return original(*args, **kwargs)

        monkeypatch.setattr(storage, name, act)

    counted("upload")
    counted("delete")
    return done


@pytest.mark.parametrize("again", [False, True], ids=["first time", "over a broken one"])
def test_a_crash_between_any_two_writes_leaves_a_checkpoint_to_go_on_from(tmp_path, monkeypatch, model, again):
    writes = 0
    for n in range(100):
        run = str(tmp_path / f"{again}-{n}")
        for step in (10, 20):
            save_checkpoint(run, model, state(step, model))
        if again:  # a checkpoint of step 30 that was damaged, hence written anew by the resumed run
            save_checkpoint(run, model, state(30, model))
            Path(checkpoint_uri(run, 30), "model.safetensors").write_bytes(b"damaged")
        with monkeypatch.context() as patched:
            done = crashing_after(n, patched)
            try:
                save_checkpoint(run, model, state(30, model))
                prune_checkpoints(run, keep=1)
            except CrashError:
                crashed = True
            else:
                crashed = False
        newest = latest_checkpoint(run)
        assert newest in {checkpoint_uri(run, 20), checkpoint_uri(run, 30)}, done
        assert load_checkpoint(newest)[1].step in {20, 30}
        written = f"upload {checkpoint_uri(run, 30)}/manifest.json" in done
        assert (newest == checkpoint_uri(run, 30)) == written, done
        if not crashed:
            writes = n
            break
    assert writes >= 8, "every file, the manifest, and the deletions were crashed at"
    assert [step for step, _ in checkpoints(run)] == [30]
