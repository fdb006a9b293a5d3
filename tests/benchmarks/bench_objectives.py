"""Memory, time and communication of the contrastive loss beside a straightforward all-gather implementation.

    python tests/benchmarks/bench_objectives.py

The straightforward one gathers each modality with `torch.distributed.nn`, and lets autograd keep the
logits of this rank's rows against all. Memory is that of one rank's share, computed in a process of
its own in which every freed tensor leaves the process, so that what is read is what lives at once;
the allocator's own waste is not in it. Linux only: memory and traffic are read from /proc.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import socket
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F  # noqa: N812
import tyro
from pydantic import Field
from rich.console import Console
from rich.table import Table
from torch import Tensor

from crystalign.config import Config
from crystalign.objectives.clip import contrastive_loss, scaled_cross_entropy
from crystalign.objectives.gather import Gathered
from crystalign.objectives.pairwise import pairwise_loss

MIB = 2**20
MODALITIES = ("crystal", "dos", "xrd", "text")
PAIRS = tuple(("crystal", name) for name in MODALITIES[1:])
Batch = tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]


class BenchObjectives(Config):
    """Measure the loss beside its straightforward form."""

    batches: tuple[tuple[int, int], ...] = ((1024, 1024), (4096, 1024), (16384, 1024), (65536, 1024), (16384, 8192))
    """Global batch and rows of one rank, for the memory."""
    step_batches: tuple[int, ...] = (1024, 4096)
    """Global batches, for time and traffic."""
    workers: int = Field(default=2, ge=2)
    """Processes W, for time and traffic."""
    dim: int = 128
    """D."""
    steps: int = 5
    """Steps that are timed; the median counts."""
    most_gib: float = 8.0
    """The straightforward form is not run where its logits alone need more."""


def main(config: BenchObjectives) -> None:
    """Print both tables."""
    console = Console(width=120)
    console.print(memory_table(config))
    console.print(step_table(config))
    console.print(f"{len(os.sched_getaffinity(0))} cores, 1 thread per process, torch {torch.__version__}")


# --- one rank's memory --------------------------------------------------------------------------------------------


def memory_table(config: BenchObjectives) -> Table:
    """One row per global batch: a pair of two modalities, loss and gradients."""
    columns = ("global batch", "rows of the rank", "embeddings MiB", "loss MiB", "straightforward MiB", "ratio")
    title = f"One rank's share of one pair, D = {config.dim}, float32"
    table = Table(*columns, "CPU s", "straightforward CPU s", title=title)
    for everyone, rows in config.batches:
        size = (everyone, rows, config.dim)
        used, took = alone(peak, "chunks", *size), alone(seconds, "chunks", *size)
        cells = [f"{everyone:,}", f"{rows:,}", f"{8 * everyone * config.dim / MIB:,.0f}", f"{used / MIB:,.0f}"]
        logits = 2 * everyone * rows * 4  # of both directions
        if logits > config.most_gib * 2**30:
            cells += [f"> {logits / MIB:,.0f}", "–", f"{took:.2f}", "–"]
        else:
            plain_used = alone(peak, "straightforward", *size)
            cells += [f"{plain_used / MIB:,.0f}", f"{used / plain_used:.2f}"]
            cells += [f"{took:.2f}", f"{alone(seconds, 'straightforward', *size):.2f}"]
        table.add_row(*cells)
    return table


def alone(work: Callable[..., float], *args: Any) -> float:
    """What `work` returns in a process of its own; where it looks for the peak, freed memory goes back at once."""
    if work is peak:
        os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"
    try:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            return pool.submit(work, *args).result()
    finally:
        os.environ.pop("MALLOC_MMAP_THRESHOLD_", None)


def peak(kind: str, everyone: int, rows: int, dim: int) -> float:
    """Bytes above those of the embeddings."""
    run = prepared(kind, dim)
    batch = random_batch(everyone, dim, PAIRS[0])
    with open("/proc/self/clear_refs", "w", encoding="ascii") as high_water_mark:
        high_water_mark.write("5")
    before = status("VmRSS")
    run(batch, rows).backward()
    return status("VmHWM") - before


def seconds(kind: str, everyone: int, rows: int, dim: int) -> float:
    """Processor time of loss and gradients."""
    run = prepared(kind, dim)
    batch = random_batch(everyone, dim, PAIRS[0])
    began = time.process_time()
    run(batch, rows).backward()
    return time.process_time() - began


def prepared(kind: str, dim: int) -> Callable[[Batch, int], Tensor]:
    """The loss of one rank, run once for what torch loads on first use."""
    torch.set_num_threads(1)
    run = {"chunks": one_rank, "straightforward": one_rank_plain}[kind]
    run(random_batch(128, dim, PAIRS[0]), 64).backward()
    return run


def one_rank(batch: Batch, rows: int) -> Tensor:
    """Rank 0's share of the loss, as the library computes it after the gather."""
    count = len(next(iter(batch[0].values())))
    pair = tuple(batch[0])
    scale = {pair: (torch.tensor(14.0, requires_grad=True),)}
    return pairwise_loss(Gathered(*batch, rank=0, world_size=count // rows), [pair], scaled_cross_entropy, scale).total


def one_rank_plain(batch: Batch, rows: int) -> Tensor:
    """Rank 0's share of the loss, from the logits of all its rows."""
    scale = torch.tensor(14.0, requires_grad=True)
    count = len(next(iter(batch[0].values())))
    return plain_pair(batch, tuple(batch[0]), scale, 0, rows) * (count // rows)


def status(field: str) -> int:
    """Bytes, of this process' memory."""
    with open("/proc/self/status", encoding="ascii") as lines:
        found = re.search(rf"{field}:\s+(\d+) kB", lines.read())
    assert found is not None
    return 1024 * int(found[1])


# --- the straightforward form -------------------------------------------------------------------------------------


def plain_loss(local: Batch, scales: Mapping[tuple[str, ...], Tensor]) -> Tensor:
    """Gather each modality, its mask and its keys; logits of this rank's rows against all."""
    from torch.distributed.nn.functional import all_gather

    def gathered(tensor: Tensor) -> Tensor:
        parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, tensor)
        return torch.cat(parts)

    embeddings, present, keys = local
    rows = len(embeddings[MODALITIES[0]])
    everyone = (
        {name: torch.cat(all_gather(t)) for name, t in embeddings.items()},
        {name: gathered(t) for name, t in present.items()},
        {name: gathered(t) for name, t in keys.items()},
    )
    start = dist.get_rank() * rows
    losses = [plain_pair(everyone, pair, scales[pair], start, start + rows) for pair in PAIRS]
    return torch.stack(losses).mean() * dist.get_world_size()


def plain_pair(everyone: Batch, pair: tuple[str, ...], scale: Tensor, start: int, stop: int) -> Tensor:
    """Of rows [start, stop): sum of both directions' cross-entropy over the global count."""
    embeddings, present, keys = everyone
    has = present[pair[0]] & present[pair[1]]  # (B,)
    own = torch.arange(start, stop)
    same = torch.zeros(stop - start, len(has), dtype=torch.bool)
    for name in pair:
        same |= keys[name][start:stop, None] == keys[name][None, :]
    same[own - start, own] = False
    excluded = same | ~has[None, :]
    total = scale.new_zeros(())
    for query, key in (pair, pair[::-1]):
        logits = (scale * embeddings[query][start:stop] @ embeddings[key].T).masked_fill(excluded, -torch.inf)
        total = total + F.cross_entropy(logits[has[start:stop]], own[has[start:stop]], reduction="sum")
    return total / (2 * has.sum())


# --- steps of several ranks ---------------------------------------------------------------------------------------


def step_table(config: BenchObjectives) -> Table:
    """One row per global batch: all modalities, gather included, forward and backward."""
    columns = ("global batch", "ms", "straightforward ms", "ratio", "MiB sent", "straightforward MiB", "ratio")
    title = (
        f"One step of {config.workers} processes, {len(MODALITIES)} modalities, {len(PAIRS)} pairs, D = {config.dim}"
    )
    table = Table(*columns, "gradients differ by", title=title)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="crystalign-bench-") as folder:
        torch.multiprocessing.spawn(rank_main, (config, port, folder), nprocs=config.workers)
        for everyone in config.step_batches:
            found = torch.load(os.path.join(folder, f"{everyone}.pt"), weights_only=True)
            times, sent = found["seconds"], found["bytes"]
            table.add_row(
                f"{everyone:,}",
                *(f"{1000 * times[kind]:,.0f}" for kind in ("chunks", "straightforward")),
                f"{times['chunks'] / times['straightforward']:.2f}",
                *(f"{sent[kind] / MIB:,.2f}" for kind in ("chunks", "straightforward")),
                f"{sent['chunks'] / sent['straightforward']:.2f}",
                f"{found['deviation']:.0e}",
            )
    return table


def rank_main(rank: int, config: BenchObjectives, port: int, folder: str) -> None:
    """One process: both forms on every batch, alternately; rank 0 writes what it measured."""
    warnings.simplefilter("ignore")  # torch.distributed.nn warns of itself
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=config.workers)
    for everyone in config.step_batches:
        b = everyone // config.workers
        whole = random_batch(everyone, config.dim, MODALITIES, share=0.8)
        mine = slice(rank * b, (rank + 1) * b)
        local = tuple({name: t[mine].detach() for name, t in tensors.items()} for tensors in whole)
        measured: dict[str, list[tuple[float, int]]] = {"chunks": [], "straightforward": []}
        gradients: dict[str, list[Tensor]] = {}
        for _ in range(config.steps + 1):
            for kind, found in measured.items():
                took, sent, gradients[kind] = one_step(kind, local)
                found.append((took, sent))
        pairs = zip(*gradients.values(), strict=True)
        result = {
            "seconds": {k: statistics.median(s for s, _ in found[1:]) for k, found in measured.items()},
            "bytes": {k: statistics.median(n for _, n in found[1:]) for k, found in measured.items()},
            "deviation": max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs),
        }
        if rank == 0:
            torch.save(result, os.path.join(folder, f"{everyone}.pt"))
    dist.destroy_process_group()


def one_step(kind: str, local: Batch) -> tuple[float, int, list[Tensor]]:
    """Seconds and bytes over the loopback of all processes together, and this rank's gradients."""
    embeddings = {name: t.clone().requires_grad_() for name, t in local[0].items()}
    scales = {pair: torch.tensor(14.0, requires_grad=True) for pair in PAIRS}
    dist.barrier()
    before, began = loopback(), time.perf_counter()
    if kind == "chunks":
        total = contrastive_loss(embeddings, local[1], local[2], scales, PAIRS).total
    else:
        total = plain_loss((embeddings, local[1], local[2]), scales)
    total.backward()
    took = time.perf_counter() - began
    dist.barrier()
    return took, loopback() - before, [t.grad for t in (*embeddings.values(), *scales.values())]


def loopback() -> int:
    """Bytes that went over the loopback interface since the machine started."""
    with open("/proc/net/dev", encoding="ascii") as lines:
        return next(int(line.split()[1]) for line in lines if line.strip().startswith("lo:"))


def random_batch(rows: int, dim: int, names: tuple[str, ...], share: float = 1.0) -> Batch:
    """Unit vectors, each row with a modality with probability `share`, and no two rows alike."""
    generator = torch.Generator().manual_seed(0)
    present = {name: torch.rand(rows, generator=generator) < share for name in names}
    vectors = {name: F.normalize(torch.randn(rows, dim, generator=generator), dim=1) for name in names}
    return (
        {name: (z * present[name][:, None]).requires_grad_() for name, z in vectors.items()},
        present,
        {name: torch.arange(rows) for name in names},
    )


if __name__ == "__main__":
    main(tyro.cli(BenchObjectives, description=__doc__))
