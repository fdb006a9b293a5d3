"""Data-parallel fit with the result of a single process: each rank takes its share of every batch."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

Rows = NDArray[np.int64]


class Ranks:
    """Rank of this process in the default process group; a single rank if there is no group."""

    def __init__(self) -> None:
        """Read rank and world size."""
        together = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if together else 0
        """Rank r."""
        self.size = dist.get_world_size() if together else 1
        """Number of ranks W."""

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which writes the files."""
        return self.rank == 0

    def share(self, rows: Rows) -> Rows:
        """Slice of n rows for this rank: contiguous, with lengths that differ by at most one."""
        start, stop = (len(rows) * r // self.size for r in (self.rank, self.rank + 1))
        return rows[start:stop]

    def summed(self, tensor: Tensor) -> Tensor:
        """Sum over ranks; the result is the same on all of them."""
        if self.size > 1:
            tensor = tensor.clone()
            dist.all_reduce(tensor)
        return tensor

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace each gradient by its sum over ranks; one that a rank does not have counts as zero there."""
        if self.size == 1:
            return
        learning = list(parameters)
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in learning])
        dist.all_reduce(flat)
        for parameter, part in zip(learning, torch.split(flat, [p.numel() for p in learning]), strict=True):
            parameter.grad = part.view_as(parameter)

    def joined(self, share: Tensor, n: int) -> Tensor:
        """Concatenate the shares (k, …) of all ranks in order, as (n, …) on the CPU."""
        if self.size == 1:
            return share
        longest = -(-n // self.size)
        padded = share.new_zeros((longest, *share.shape[1:]))
        padded[: len(share)] = share
        padded = padded.to(self._device)
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(parts, padded)
        lengths = [n * (r + 1) // self.size - n * r // self.size for r in range(self.size)]
        return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)]).cpu()

    def of_first(self, value: float) -> float:
        """Broadcast the value of rank 0, so that all ranks decide alike on clocks and stop requests."""
        if self.size == 1:
            return value
        shared = torch.tensor([value], dtype=torch.float64, device=self._device)
        dist.broadcast(shared, src=0)
        return float(shared)

    @property
    def _device(self) -> torch.device:
        """Device on which collectives need their tensors."""
        return torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
