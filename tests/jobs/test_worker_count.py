"""A run goes on with the workers that fit: nodes are lost and join, and every sample is trained on once per epoch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray

import node_loss_program
import small_pretraining as small
from crystalign.errors import ConfigError
from crystalign.shards.dataset import Dataset
from crystalign.shards.order import EpochOrder
from crystalign.shards.selection import Selection
from crystalign.shards.splits import SplitRule
from crystalign_jobs.pretrain import Pretrain
from crystalign_jobs.pretraining import driver, worker_count

EPOCHS = 18


def expected(data: str) -> list[list[str]]:
    """The ids of each step, in order."""
    dataset = Dataset.open(data)
    chosen = Selection.build(dataset, SplitRule(), "train")
    ids = {}
    for shard, entry in enumerate(dataset.manifest.shards):
        for group in range(len(entry.row_groups)):
            column = dataset.read(shard, group, columns=["id"]).column("id").to_pylist()
            ids |= {(shard, group, row): name for row, name in enumerate(column)}
    orders = [EpochOrder(chosen, seed=0, epoch=epoch, batch_size=16, window_rows=32) for epoch in range(EPOCHS)]
    return [[ids[tuple(place)] for place in order.rows(k).tolist()] for order in orders for k in range(order.steps)]


def surviving(notes: Path, wanted: list[list[str]]) -> tuple[list[list[str]], list[int]]:
    """The ids of each step as they were trained on the last time, and by how many ranks."""

    def last(step: int, rank: int) -> list[str]:
        attempts = list(notes.glob(f"{step:04d}-{rank}-*.json"))
        found: list[str] = json.loads(max(attempts, key=lambda path: int(path.stem.rpartition("-")[2])).read_text())
        return found

    steps, sizes = [], []
    for step, ids in enumerate(wanted):
        first = last(step, 0)
        (size,) = [count for count in range(1, 5) if -(-len(ids) // count) == len(first)]
        steps.append([name for rank in range(size) for name in last(step, rank)])
        sizes.append(size)
    return steps, sizes


@pytest.mark.timeout(600)
def test_a_run_shrinks_and_grows_with_its_nodes_and_loses_no_sample(small_dataset, tmp_path):
    environment = os.environ | {"RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    command = [sys.executable, node_loss_program.__file__, small_dataset, str(tmp_path), str(EPOCHS)]
    done = subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "a node is lost" in done.stdout
    assert "workers instead of 1, after a checkpoint" in done.stdout
    wanted = expected(small_dataset)
    steps, sizes = surviving(tmp_path / "notes", wanted)
    assert steps == wanted
    assert sizes[0] == 4
    assert 1 in sizes
    assert sizes[-1] == 4


def config(**changes: object) -> Pretrain:
    found: Pretrain = small.settings("data", "out", **changes)
    return found


def cluster(monkeypatch, *nodes: dict[str, float], free: dict[str, float] | None = None) -> None:
    """A cluster of such nodes, all of it free or as much as is said."""
    found = [{"NodeID": str(n), "Alive": True, "Resources": resources} for n, resources in enumerate(nodes)]
    total = {name: sum(node.get(name, 0.0) for node in nodes) for name in ("CPU", "GPU")}
    monkeypatch.setattr("ray.nodes", lambda: found)
    monkeypatch.setattr("ray.cluster_resources", lambda: total)
    monkeypatch.setattr("ray.available_resources", lambda: total if free is None else free)


@pytest.mark.parametrize(("cpus", "workers"), [(6.0, 4), (5.0, 3), (4.0, 2), (100.0, 4)])
def test_as_many_workers_are_started_as_leave_room_for_the_tasks_that_feed_them(monkeypatch, cpus, workers):
    cluster(monkeypatch, {"CPU": cpus})
    assert worker_count.fitting_workers(config(num_workers=4, min_workers=2)) == workers
    assert worker_count.fitting_workers(config(num_workers=4, min_workers=2), most=2) == 2


def test_a_gpu_without_a_cpu_beside_it_is_no_place_for_a_worker(monkeypatch):
    cluster(monkeypatch, {"CPU": 8.0}, {"CPU": 2.0, "GPU": 4.0})
    assert worker_count.fitting_workers(config(num_workers=4, min_workers=1, use_gpu=True)) == 2
    cluster(monkeypatch, {"CPU": 8.0}, {"GPU": 4.0})
    with pytest.raises(ConfigError, match="a CPU and a GPU on the same node"):
        worker_count.fitting_workers(config(num_workers=4, min_workers=1, use_gpu=True))


def test_fewer_than_the_least_are_refused_with_the_sum(monkeypatch):
    cluster(monkeypatch, {"CPU": 3.0})
    with pytest.raises(ConfigError, match="2 training workers"):
        worker_count.fitting_workers(config(num_workers=4, min_workers=2))
    with pytest.raises(ConfigError, match="4 training workers"):
        worker_count.fitting_workers(config(num_workers=4))
    with pytest.raises(ValueError, match=r"min_workers \(5\) must not exceed num_workers \(4\)"):
        config(num_workers=4, min_workers=5)


def test_a_run_does_not_grow_into_what_others_use(monkeypatch):
    monkeypatch.setattr(worker_count, "LOOK_SECONDS", 0.0)
    wanted = config(num_workers=4, min_workers=1)
    for free, grows in ((0.5, True), (-1.0, False)):  # the feed, which makes room, uses up to 1.5
        cluster(monkeypatch, {"CPU": 8.0}, free={"CPU": free})
        assert worker_count.ScaleUpMonitor(wanted, 2, most=4).due() == grows
    cluster(monkeypatch, {"CPU": 8.0})
    assert not worker_count.ScaleUpMonitor(wanted, 2, most=2).due(), "so many could not be had before"


def test_a_stop_is_heard_while_nodes_are_waited_for(monkeypatch):
    cluster(monkeypatch, {"CPU": 1.0})
    assert worker_count.wait_for_workers(config(num_workers=2, min_workers=1), 2, asked=[2]) == 0


def test_a_cluster_that_starts_nodes_on_demand_is_asked_for_them_and_waited_for(monkeypatch, capsys):
    asked = []

    def request(*, bundles: list[dict[str, int]]) -> None:
        asked.append(bundles)
        if bundles:
            cluster(monkeypatch, {"CPU": 1.0}, {"CPU": 4.0})  # the node that was started

    monkeypatch.setattr("ray.autoscaler.sdk.request_resources", request)
    cluster(monkeypatch, {"CPU": 1.0})
    with pytest.raises(ConfigError, match="needs"), worker_count.nodes_for(config(num_workers=2)):
        pass
    assert asked == []
    with worker_count.nodes_for(config(num_workers=2, wait_for_nodes=1.0)):
        assert worker_count.fitting_workers(config(num_workers=2)) == 2
        assert asked == [[{"CPU": 1}] * 4]
    assert asked[1:] == [[]]


def test_nodes_that_never_come_are_not_waited_for_forever(monkeypatch, capsys):
    asked = []
    monkeypatch.setattr("ray.autoscaler.sdk.request_resources", lambda *, bundles: asked.append(len(bundles)))
    cluster(monkeypatch, {"CPU": 1.0})
    with pytest.raises(ConfigError, match="needs"), worker_count.nodes_for(config(num_workers=2, wait_for_nodes=0.01)):
        pass
    assert asked[0] == 4
    assert set(asked[:-1]) == {4}
    assert asked[-1] == 0
    assert "waiting up to 0.01 minutes for nodes" in capsys.readouterr().out


def test_a_cluster_that_is_gone_is_no_run_that_is_finished(monkeypatch):
    def gone(*_args: object, **_kwargs: object) -> None:
        raise ray.exceptions.ActorDiedError

    cluster(monkeypatch, {"CPU": 8.0})
    monkeypatch.setattr("ray.get", gone)
    monkeypatch.setattr(driver, "_run_trainer", lambda *_: (True, None))
    mailbox = SimpleNamespace(outcome=SimpleNamespace(remote=lambda: None))
    failure = driver._run(config(num_workers=4, min_workers=1), SimpleNamespace(mailbox=mailbox, run="there"), [])
    assert "the cluster is gone" in str(failure)


def test_a_lost_node_is_told_from_a_worker_that_died(monkeypatch):
    monkeypatch.setattr(worker_count, "LOSS_SECONDS", 0.1)
    cluster(monkeypatch, {"CPU": 4.0}, {"CPU": 4.0})
    before = worker_count.alive_nodes()
    assert not worker_count.lost_a_node(before)
    cluster(monkeypatch, {"CPU": 4.0})
    assert worker_count.lost_a_node(before), "though there may be room enough without it"
