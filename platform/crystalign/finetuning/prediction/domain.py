"""Out-of-domain score: distance of a material from the training materials."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
NEIGHBOURS = 5
"""Number of nearest training materials whose distances are averaged."""
REFERENCES = 4096
"""Largest number of training materials that are stored."""
USUAL = 0.95
"""Share of the held-out materials with a score below 1."""
CHUNK = 1024


@dataclass(frozen=True, eq=False)
class Domain:
    """Score of a material: its mean Euclidean distance to the 5 nearest training materials, in units of `scale`.

    Distances are between the vectors that the heads read, each modality's normalised. A score above 1 is larger than
    that of 95 % of the held-out materials. Such a material is unlike the training data, and its error may be larger
    than measured.
    """

    reference: Vectors
    """(m, R) vectors of training materials."""
    scale: float
    """Distance that corresponds to a score of 1."""

    @classmethod
    def fit(cls, train: Vectors, held_out: Vectors) -> Self:
        """Fit the scale to the vectors of training and held-out materials.

        Args:
            train: (n, R); if there are more than 4,096, evenly spaced ones are kept.
            held_out: (k, R), neither trained on nor part of the test.
        """
        chosen = np.linspace(0, len(train) - 1, min(len(train), REFERENCES)).round().astype(np.int64)
        reference = np.ascontiguousarray(train[chosen], np.float32)
        usual = float(np.quantile(_distances(held_out, reference), USUAL))
        return cls(reference, max(usual, 1e-12))

    def score(self, vectors: Vectors) -> NDArray[np.float64]:
        """Scores (n,) of vectors (n, R)."""
        return _distances(vectors, self.reference) / self.scale


def _distances(vectors: Vectors, reference: Vectors) -> NDArray[np.float64]:
    """(n,) mean distance to the nearest few."""
    references = torch.from_numpy(reference)
    k = min(NEIGHBOURS, len(reference))
    distances = []
    for start in range(0, len(vectors), CHUNK):
        part = torch.from_numpy(np.ascontiguousarray(vectors[start : start + CHUNK], np.float32))
        distances.append(torch.cdist(part, references).topk(k, dim=1, largest=False).values.mean(dim=1))
    return np.asarray(torch.cat(distances).double().numpy()) if distances else np.empty(0)
