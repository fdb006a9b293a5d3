"""A small run on a cluster of which a node is lost and another one joins; started by `test_worker_count.py`."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster

import small_pretraining
from crystalign_jobs.pretrain import pretrain

CPUS = 3
"""Of each node that computes: no node alone has room for all four workers."""


def ranks_at_work(notes: Path) -> int:
    """How many ranks took part in the step that was noted last."""
    newest = max(notes.glob("*.json"), key=lambda path: path.stat().st_mtime, default=None)
    return 0 if newest is None else len(list(notes.glob(f"{newest.name[:4]}-*-{newest.stem.rpartition('-')[2]}.json")))


def disturb(cluster: Any, node: Any, notes: Path) -> None:
    """Take a node away once four ranks have stored a checkpoint, and add one once a single rank has gone on."""
    while ranks_at_work(notes) < 4 or not list(notes.parent.glob("run/checkpoints/*/manifest.json")):
        time.sleep(0.2)
    cluster.remove_node(node, allow_graceful=False)
    print("a node is lost", flush=True)
    done = len(list(notes.glob("*-0-*.json")))
    while len(list(notes.glob("*-0-*.json"))) < done + 6:
        time.sleep(0.2)
    cluster.add_node(num_cpus=CPUS)
    print("a node joins", flush=True)


def main(data: str, out: str, epochs: str) -> None:
    """Run to the end, in a thread, for nodes can be added in the main one alone; print the model."""
    notes = Path(out) / "notes"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = [cluster.add_node(num_cpus=CPUS) for _ in range(2)]
    cluster.wait_for_nodes()
    config = small_pretraining.settings(
        data, out, epochs=int(epochs), num_workers=4, min_workers=1, address=cluster.address, max_failures=0
    )
    watch = small_pretraining.audit(notes, slow=0.3)
    run = threading.Thread(target=lambda: print(pretrain(config, watch=watch), flush=True))
    run.start()
    disturb(cluster, nodes[1], notes)
    run.join()
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
