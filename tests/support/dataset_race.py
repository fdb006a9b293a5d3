"""What a process of a race does: `python dataset_race.py FOLDER NAME ROUNDS`, started twice on one folder.

In each round every process makes a dataset of its own in `FOLDER/<round>`, and a second version of it that replaces the
first. It prints `ROUND won` or `ROUND lost` for both.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

from crystalign.crystal import Crystal
from crystalign.errors import ConflictError
from crystalign.material import Material, Provenance
from crystalign.shards.manifest import Manifest
from crystalign.shards.writer import commit_manifest, write_shard

PLAYERS = 2


def materials(name: str, number: int) -> list[Material]:
    crystal = Crystal(np.eye(3) * (4.0 + 0.01 * number), np.array([[0, 0, 0], [0.5] * 3]), np.array([55, 17]))
    return [Material(f"{name}-{n}", crystal, Provenance("test", "CC0-1.0")) for n in range(5)]


def meet(folder: Path, step: str, name: str) -> None:
    (folder / f"{step}-{name}").touch()
    deadline = time.monotonic() + 60
    while len(list(folder.glob(f"{step}-*"))) < PLAYERS:
        assert time.monotonic() < deadline, "the other process does not come"
        time.sleep(0.0005)


def main(folder: Path, name: str, rounds: int) -> None:
    meeting = folder / "meet"
    meeting.mkdir(exist_ok=True, parents=True)
    for number in range(rounds):
        uri = str(folder / f"data-{number}")
        for step in ("first", "second"):
            expected = Manifest.version(uri)
            meet(meeting, f"{number}-{step}-begin", name)
            shard = write_shard(uri, "00000", materials(f"{name}-{step}", number))
            try:
                commit_manifest(uri, [shard], expected=expected)
                outcome = "won"
            except ConflictError:
                outcome = "lost"
            meet(meeting, f"{number}-{step}-end", name)
            print(number, step, outcome, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
