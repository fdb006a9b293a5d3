"""Whether a material resembles those that a model learnt from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
NEIGHBOURS = 5
"""Training materials whose distances are averaged."""
REFERENCES = 4096
"""Training materials that are kept."""
USUAL = 0.95
"""Share of the held-out materials that is nearer than a score of 1."""
CHUNK = 1024


@dataclass(frozen=True, eq=False)
class Domain:
    """Score of a material: its mean Euclidean distance to the 5 nearest training materials, in units of `scale`.

    Distances are between the vectors that the heads read, each modality's normalised. A score above 1 is larger than
    that of 95 % of the held-out materials: the material is unlike what the model learnt from, and so may its error be.
    """

    reference: Vectors
    """(m, R) vectors of training materials."""
    scale: float
    """Distance that is called 1."""

    @classmethod
    def fit(cls, train: Vectors, held_out: Vectors) -> Self:
        """From the vectors of both parts.

        Args:
            train: (n, R); of more than 4,096 evenly spaced ones are kept.
            held_out: (k, R), of which nothing was learnt, and which are not tested.
        """
        chosen = np.linspace(0, len(train) - 1, min(len(train), REFERENCES)).round().astype(np.int64)
        reference = np.ascontiguousarray(train[chosen], np.float32)
        usual = float(np.quantile(_distances(held_out, reference), USUAL))
        return cls(reference, max(usual, 1e-12))

    def score(self, vectors: Vectors) -> NDArray[np.float64]:
        """(n,) of vectors (n, R)."""
        return _distances(vectors, self.reference) / self.scale


def _distances(vectors: Vectors, reference: Vectors) -> NDArray[np.float64]:
    """(n,) mean distance to the nearest few."""
    kept = torch.from_numpy(reference)
    k = min(NEIGHBOURS, len(reference))
    found = []
    for start in range(0, len(vectors), CHUNK):
        part = torch.from_numpy(np.ascontiguousarray(vectors[start : start + CHUNK], np.float32))
        found.append(torch.cdist(part, kept).topk(k, dim=1, largest=False).values.mean(dim=1))
    return np.asarray(torch.cat(found).double().numpy()) if found else np.empty(0)
