"""The order of samples: a pure function of (seed, epoch, selection), independent of the world size.

Row groups are distributed over buckets that fit into memory, so that neighbouring row groups go to different
buckets. The rows of a bucket are shuffled together. Sample k belongs to step ⌊k/B⌋, so an epoch has ⌈N/B⌉ steps,
of which the last may be short.
"""

from __future__ import annotations

from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crystalign.shards.selection import Selection


class Window(NamedTuple):
    """Consecutive steps whose samples come from one bucket (the last step may reach into the next bucket)."""

    first_step: int
    """First step, counted within the epoch."""
    last_step: int
    """One past the last step."""


class EpochOrder:
    """The order of samples in one epoch."""

    def __init__(
        self, selection: Selection, *, seed: int, epoch: int, batch_size: int, window_rows: int = 16384
    ) -> None:
        """Define the order of one epoch.

        Args:
            selection: the rows.
            seed: random seed of the run.
            epoch: number of the epoch, from 0.
            batch_size: global batch size B.
            window_rows: approximate number of rows that are shuffled together and held in memory together.
        """
        self.selection, self.batch_size, self.window_rows = selection, batch_size, window_rows
        self._seed = [seed, epoch, int(selection.sha256[:16], 16)]

    @property
    def steps(self) -> int:
        """Number of steps, ⌈N/B⌉."""
        return -(-self.selection.n // self.batch_size)

    @cached_property
    def _buckets(self) -> list[NDArray[np.int64]]:
        """Indices of the row groups of each bucket: of every k consecutive row groups, one goes to each of k buckets.

        Each bucket is therefore spread over the whole dataset, whose parts may differ from each other.
        """
        rng = np.random.default_rng(self._seed)
        filled = np.flatnonzero(self.selection.counts)
        number = min(len(filled), -(-self.selection.n // self.window_rows))
        bucket = np.concatenate([rng.permutation(number) for _ in range(-(-len(filled) // number))])[: len(filled)]
        order = rng.permutation(number)
        return [rng.permutation(filled[bucket == b]) for b in order]

    @cached_property
    def _bounds(self) -> NDArray[np.int64]:
        """(buckets + 1,) position of the first sample of each bucket, and the number of samples."""
        sizes = [int(self.selection.counts[places].sum()) for places in self._buckets]
        return np.cumsum([0, *sizes])

    def windows(self) -> list[Window]:
        """The steps of the epoch, divided where buckets end."""
        edges = -(-self._bounds // self.batch_size)
        return [Window(int(a), int(b)) for a, b in pairwise(edges) if b > a]

    def rows(self, step: int) -> NDArray[np.int64]:
        """(≤ B, 3) shard, row group and row of the samples of a step, in order.

        Raises:
            IndexError: there is no such step in the epoch.
        """
        if not 0 <= step < self.steps:
            raise IndexError(f"step {step} of an epoch of {self.steps} steps")
        low, high = step * self.batch_size, min((step + 1) * self.batch_size, self.selection.n)
        first = int(np.searchsorted(self._bounds, low, side="right")) - 1
        last = int(np.searchsorted(self._bounds, high - 1, side="right")) - 1
        pieces = []
        for bucket in range(first, last + 1):
            start = int(self._bounds[bucket])
            pieces.append(self._shuffled(bucket)[max(0, low - start) : high - start])
        return np.concatenate(pieces)

    def _shuffled(self, bucket: int) -> NDArray[np.int64]:
        """(rows, 3) the rows of a bucket in shuffled order; the last two buckets are cached."""
        cache: dict[int, NDArray[np.int64]] = self.__dict__.setdefault("_kept", {})
        if bucket not in cache:
            rng = np.random.default_rng([*self._seed, bucket])
            rows = np.concatenate([self.selection.rows(int(group)) for group in self._buckets[bucket]])
            while len(cache) > 1:
                cache.pop(next(iter(cache)))
            cache[bucket] = rows[rng.permutation(len(rows))]
        return cache[bucket]
