"""A campaign on a cluster: nothing finished runs again, who dies goes on, who fails says why, and nothing leaks."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

import small_campaign as small
from crystalign.finetuning.trials.config import TrialResult
from crystalign_jobs import cli
from crystalign_jobs.campaign.executor import concurrent_trials
from crystalign_jobs.campaign.grid import expand
from crystalign_jobs.campaign.run import tune
from crystalign_jobs.campaign.status import summarise_campaign
from crystalign_jobs.campaign.store import FAILURE
from small_campaign import RECIPE, audit, epochs_of, settings

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    return small.write_dataset(str(tmp_path_factory.mktemp("campaign") / "data"))


def left_behind() -> list[str]:
    """Placement groups and processes of trials that are still there, after a moment to go."""
    import ray

    for _ in range(50):
        groups = [g["name"] for g in ray.util.placement_group_table().values() if g["state"] != "REMOVED"]
        found = groups + [name for name in commands() if "Func" in name or "run_one" in name]
        if not found:
            return []
        time.sleep(0.2)
    return found


def commands() -> list[str]:
    """The titles of the processes of this session's clusters; there may be others on this machine."""
    mark, found = os.environ["CRYSTALIGN_TEST_MARK"].encode(), []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if mark in place.with_name("environ").read_bytes():
                found.append(place.read_bytes().replace(b"\0", b" ").decode(errors="replace").strip())
        except OSError:
            continue
    return [name for name in found if name.startswith("ray::")]


def tree(folder: Path) -> dict[str, int]:
    return {str(place.relative_to(folder)): place.stat().st_mtime_ns for place in folder.rglob("*") if place.is_file()}


def results(run: Path) -> dict[str, TrialResult]:
    places = run.glob("trials/*/result.json")
    return {place.parent.name: TrialResult.model_validate_json(place.read_text()) for place in places}


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory, ray_session):
    out = tmp_path_factory.mktemp("finished")
    config = settings(data, out)
    return config, out / "campaign", tune(config, watch=audit(out / "notes"))


def test_a_campaign_writes_its_table_and_the_same_command_runs_nothing(finished, tmp_path, capsys):
    config, run, report = finished
    assert report.trials == 5
    assert not report.failures
    assert {p.name for p in run.iterdir()} == {
        "config.yaml", "trials", "results.parquet", "results.md", "results.html", "figure.png", "best"
    }  # fmt: skip
    assert {p.name for p in (run / "trials").iterdir()} == {entry.config.id for entry in expand(config)}
    assert left_behind() == []
    before = tree(run / "trials")
    again = tune(config, watch=audit(tmp_path))
    assert epochs_of(tmp_path) == {}
    assert tree(run / "trials") == before
    assert "5 of 5 trials are already finished" in capsys.readouterr().out
    assert again.trials == 5


def test_runs_lists_a_campaign_and_how_to_go_on_with_it(finished, tmp_path, capsys):
    run = finished[1]
    assert cli.main(["runs", str(run.parent)]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "finished" in line]
    assert line.split()[:4] == ["campaign", "finished", "5/5", "0"]
    half = tmp_path / "half"
    shutil.copytree(run, half)
    for number, result in enumerate(sorted(half.glob("trials/*/result.json"))[:2]):
        result.unlink()
        if number:
            result.with_name(FAILURE).write_text("{}")
    assert cli.main(["runs", str(half), "--json-lines"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["finished"], told["failed"], told["known"], told["running"]) == (3, 1, 5, False)
    assert told["resume"] == f"crystalign tune --resume {half}"


def test_runs_tells_what_is_left_of_a_campaign_without_its_table_or_its_data(finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished[1], run)
    values = yaml.safe_load((run / "config.yaml").read_text())
    assert summarise_campaign(str(run), values).resume_command is None
    gone = values | {"data": str(tmp_path / "gone"), "missing_targets": "skip"}
    assert (summarise_campaign(str(run), gone).known, summarise_campaign(str(run), gone).finished) == (None, 5)
    (run / "results.md").unlink()
    assert summarise_campaign(str(run), values).resume_command == f"crystalign tune --resume {run}"


def test_processes_are_used_again_and_run_side_by_side(finished, data):
    config, run, _ = finished
    lines = [line for place in (run.parent / "notes").glob("*.txt") for line in place.read_text().splitlines()]
    processes = {line.split()[1] for line in lines}
    assert len(processes) <= concurrent_trials(config) < 4


def test_a_campaign_grows_by_flags_and_runs_what_is_new(finished, tmp_path, capsys):
    run = finished[1]
    before = set(results(run))
    assert cli.main(["tune", "--resume", str(run), "--seeds", "0", "1", "2"]) == 0
    out = capsys.readouterr().out
    assert "5 of 7 trials are already finished" in out
    assert "next: crystalign predict --model" in out
    assert len(set(results(run)) - before) == 2
    assert cli.main(["tune", "--resume", str(run), "--seeds", "0"]) == 2
    assert "other settings: seeds" in capsys.readouterr().err


def test_a_trial_of_two_processes_is_that_of_one_even_where_one_is_killed(finished, data, tmp_path):
    config = settings(data, tmp_path, workers=2, learning_rates=(1e-2,), seeds=(0,))
    dies = {"seed": 0, "lr": 1e-2, "epoch": 7, "how": "kill", "times": 1}
    report = tune(config, watch=audit(tmp_path / "notes", dies=dies))
    assert (report.trials, dict(report.failures)) == (2, {})
    assert left_behind() == []
    alone, together = results(finished[1]), results(tmp_path / "campaign")
    for name, result in together.items():
        assert result.sizes == alone[name].sizes
        for target, metrics in result.metrics.items():
            assert metrics == pytest.approx(alone[name].metrics[target], rel=1e-3)
    ((_, epochs),) = epochs_of(tmp_path / "notes").items()
    assert epochs[:7] == [1, 2, 3, 4, 5, 6, 7]
    assert set(epochs) == set(range(1, 13))
    assert len(epochs) <= 13  # the state of epoch 6 or 7 was whole


@pytest.mark.usefixtures("ray_session")
def test_what_a_process_of_several_raises_stands_in_the_table(data, tmp_path):
    config = settings(data, tmp_path, workers=2, learning_rates=(1e-2,), seeds=(0,), max_failures=0)
    dies = {"seed": 0, "lr": 1e-2, "epoch": 2, "how": "raise", "times": 1}
    report = tune(config, watch=audit(tmp_path / "notes", dies=dies))
    assert report.trials == 1
    assert [why for _, why in report.failures] == ["ValueError: the furnace is cold"]
    assert left_behind() == []


@pytest.mark.usefixtures("ray_session")
def test_a_trial_whose_process_is_killed_goes_on_in_another(data, tmp_path, capsys):
    config = settings(data, tmp_path, learning_rates=(1e-2,))
    dies = {"seed": 1, "lr": 1e-2, "epoch": 7, "how": "kill", "times": 1}
    report = tune(config, watch=audit(tmp_path / "notes", dies=dies))
    assert report.trials == 3
    killed = next(entry.config.id for entry in expand(config) if entry.config.seed == 1)
    assert epochs_of(tmp_path / "notes")[killed] == [*range(1, 8), *range(7, 13)]
    assert "process died, restarting the trial" in capsys.readouterr().out
    assert left_behind() == []


@pytest.mark.usefixtures("ray_session")
def test_trials_that_fail_say_why_and_the_others_go_on(data, tmp_path, capsys):
    config = settings(data, tmp_path, max_failures=1)
    dies = {"seed": 1, "lr": 1e-2, "epoch": 3, "how": "raise"}
    report = tune(config, watch=audit(tmp_path / "notes", dies=dies))
    assert report.trials == 4
    assert [why for _, why in report.failures] == ["ValueError: the furnace is cold"]
    failed = report.failures[0][0].config
    place = tmp_path / "campaign" / "trials" / failed.id / FAILURE
    assert "the furnace is cold" in json.loads(place.read_text())["traceback"]
    text = (tmp_path / "campaign" / "results.md").read_text()
    assert "Trials that failed" in text
    assert "furnace" in text
    assert "failed: ValueError" in capsys.readouterr().out
    assert epochs_of(tmp_path / "notes")[failed.id] == [1, 2, 3], "what raises is not tried again"
    report = tune(config, watch=audit(tmp_path / "again", dies=dies | {"how": "kill", "epoch": 5, "times": 9}))
    assert set(epochs_of(tmp_path / "again")) == {failed.id}, "the next run tries it again, and nothing else"
    assert "its process died 2 times" in report.failures[0][1]
    report = tune(config)
    assert report.trials == 5
    assert not place.exists()
    assert left_behind() == []


@pytest.mark.usefixtures("ray_session")
def test_a_trial_that_is_stopped_early_leaves_a_result_and_nothing_else(data, tmp_path):
    config = settings(
        data,
        tmp_path,
        stop_early={"rule": "asha", "grace_epochs": 3, "reduction": 2},
        learning_rates=(1e-2, 1e-9),
        seeds=(0,),
        concurrent=1,
    )
    report = tune(config, watch=audit(tmp_path / "notes"))
    assert (report.trials, report.stopped) == (3, 1)
    found = {result.config.lr: result for result in results(tmp_path / "campaign").values() if result.epochs}
    assert (found[1e-2].ended, found[1e-2].epochs) == ("epochs", 12)
    assert found[1e-9].ended == "stopped"
    assert found[1e-9].epochs < 12
    folder = tmp_path / "campaign" / "trials" / found[1e-9].id
    assert {p.name for p in folder.iterdir()} == {"model", "predictions.parquet", "result.json"}
    assert left_behind() == []
    assert "1 trials ended early" in (tmp_path / "campaign" / "results.md").read_text()


@pytest.mark.usefixtures("ray_session")
def test_a_random_search_runs_the_best_of_its_samples_with_the_other_seeds(data, tmp_path):
    config = settings(data, tmp_path, search={"samples": 3}, seeds=(0, 1, 2), recipe=RECIPE | {"max_epochs": 4})
    report = tune(config)
    row = next(row for row in report.rows if row.cell.initialisation == "scratch")
    assert sorted(row.results) == [0, 1, 2]
    assert report.trials == 1 + 3 + 2
    assert tune(config).trials == 6
    assert left_behind() == []


@pytest.mark.usefixtures("ray_session")
def test_a_search_by_optuna_goes_on_where_it_was(data, tmp_path):
    pytest.importorskip("optuna")
    config = settings(data, tmp_path, search={"kind": "optuna", "samples": 3}, recipe=RECIPE | {"max_epochs": 4})
    report = tune(config)
    assert report.trials == 1 + 3 + 1
    grown = settings(
        data, tmp_path, search={"kind": "optuna", "samples": 5}, recipe=RECIPE | {"max_epochs": 4}, seeds=(0, 1)
    )
    assert tune(grown, watch=audit(tmp_path / "notes")).trials >= 1 + 5 + 1
    assert 2 <= len(epochs_of(tmp_path / "notes")) <= 3


def driver(data: str, out: Path, notes: Path, dies: dict[str, Any]) -> subprocess.Popen[str]:
    arguments = [sys.executable, small.__file__, data, str(out), str(notes), json.dumps(dies)]
    path = os.pathsep.join(p for p in sys.path if p)
    return subprocess.Popen(
        arguments,
        env=os.environ | {"PYTHONPATH": path, "RAY_ADDRESS": "local"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_until(what, seconds: float = 150.0) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.1)


def is_quiet(notes: Path) -> bool:
    """Whether no trial notes anything for a second."""
    before = {place: place.stat().st_size for place in notes.glob("*.txt")}
    time.sleep(1.0)
    return {place: place.stat().st_size for place in notes.glob("*.txt")} == before


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.usefixtures("ray_session")
def test_a_campaign_that_is_killed_goes_on_where_it_was(data, tmp_path, how):
    run, notes = tmp_path / "campaign", tmp_path / "notes"
    process = driver(data, tmp_path, notes, {"seed": 0, "lr": 1e-3, "epoch": 6, "how": "hang"})
    try:
        wait_until(lambda: len(results(run)) >= 2 and any(epochs.count(6) > 1 for epochs in epochs_of(notes).values()))
        process.send_signal(how)
        said, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    if how == signal.SIGINT:
        assert "stopping" in said
    before = results(run)
    assert 2 <= len(before) < 5
    assert not (run / "results.md").exists()
    wait_until(lambda: is_quiet(notes), seconds=30.0)  # a killed driver takes its workers along, within seconds
    report = tune(settings(data, tmp_path), watch=audit(tmp_path / "again"))
    assert report.trials == 5
    again = epochs_of(tmp_path / "again")
    assert not set(before) & set(again), "finished trials are not run again"
    assert [6, *range(7, 13)] in again.values(), "a trial that was killed goes on from its state"
    assert not list(run.glob("trials/*/state"))
    assert left_behind() == []
