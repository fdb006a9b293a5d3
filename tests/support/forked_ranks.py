"""W processes that train together, for tests of what does not depend on W: `forked_ranks.py PROGRAM FOLDER W [W …]`.

`PROGRAM` is a module of this folder with a function `main(rank, world_size, folder)`. It is imported once, in a process
of its own, and forked for each rank: an import of torch and torch_geometric costs each process several seconds.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from multiprocessing.connection import wait
from pathlib import Path
from types import ModuleType
from typing import Any


def run_ranks(program: ModuleType, folder: Path, world_sizes: Iterable[int], *, timeout: float = 800.0) -> None:
    """Run `program` with each number of ranks, one after the other; every rank must end with 0.

    Args:
        program: the module, which lies in this folder.
        folder: is handed on to `main`.
        world_sizes: how many ranks meet, each time.
        timeout: seconds for all of them.
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, program.__name__, str(folder), *map(str, world_sizes)]
    launcher = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        assert launcher.wait(timeout=timeout) == 0
    finally:
        if launcher.poll() is None:
            os.killpg(launcher.pid, signal.SIGKILL)
            launcher.wait()


def launch(main: Any, folder: Path, world_size: int) -> int:
    """Fork the ranks and wait for them; where one fails the others, which would wait for it, are ended."""
    context = multiprocessing.get_context("fork")
    ranks = [context.Process(target=main, args=(rank, world_size, folder)) for rank in range(world_size)]
    for rank in ranks:
        rank.start()
    running = {rank.sentinel: rank for rank in ranks}
    while running:
        for sentinel in wait(list(running)):
            rank = running.pop(sentinel)
            rank.join()
            if rank.exitcode != 0:
                for other in running.values():
                    other.terminate()
    return max(abs(rank.exitcode or 0) for rank in ranks)


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    given = importlib.import_module(sys.argv[1])
    getattr(given, "prepare", lambda: None)()  # imports and data that every rank needs; must start no thread
    sys.exit(max(launch(given.main, Path(sys.argv[2]), int(size)) for size in sys.argv[3:]))
