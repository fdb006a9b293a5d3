"""One rank of the exactness suite, run as a program: `forked_ranks.py exactness_rank FOLDER WORLD_SIZE`."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from exactness_mutations import MUTATIONS, functions, mutated
from exactness_problem import (
    OBJECTIVES,
    PROBLEMS,
    SAMPLES,
    TRAJECTORY_STEPS,
    Step,
    rolled,
    uneven,
)

SMALL = 48
"""Numbers in a chunk of the suite: a few rows of a pair, so that chunks have borders."""


class Rank:
    """One process of W."""

    def __init__(self, rank: int, world_size: int, folder: Path) -> None:
        self.rank, self.world_size, self.folder = rank, world_size, folder

    def share(self, problem: tuple, position: int | None = None) -> list[dict]:
        """The rows at a position of the batch, by default this rank's."""
        at = self.rank if position is None else position
        mine = slice(at * SAMPLES // self.world_size, (at + 1) * SAMPLES // self.world_size)
        x, present, keys = [{m: t[mine] for m, t in tensors.items()} for tensors in problem]
        return [x, present, dict(reversed(keys.items())) if self.rank % 2 else keys]  # as batches read from bytes

    def save(self, name: str, tensors: dict) -> None:
        """By rank 0."""
        from safetensors.torch import save_file

        if self.rank == 0:
            save_file(tensors, self.folder / f"{name}.safetensors")

    def gradients(self, name: str, losses, objective: str, local: list[dict]) -> None:
        """Loss, its parts, and the gradients, averaged over ranks as DDP does."""
        step = Step(losses, objective)
        total, pairs = step(*local)
        total.backward()
        found = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in step.net.named_parameters()}
        found["loss"] = total.detach()[None]
        if name not in MUTATIONS:  # one of which has other pairs on other ranks
            found |= {f"loss of {'-'.join(pair)}": value[None] for pair, value in pairs.items()}
        flat = torch.cat([tensor.flatten() for tensor in found.values()])
        dist.all_reduce(flat)
        means = (flat / self.world_size).split([tensor.numel() for tensor in found.values()])
        self.save(name, {n: mean.reshape(found[n].shape) for n, mean in zip(found, means, strict=True)})

    def trajectory(self, objective: str) -> None:
        """The weights after some steps of AdamW under DDP."""
        step = Step(functions(), objective)
        wrapped = nn.parallel.DistributedDataParallel(step, find_unused_parameters=True)
        optimiser = torch.optim.AdamW(step.parameters(), lr=0.01, weight_decay=0.0)
        for number in range(TRAJECTORY_STEPS):
            optimiser.zero_grad()
            wrapped(*self.share(rolled(uneven(), number)))[0].backward()
            optimiser.step()
        self.save(f"trajectory of {objective}", dict(step.net.named_parameters()))


def main(rank: int, world_size: int, folder: Path) -> None:
    """Every objective on every problem, every trajectory, every mutation."""
    meeting, own = f"file://{folder}/rendezvous-{world_size}", folder / str(world_size)
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world_size)
    own.mkdir(exist_ok=True)
    me, objectives = Rank(rank, world_size, own), functions()
    for objective in OBJECTIVES:
        me.gradients(f"{objective} in one chunk", objectives, objective, me.share(uneven()))
    objectives.chunks.CHUNK, objectives.chunks.LEAST = SMALL, 1
    for objective in OBJECTIVES:
        for name, problem in PROBLEMS.items():
            me.gradients(f"{objective} on {name}", objectives, objective, me.share(problem()))
        me.gradients(f"{objective} reversed", objectives, objective, me.share(uneven(), world_size - 1 - rank))
        me.trajectory(objective)
    for name, mutation in MUTATIONS.items():
        wrong = mutated(mutation)
        wrong.chunks.CHUNK, wrong.chunks.LEAST = SMALL, 1
        me.gradients(name, wrong, mutation.objective, me.share(uneven()))
    dist.destroy_process_group()
