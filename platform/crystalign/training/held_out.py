"""Retrieval on a slice of the validation rows while a model trains: cheap enough to be asked often."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from crystalign.evaluation.retrieval import retrieve, score_by_embedding
from crystalign.modalities import Modality, stable_hash
from crystalign.model import Model
from crystalign.shards.dataset import Dataset
from crystalign.shards.schema import table_to_materials
from crystalign.shards.selection import Selection
from crystalign.training.batch import Batch, make_batch

ROWS = 512
"""Rows of the slice."""
SHARE = 0.02
"""Largest share of the time that is spent on it."""
_ROWS_PER_GROUP = 64
_ROWS_PER_BATCH = 64


class Place(NamedTuple):
    """Rows of one row group."""

    shard: int
    """Number of the shard in the manifest."""
    group: int
    """Row group of the shard."""
    rows: tuple[int, ...]
    """Rows of the group."""


def choose_places(selection: Selection, limit: int = ROWS) -> tuple[Place, ...]:
    """Rows of a selection, the same at every call, from few enough row groups to be read in a moment.

    Row groups come in the order of a hash and give at most 64 rows each, more only where there are
    not enough groups.
    """
    order = sorted(
        np.flatnonzero(selection.counts).tolist(),
        key=lambda place: stable_hash(f"held out/{selection.shards[place]}/{selection.groups[place]}"),
    )
    most = max(_ROWS_PER_GROUP, -(-limit // max(1, len(order))))
    found: list[Place] = []
    left = limit
    for place in order:
        rows = selection.rows(place)[: min(most, left), 2].tolist()
        left -= len(rows)
        if rows:
            found.append(Place(int(selection.shards[place]), int(selection.groups[place]), tuple(rows)))
    return tuple(found)


@dataclass(frozen=True)
class HeldOut:
    """A slice of unseen materials, ready for the encoders."""

    batches: tuple[Batch, ...]
    """Their features, not augmented."""

    @classmethod
    def read(cls, dataset: Dataset, places: Sequence[Place], modalities: Mapping[str, Modality[Any]]) -> HeldOut:
        """Read and featurise the rows, once.

        Raises:
            DatasetError: a file of the dataset cannot be read.
            InputError: a value that cannot be featurised.
        """
        batches = []
        for place in places:
            table = dataset.read(place.shard, row_group=place.group, modalities=tuple(modalities))
            materials = table_to_materials(
                table.take(place.rows), dataset.manifest.properties, modalities=tuple(modalities)
            )
            starts = range(0, len(materials), _ROWS_PER_BATCH)
            batches += [make_batch(materials[start : start + _ROWS_PER_BATCH], modalities) for start in starts]
        return cls(tuple(batches))

    def __len__(self) -> int:
        """Its rows."""
        return sum(len(batch) for batch in self.batches)

    def recall(self, model: Model) -> dict[str, float]:
        """Recall at 1 of every aligned pair, in both directions.

        The pool of a query is the rows of the slice that have both modalities; what cannot be told
        apart from the query leaves it, as in `evaluation.retrieval`. Draws no random number.

        Returns:
            `retrieval/<query>-<target>` → R@1, and `retrieval`, their mean; empty where no pair has two rows.
        """
        vectors, present, keys = self._embed(model)
        found: dict[str, float] = {}
        for first, second in model.config.aligned:
            rows = present[first] & present[second]
            both = [keys[first][rows], keys[second][rows]]
            for query, target in ((first, second), (second, first)):
                scores = score_by_embedding(vectors[query][rows], vectors[target][rows])
                outcome = retrieve(scores, both, np.arange(int(rows.sum())))
                if len(outcome.pool):
                    found[f"retrieval/{query}-{target}"] = float(outcome.hits(1).mean())
        if found:
            found["retrieval"] = float(np.mean(list(found.values())))
        return found

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


class Ration:
    """Decides when something that costs time may be done again: never more than a share of the time."""

    def __init__(self, share: float = SHARE) -> None:
        self.share = share
        self.spent = 0.0
        """Seconds spent so far."""
        self._last = 0.0

    def allows(self, elapsed: float) -> bool:
        """Whether doing it once more, at the cost of the last time, stays within the share of `elapsed` seconds."""
        return self.spent == 0.0 or self.spent + self._last <= self.share * elapsed

    def took(self, seconds: float) -> None:
        """Count what it cost."""
        self._last = seconds
        self.spent += seconds
