"""`crystalign runs` tells from the store alone how a run stands."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from crystalign import storage
from crystalign.errors import ConfigError, Error
from crystalign.model import Model, ModelConfig
from crystalign.training.checkpoint import save_checkpoint
from crystalign.training.loop import TrainState
from crystalign_jobs import cli
from crystalign_jobs.pretraining.driver import RunDisplay, progress_note
from crystalign_jobs.pretraining.mailbox import Mailbox, Position, laggards
from crystalign_jobs.pretraining.status import RunStatus, summarise, write_status
from crystalign_jobs.runs import summaries

CONFIG = ModelConfig(
    modalities={
        "crystal": {"encoder": "gated-graph", "options": {"hidden": 8, "layers": 1, "width": 16}},
        "composition": {"encoder": "composition-transformer", "options": {"hidden": 8, "layers": 1}},
    },
    embedding_dim=8,
)


@pytest.fixture
def run(base: str) -> str:
    """A run that was configured."""
    uri = storage.join(base, "runs", "first")
    storage.write_bytes(storage.join(uri, "config.yaml"), b"data: here\n")
    return uri


def later() -> datetime:
    return datetime.now(UTC) + timedelta(minutes=10)


def test_a_run_is_new_then_running_then_lost_then_finished(run):
    assert summarise(run, later()).state == "new"
    write_status(run, RunStatus(state="running", step=12, total=40, metrics={"loss": 0.5}))
    metrics = {"loss": 1.5, "retrieval": 0.25, "progress": 0.25}
    save_checkpoint(run, Model(CONFIG), TrainState(10), metrics=metrics)
    found = summarise(run)
    assert (found.state, found.step, found.checkpoint, found.total) == ("running", 12, 10, 40)
    assert (found.loss, found.retrieval) == (0.5, 0.25)
    assert found.written is not None
    assert abs((datetime.now(UTC) - found.written).total_seconds()) < 60
    assert found.resume_command is None
    lost = summarise(run, later())
    assert (lost.state, lost.resume_command) == ("lost", f"crystalign pretrain --resume {run}")
    storage.write_bytes(storage.join(run, "model", "config.json"), b"{}")
    assert summarise(run, later()).state == "finished"
    assert summarise(run, later()).resume_command is None


@pytest.mark.parametrize("state", ["stopped", "failed"])
def test_a_run_that_said_why_it_ended_is_believed(run, state):
    write_status(run, RunStatus(state=state, step=7, message="the store refused"))
    assert summarise(run).state == state
    assert summarise(run, later()).state == state
    assert summarise(run).resume_command is not None


def test_without_a_status_the_checkpoint_tells(run):
    save_checkpoint(run, Model(CONFIG), TrainState(10), metrics={"loss": 1.5, "progress": 0.25})
    found = summarise(run, later())
    assert (found.state, found.step, found.total, found.loss) == ("lost", 10, 40, 1.5)


def test_runs_are_listed_by_when_they_last_wrote_with_what_to_type(base, run, capsys):
    other = storage.join(base, "runs", "second")
    storage.write_bytes(storage.join(other, "config.yaml"), b"data: here\n")
    storage.write_bytes(storage.join(base, "runs", "no-run", "x"), b"")
    write_status(other, RunStatus(state="failed", step=7, total=9, message="the store refused"))
    under = storage.join(base, "runs")
    assert {found.uri for found in summaries(under)} == {run, other}
    assert [found.uri for found in summaries(other)] == [other]
    assert cli.main(["runs", under]) == 0
    text = capsys.readouterr().out
    assert "7/9" in text
    assert "second: the store refused" in text
    assert f"next: crystalign pretrain --resume {other}" in text
    assert cli.main(["runs", under, "--json-lines"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {row["uri"]: row["state"] for row in rows}[other] == "failed"


def test_where_there_is_no_run_it_says_so(tmp_path):
    with pytest.raises(ConfigError, match="no run under"):
        summaries(str(tmp_path))


def test_the_live_line_holds_what_one_looks_at():
    record = {"loss": 1.5, "loss/crystal-dos": 1.25, "retrieval": 0.4, "samples_per_second": 1234.0, "data_wait": 0.03}
    line = progress_note(record)
    assert line == "loss 1.500 (crystal-dos 1.250)  R@1 40.0 %  1,234 samples/s  3 % waiting for data"
    del record["retrieval"]
    assert "R@1" not in progress_note(record)


def test_what_arrives_after_the_end_does_not_change_how_it_ended(tmp_path):
    meter = SimpleNamespace(start_from=lambda step: None, reach=lambda *args, **kwargs: None)
    display = RunDisplay(str(tmp_path), meter)
    display.end(Error("the disk is full"))
    display.show({"step": 7.0, "progress": 0.5, "loss": 1.0, "samples_per_second": 9.0})
    display.tell()
    written = RunStatus.model_validate_json((tmp_path / "status.json").read_bytes())
    assert (written.state, written.message, written.step, written.total) == ("failed", "the disk is full", 7, 14)


def test_a_stop_that_is_past_does_not_stop_the_workers_that_start_next():
    mailbox = Mailbox(60.0)
    assert mailbox.begin() is None
    mailbox.ask_stop()
    assert mailbox.beat(0, place(4, "computes"))
    mailbox.stop_at(4)
    assert mailbox.resume(), "they had begun"
    assert mailbox.outcome() == (None, None)
    assert not mailbox.beat(0, place(4, "computes"))
    assert not mailbox.resume(), "nobody has begun since"


def place(step: int, phase: str, since: float = 60.0) -> Position:
    return Position(step, phase, since, "host", 7)


@pytest.mark.parametrize(
    ("heard", "named"),
    [
        ({0: (100.0, place(4, "computes")), 1: (100.0, place(4, "waits for data"))}, ["rank 1"]),
        ({0: (100.0, place(5, "waits for data")), 1: (100.0, place(4, "computes"))}, ["rank 1"]),
        ({0: (100.0, place(4, "computes")), 1: (60.0, place(4, "computes"))}, ["rank 1"]),
        ({r: (100.0, place(4 + (r > 1), "computes")) for r in range(4)}, ["rank 0", "rank 1"]),
        ({0: (100.0, place(4, "computes")), 1: (99.0, place(4, "computes"))}, []),
        ({}, []),
    ],
    ids=["data", "computing", "silent", "two", "all alike", "nobody"],
)
def test_the_rank_that_others_wait_for_is_the_one_that_is_behind(heard, named):
    found = laggards(heard, 101.0)
    assert [text.partition(" (")[0] for text in found] == named
