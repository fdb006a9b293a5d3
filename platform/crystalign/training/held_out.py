"""Retrieval on a small part of the validation rows during training, cheap enough to be measured often."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from crystalign.batch import Batch, make_batch
from crystalign.evaluation.retrieval import retrieve, score_by_embedding
from crystalign.modalities import Modality, stable_hash
from crystalign.model import Model
from crystalign.shards.dataset import Dataset
from crystalign.shards.schema import table_to_materials
from crystalign.shards.selection import Selection

ROWS = 512
"""Number of validation rows used."""
SHARE = 0.02
"""Largest fraction of the training time spent on it."""
_ROWS_PER_GROUP = 64
_ROWS_PER_BATCH = 64


class Place(NamedTuple):
    """Selected rows of one row group."""

    shard: int
    """Index of the shard in the manifest."""
    group: int
    """Index of the row group in the shard."""
    rows: tuple[int, ...]
    """Indices of the rows in the row group."""


def choose_places(selection: Selection, limit: int = ROWS) -> tuple[Place, ...]:
    """Choose rows of a selection, the same at every call, from few row groups, so that reading is fast.

    Row groups are taken in the order of a hash, with at most 64 rows from each, or more if there are too few groups.

    Args:
        selection: the rows to choose from.
        limit: largest number of rows.
    """
    order = sorted(
        np.flatnonzero(selection.counts).tolist(),
        key=lambda index: stable_hash(f"held out/{selection.shards[index]}/{selection.groups[index]}"),
    )
    most = max(_ROWS_PER_GROUP, -(-limit // max(1, len(order))))
    places: list[Place] = []
    left = limit
    for index in order:
        rows = selection.rows(index)[: min(most, left), 2].tolist()
        left -= len(rows)
        if rows:
            places.append(Place(int(selection.shards[index]), int(selection.groups[index]), tuple(rows)))
    return tuple(places)


@dataclass(frozen=True)
class HeldOut:
    """Features of materials that are not trained on, for measuring retrieval."""

    batches: tuple[Batch, ...]
    """The features, not augmented."""

    @classmethod
    def read(cls, dataset: Dataset, places: Sequence[Place], modalities: Mapping[str, Modality[Any]]) -> HeldOut:
        """Read the rows and compute their features.

        Raises:
            DatasetError: a file of the dataset cannot be read.
            InputError: a value cannot be converted to features.
        """
        batches = []
        for selected in places:
            table = dataset.read(selected.shard, row_group=selected.group, modalities=tuple(modalities))
            materials = table_to_materials(
                table.take(selected.rows), dataset.manifest.properties, modalities=tuple(modalities)
            )
            starts = range(0, len(materials), _ROWS_PER_BATCH)
            batches += [make_batch(materials[start : start + _ROWS_PER_BATCH], modalities) for start in starts]
        return cls(tuple(batches))

    def __len__(self) -> int:
        """The number of rows."""
        return sum(len(batch) for batch in self.batches)

    def recall(self, model: Model) -> dict[str, float]:
        """Recall at 1 of every aligned pair, in both directions.

        The pool of a query is the rows that have both modalities, without those equivalent to the query, as in
        `evaluation.retrieval`. No random numbers are drawn.

        Returns:
            `retrieval/<query>-<target>` → R@1, and `retrieval` → their mean; empty if no pair has two rows.
        """
        vectors, present, keys = self._embed(model)
        metrics: dict[str, float] = {}
        for first, second in model.config.aligned:
            rows = present[first] & present[second]
            both = [keys[first][rows], keys[second][rows]]
            for query, target in ((first, second), (second, first)):
                scores = score_by_embedding(vectors[query][rows], vectors[target][rows])
                outcome = retrieve(scores, both, np.arange(int(rows.sum())))
                if len(outcome.pool):
                    metrics[f"retrieval/{query}-{target}"] = float(outcome.hits(1).mean())
        if metrics:
            metrics["retrieval"] = float(np.mean(list(metrics.values())))
        return metrics

    @torch.no_grad()
    def _embed(self, model: Model) -> tuple[dict[str, NDArray[Any]], ...]:
        """Modality → (n, D) vectors, (n,) presence, (n, K) keys."""
        names = model.config.modalities
        was_training = model.training
        model.eval()
        try:
            embedded = [model(batch.to(model.device)) for batch in self.batches]
        finally:
            model.train(was_training)
        vectors = {name: torch.cat([z[name] for z in embedded]).float().cpu().numpy() for name in names}
        present = {name: torch.cat([batch.present[name] for batch in self.batches]).cpu().numpy() for name in names}
        keys = {name: torch.cat([batch.keys[name] for batch in self.batches]).cpu().numpy() for name in names}
        return vectors, present, keys


class TimeBudget:
    """Limits the time spent on a repeated task to a fraction of the total time."""

    def __init__(self, share: float = SHARE) -> None:
        self.share = share
        self.spent = 0.0
        """Seconds spent so far."""
        self._last = 0.0

    def allows(self, elapsed: float) -> bool:
        """Whether repeating the task at the cost of the last time keeps within the fraction of `elapsed` seconds."""
        return self.spent == 0.0 or self.spent + self._last <= self.share * elapsed

    def took(self, seconds: float) -> None:
        """Record how many seconds the task took."""
        self._last = seconds
        self.spent += seconds
