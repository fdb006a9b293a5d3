"""What it costs to read a file in a disposable process instead of in the service.

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_sandbox.py --files 200

Prints, for a small file of each kind, the time in this process and through the sandbox, one file after the other with
a pause between them and in a flood; then the memory of the fork server and its children, and the time of a fork.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import time

import numpy as np
import psutil

from crystalign.crystal import Crystal
from crystalign.modalities import make_modality
from crystalign_serve.curves import curve_of
from crystalign_serve.files import Upload, read_file
from crystalign_serve.sandbox.limits import SandboxLimits
from crystalign_serve.sandbox.pool import Sandbox
from crystalign_serve.sandbox.process import servers

MODALITIES = {name: make_modality(name) for name in ("crystal", "dos", "xrd")}


def uploads() -> dict[str, Upload]:
    """A small file of each kind."""
    salt = Crystal(np.eye(3) * 5.64, np.array([[0.0] * 3, [0.5] * 3]), np.array([11, 17]))
    cell = Crystal(salt.lattice * 3, np.random.default_rng(0).permutation(np.mgrid[:4, :4, :4].reshape(3, -1).T) / 4.0,
                   np.tile([11, 17], 32))  # fmt: skip
    pattern = b"# 2theta counts CuKa\n" + b"".join(b"%.3f %d\n" % (10 + n / 50, 100 + n % 41) for n in range(3500))
    spectrum = b"# energy dos\n" + b"".join(b"%.2f %d\n" % (n / 20 - 12, n % 7) for n in range(480))
    named = {"CIF, 2 sites": ("a.cif", salt.to_cif().encode()), "CIF, 64 sites": ("b.cif", cell.to_cif().encode()),
             "POSCAR, 64 sites": ("POSCAR", cell.to_poscar().encode()), "pattern, 3500 points": ("a.xy", pattern),
             "DOS, 480 points": ("dos.csv", spectrum)}  # fmt: skip
    return {
        label: Upload(name, data, "dos" if "dos" in name else "auto", None) for label, (name, data) in named.items()
    }


def here(upload: Upload) -> None:
    """Read in this process."""
    content = read_file(upload)
    MODALITIES[content.modality].featurise(content.value)
    curve_of(content.modality, content.value)


async def measure(files: int, pause: float) -> None:
    """All tables."""
    limits = SandboxLimits()
    sandbox, server = Sandbox(limits), servers(limits).start()
    began = time.perf_counter()
    assert server.wait()
    start, load = time.perf_counter() - began, os.getloadavg()[0]
    about = f"{limits.processes} at a time; load {load:.1f}, {os.cpu_count()} cores"
    print(f"the fork server starts in {start:.1f} s; {about}\n")
    print("| file | here, median / p99, ms | sandbox, median / p99, ms | added, median, ms | flood, files/s |")
    print("|---|---|---|---|---|")
    for label, upload in uploads().items():
        here(upload)
        times: list[list[float]] = [[], []]
        for _ in range(files):
            began = time.perf_counter()
            here(upload)
            middle = time.perf_counter()
            await sandbox.part(upload, MODALITIES)
            ended = time.perf_counter()
            times[0].append(1e3 * (middle - began))
            times[1].append(1e3 * (ended - middle))
            await asyncio.sleep(pause)
        began = time.perf_counter()
        await asyncio.gather(*(sandbox.part(upload, MODALITIES) for _ in range(limits.waiting)))
        rate = limits.waiting / (time.perf_counter() - began)
        cells = [f"{np.median(t):.1f} / {np.percentile(t, 99):.1f}" for t in times]
        added = np.median(times[1]) - np.median(times[0])
        print(f"| {label} | {cells[0]} | {cells[1]} | {added:.1f} | {rate:.0f} |", flush=True)
        await asyncio.sleep(1.0)
    forks = []
    for _ in range(20):
        began = time.perf_counter()
        child = server.fork()
        child._await()
        forks.append(1e3 * (time.perf_counter() - began))
        child._connection.shutdown(socket.SHUT_RDWR)
    process = psutil.Process(server.process.pid)
    await asyncio.sleep(1.0)
    parent, children = process.memory_full_info(), [one.memory_full_info() for one in process.children()]
    pss, own = (np.mean([getattr(child, name) for child in children]) / 2**20 for name in ("pss", "uss"))
    print(f"\na child, from the order until it is ready, which includes a rehearsal: {np.median(forks):.0f} ms")
    print(
        f"memory (PSS): fork server {parent.pss / 2**20:.0f} MB, a child that waits {pss:.0f} MB, {own:.0f} MB its own"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=200)
    parser.add_argument("--pause", type=float, default=0.1, help="seconds between two files")
    given = parser.parse_args()
    asyncio.run(measure(given.files, given.pause))
