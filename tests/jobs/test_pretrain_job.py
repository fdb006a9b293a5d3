from __future__ import annotations

import csv
import os
import random
import shutil
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import small_pretraining as small
from crystalign.errors import ConfigError, DatasetError, Error, StorageError
from crystalign.model_config import ModalitySpec
from crystalign_jobs import cli
from crystalign_jobs.pretrain import pretrain
from crystalign_jobs.pretraining.driver import Stopped
from crystalign_jobs.pretraining.status import summarise
from small_pretraining import MODEL, audit, history, repeated, settings

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture(scope="module")
def uninterrupted(small_dataset, tmp_path_factory, ray_session):
    folder = tmp_path_factory.mktemp("uninterrupted")
    model = pretrain(settings(small_dataset, folder), watch=audit(folder / "audit"))
    return folder, model


def test_two_workers_lower_the_loss_and_write_a_model_that_loads(uninterrupted, small_dataset):
    import crystalign.model
    from crystalign.shards.dataset import Dataset

    folder, uri = uninterrupted
    rows = list(csv.DictReader((folder / "run" / "metrics.csv").open()))
    losses = [float(row["loss"]) for row in rows]
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])
    model = crystalign.model.load(uri)
    assert model.card.steps == len(rows)
    assert model.card.dataset_sha256 == Dataset.open(small_dataset).manifest.sha256
    assert model.card.split["by"] == "formula"
    assert model.embed("composition", [next(iter(Dataset.open(small_dataset).materials())).value("composition")]).shape
    assert (folder / "run" / "config.yaml").is_file()


def test_what_a_user_wants_to_see_of_each_pair_is_logged(uninterrupted):
    folder, _ = uninterrupted
    rows = list(csv.DictReader((folder / "run" / "metrics.csv").open()))
    always = {"loss", "loss/composition-text", "temperature/composition-text", "grad_norm", "lr", "data_wait"}
    assert all(row[name] for row in rows for name in always | {"samples_per_second"})
    measured = [row for row in rows if row["retrieval"]]
    assert measured, "with a checkpoint, and at the end"
    assert measured[-1]["step"] == rows[-1]["step"]
    for row in measured:
        both = [float(row[f"retrieval/{pair}"]) for pair in ("composition-text", "text-composition")]
        assert float(row["retrieval"]) == pytest.approx(sum(both) / 2, abs=1e-6)
    found = summarise(str(folder / "run"))
    assert (found.state, found.step, found.total, found.resume_command) == ("finished", small.STEPS, small.STEPS, None)
    assert found.retrieval == pytest.approx(float(rows[-1]["retrieval"]), abs=1e-6)


def test_a_rank_that_dies_changes_neither_the_samples_nor_a_bit_of_the_weights(uninterrupted, small_dataset, tmp_path):
    import crystalign.model

    folder, uri = uninterrupted
    step = random.randrange(1, small.STEPS)
    shutil.copytree(folder / "run" / "prepared", tmp_path / "run" / "prepared")  # of equal vocabulary
    again = pretrain(settings(small_dataset, tmp_path), watch=audit(tmp_path / "audit", dies_at=step))
    assert (tmp_path / "audit" / "happened").exists(), step
    assert history(tmp_path / "audit") == history(folder / "audit"), step
    assert crystalign.model.load(again).sha256 == crystalign.model.load(uri).sha256, step


def test_a_worker_that_gets_sigterm_leaves_a_checkpoint_and_no_step_is_repeated(uninterrupted, small_dataset, tmp_path):
    import crystalign.model

    folder, uri = uninterrupted
    shutil.copytree(folder / "run" / "prepared", tmp_path / "run" / "prepared")
    config = settings(small_dataset, tmp_path, checkpoint_every_steps=1000)
    again = pretrain(config, watch=audit(tmp_path / "audit", terminates_at=3, slow=0.5))
    assert (tmp_path / "audit" / "happened").exists()
    assert history(tmp_path / "audit") == history(folder / "audit")
    assert repeated(tmp_path / "audit") == []
    assert crystalign.model.load(again).sha256 == crystalign.model.load(uri).sha256


def test_a_rank_that_hangs_is_named(small_dataset, tmp_path):
    config = settings(small_dataset, tmp_path, timeout_minutes=0.2, max_failures=0)
    with pytest.raises(Error, match=r"waited for rank 1 \(process \d+ on .*\), which waits for data at step 2 for"):
        pretrain(config, watch=audit(tmp_path / "audit", hangs_at=2))
    found = summarise(str(tmp_path / "run"))
    assert found.state == "failed"
    assert "rank 1" in found.message


def test_a_checkpoint_that_cannot_be_stored_stops_the_run_and_is_not_tried_again(small_dataset, tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "step-00000004").write_text("no folder can be made here")
    with pytest.raises(StorageError, match="checkpoint of step 4 could not be stored"):
        pretrain(settings(small_dataset, tmp_path, epochs=60), watch=audit(tmp_path / "audit", slow=0.2))
    assert max(history(tmp_path / "audit")) < "0040"
    assert repeated(tmp_path / "audit") == [], "two more attempts were allowed, but would fail in the same way"
    assert not (tmp_path / "run" / "model").exists()


def test_a_run_that_gave_up_is_resumed_at_its_checkpoint(uninterrupted, small_dataset, tmp_path):
    import crystalign.model

    folder, uri = uninterrupted
    shutil.copytree(folder / "run" / "prepared", tmp_path / "run" / "prepared")
    config = settings(small_dataset, tmp_path, max_failures=0)
    with pytest.raises(Error, match=r"failed ranks: .*1.*pretrain --resume"):
        pretrain(config, watch=audit(tmp_path / "first", dies_at=6))
    with pytest.raises(ConfigError, match="already holds a run"):
        pretrain(config)
    found = summarise(str(tmp_path / "run"))
    assert (found.state, found.checkpoint) == ("failed", 4)
    start, resumed = f"{found.checkpoint:04d}-0", config.model_copy(update={"resume": True})
    again = pretrain(resumed, watch=audit(tmp_path / "second"))
    second, whole = history(tmp_path / "second"), history(folder / "audit")
    assert min(second) == start
    assert second == {key: ids for key, ids in whole.items() if key >= start}
    assert crystalign.model.load(again).sha256 == crystalign.model.load(uri).sha256


def driver_that_dies(data: str, out: Path, step: int) -> int:
    """A driver in a process of its own, on this test's cluster, killed before a step; its exit code."""
    import ray

    address = ray.get_runtime_context().gcs_address
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "RAY_ADDRESS": address}
    command = [sys.executable, small.__file__, data, str(out), str(out / "first"), str(step)]
    return subprocess.run(command, env=environment, check=False, capture_output=True, timeout=600).returncode


@pytest.mark.timeout(1200)
def test_a_run_whose_driver_is_killed_and_then_stopped_ends_with_the_same_weights(
    uninterrupted, small_dataset, tmp_path, capsys
):
    import crystalign.model

    folder, undisturbed = uninterrupted
    out, whole = tmp_path / "out", history(folder / "audit")
    shutil.copytree(folder / "run" / "prepared", out / "run" / "prepared")  # of equal vocabulary
    run, killed, stopped = str(out / "run"), random.randrange(5, 8), random.randrange(5, 7)

    assert driver_that_dies(small_dataset, out, killed) == -signal.SIGKILL
    later = datetime.now(UTC) + timedelta(hours=1)
    assert summarise(run, later).state == "lost"
    assert summarise(run).resume_command in (None, f"crystalign pretrain --resume {run}")  # None: lost a moment ago

    me = {"driver": os.getpid(), "driver_dies_at": stopped, "driver_signal": signal.SIGTERM}
    watch = audit(out / "second", slow=1.0, **me)  # so that the run is not over before the workers hear of it
    with pytest.raises(Stopped, match="with a checkpoint") as caught:
        pretrain(settings(small_dataset, out, resume=True), watch=watch)
    assert caught.value.signum == signal.SIGTERM
    found = summarise(run)
    assert (found.state, found.step) == ("stopped", found.checkpoint)
    first, second = history(out / "first"), history(out / "second")
    assert first == {key: ids for key, ids in whole.items() if key in first}
    start = int(min(second).partition("-")[0])
    assert start in {0, 4}, "from the last checkpoint before the kill, or from none where it was not stored yet"
    last = int(max(second).partition("-")[0])
    assert found.checkpoint == last + 1, "the checkpoint is of the step after which it stopped"
    assert second == {key: ids for key, ids in whole.items() if f"{start:04d}" <= key < f"{last + 1:04d}"}

    assert found.step > stopped
    capsys.readouterr()
    assert cli.main(["pretrain", "--resume", run]) == 0
    assert f"resuming {run}" in capsys.readouterr().out
    assert crystalign.model.load(run + "/model").sha256 == crystalign.model.load(undisturbed).sha256
    assert summarise(run).state == "finished"


def test_a_run_is_not_resumed_with_settings_that_change_it(uninterrupted, small_dataset):
    folder, _ = uninterrupted
    with pytest.raises(ConfigError, match="batch_size=16 rather than 8"):
        pretrain(settings(small_dataset, folder, resume=True, batch_size=8))


def spoilt(modality: str, **changes: object) -> object:
    specs = MODEL.modalities | {modality: MODEL.modalities[modality].model_copy(update=changes)}
    return MODEL.model_copy(update={"modalities": specs})


CRYSTAL = ModalitySpec(encoder="dual-space", features={"reciprocal_bins": 32})
MISFIT = MODEL.model_copy(update={"modalities": MODEL.modalities | {"crystal": CRYSTAL}})


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"model": spoilt("text", options={"hiden": 16})}, "hiden"),
        ({"model": spoilt("text", features={"max_tokenz": 16})}, "max_tokenz"),
        ({"model": spoilt("composition", options={"layers": 0.5})}, "layers"),
        ({"model": MISFIT}, "modalities.crystal: 32 points of reciprocal space, expected"),
        ({"loggers": ("csv", "wandb")}, "loggers: 'wandb'"),
        ({"use_gpu": True}, "2 training workers × \\(1 CPU, 1 GPU\\)"),
    ],
)
def test_a_wrong_setting_is_named_before_any_worker_starts(small_dataset, tmp_path, monkeypatch, changes, complaint):
    monkeypatch.setattr("crystalign_jobs.pretraining.driver.fit", lambda *_: pytest.fail("workers were started"))
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match=complaint):
        pretrain(settings(small_dataset, tmp_path, **changes))
    assert not (tmp_path / "run" / "config.yaml").exists(), "the name stays free for the corrected settings"


def test_a_model_that_aligns_what_the_data_lacks_is_refused(small_dataset, tmp_path):
    model = MODEL.model_copy(
        update={"modalities": {**MODEL.modalities, "xrd": ModalitySpec(encoder="xrd-resnet")}},
    )
    with pytest.raises(DatasetError, match="holds no xrd"):
        pretrain(settings(small_dataset, tmp_path, model=model))


def test_a_plan_larger_than_the_cluster_is_refused_with_its_sum(small_dataset, tmp_path):
    with pytest.raises(ConfigError, match=r"1000 training workers × \(1 CPU, 0 GPU\)"):
        pretrain(settings(small_dataset, tmp_path, num_workers=1000))


def test_a_run_ends_after_its_steps_and_its_schedule_with_it(small_dataset, tmp_path):
    pretrain(settings(small_dataset, tmp_path, epochs=50, max_steps=3))
    rows = list(csv.DictReader((tmp_path / "run" / "metrics.csv").open()))
    assert [float(row["step"]) for row in rows] == [1, 2, 3]
    assert 0 < float(rows[2]["lr"]) < 0.5 * float(rows[1]["lr"])  # of a cosine over three steps, not over fifty epochs
