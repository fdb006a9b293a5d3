"""Which rows of a batch look alike in one of two modalities, so that they are neither negatives nor misses.

Two rows are alike if a key of either modality is equal. This relation is symmetric. A text that fits several crystals
is a second case, which is not: `cubic oxide` fits MgO, but `rock salt` does not fit every cubic oxide. A row of such a
modality has *claims* and *facts*, both as hashes. Row i looks like row j if all claims of i are facts of j. A row
without claims fits no other row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Self

import torch
from torch import Tensor

CLAIMS = 24
"""Most claims of a row that are compared."""
FACTS = 128
"""Most facts of a row."""


def claims_of(modality: str) -> str:
    """Name of the claims among the keys of a batch."""
    return f"{modality}/claims"


def facts_of(modality: str) -> str:
    """Name of the facts among the keys of a batch."""
    return f"{modality}/facts"


class Likeness(NamedTuple):
    """What decides whether N rows look alike in a modality."""

    keys: Tensor
    """(N,) or (N, K) int64; rows equal in any column are alike."""
    claims: Tensor | None = None
    """(N, C) int64, 0 beyond the last one; None if the modality makes no claims."""
    facts: Tensor | None = None
    """(N, F) int64, 0 beyond the last one."""

    @classmethod
    def of(cls, modality: str, keys: Mapping[str, Tensor], rows: Tensor) -> Self:
        """The likeness of some rows, from the keys of a batch."""
        claims, facts = keys.get(claims_of(modality)), keys.get(facts_of(modality))
        if claims is None or facts is None:
            return cls(keys[modality][rows])
        return cls(keys[modality][rows], claims[rows], facts[rows])


def indistinct(anchor: Likeness, candidate: Likeness, start: int, stop: int) -> Tensor:
    """Mask (stop − start, N) of candidates that look like row start, start + 1, … in either modality: not negatives.

    Args:
        anchor: the N rows in the modality of the anchors.
        candidate: the same rows in that of the candidates.
        start: first anchor to compare with all candidates.
        stop: one past the last.

    Returns:
        (stop − start, N) bool; False for the anchor's own row.
    """
    columns = [c for like in (anchor, candidate) for c in like.keys.reshape(len(like.keys), -1).unbind(1)]  # (N,) each
    same = columns[0][start:stop, None] == columns[0][None, :]
    for column in columns[1:]:
        same |= column[start:stop, None] == column[None, :]
    if anchor.claims is not None and anchor.facts is not None:
        same |= fits(anchor.claims[start:stop], anchor.facts)
    if candidate.claims is not None and candidate.facts is not None:
        same |= fits(candidate.claims, candidate.facts[start:stop]).T
    own = torch.arange(start, stop, device=same.device)
    same[own - start, own] = False
    return same


def fits(claims: Tensor, facts: Tensor) -> Tensor:
    """Mask (n, m): whether all claims of row i are among the facts of row j.

    Every different claim is a column of two matrices of zeros and ones, whose product counts the claims that hold.

    Args:
        claims: (n, C) int64, 0 beyond the last claim; a row without claims fits nothing.
        facts: (m, F) int64, 0 beyond the last fact.
    """
    known, said = torch.unique(claims, return_inverse=True)  # (U,), (n, C)
    at = torch.searchsorted(known, facts).clamp(max=len(known) - 1)  # (m, F)
    made = claims.new_zeros(len(claims), len(known), dtype=torch.float32)
    made.scatter_(1, said, (claims != 0).float())  # a claim is listed once
    true = claims.new_zeros(len(facts), len(known), dtype=torch.float32)
    true.scatter_reduce_(1, at, ((known[at] == facts) & (facts != 0)).float(), "amax")
    number = made.sum(dim=1, keepdim=True)  # (n, 1)
    return (made @ true.T == number) & (number > 0)
