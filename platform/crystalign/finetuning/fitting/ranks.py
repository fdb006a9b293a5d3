"""A fit on several processes that compute what one would: each takes its share of every batch, and sums are summed."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

Rows = NDArray[np.int64]


class Ranks:
    """This process among those of the default process group, whoever started them; without a group it is alone."""

    def __init__(self) -> None:
        """Where this process stands."""
        together = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if together else 0
        """r."""
        self.size = dist.get_world_size() if together else 1
        """W."""

    @property
    def first(self) -> bool:
        """Whether this one writes what is written once."""
        return self.rank == 0

    def share(self, rows: Rows) -> Rows:
        """Those of n rows that are this rank's: contiguous, the shares' lengths differ by at most one."""
        start, stop = (len(rows) * r // self.size for r in (self.rank, self.rank + 1))
        return rows[start:stop]

    def summed(self, tensor: Tensor) -> Tensor:
        """The sum over ranks, the same on all of them."""
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
        """(n, …) the shares of all ranks in order, on the CPU, from this rank's (k, …)."""
        if self.size == 1:
            return share
        longest = -(-n // self.size)
        padded = share.new_zeros((longest, *share.shape[1:]))
        padded[: len(share)] = share
        padded = padded.to(self._device)
        found = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(found, padded)
        lengths = [n * (r + 1) // self.size - n * r // self.size for r in range(self.size)]
        return torch.cat([part[:length] for part, length in zip(found, lengths, strict=True)]).cpu()

    def of_first(self, value: float) -> float:
        """The value that rank 0 has: clocks and wishes differ, and all must decide alike."""
        if self.size == 1:
            return value
        told = torch.tensor([value], dtype=torch.float64, device=self._device)
        dist.broadcast(told, src=0)
        return float(told)

    @property
    def _device(self) -> torch.device:
        """Where collectives take their tensors."""
        return torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
