"""Pairing rules of objectives: which pairs are aligned, and with which weights."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from itertools import combinations
from typing import Annotated, Any, Self

from pydantic import Field

from crystalign.objectives.objective import Names, Objective, Pair


class Pairwise(Objective):
    """Objective whose value is the weighted mean over pairs of modalities."""

    pairs: tuple[Pair, ...] | Annotated[str, Field(pattern=r"^(all|anchored\([a-z_]+\))$")] = ()
    """Aligned pairs: `anchored(crystal)`, or another modality, with every other one; `all`; or a list of pairs. An
    empty list means `anchored(crystal)`."""
    pair_weights: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(default_factory=dict)
    """Weight of a pair in the mean over pairs, e.g. `{"crystal-xrd": 2.0}`; 1 where not given."""

    def check(self, modalities: Names) -> None:
        """Refuse pairs, anchors and weights that do not match the model's modalities.

        Raises:
            ValueError: a pair, anchor or weight is not valid; the message names it.
        """
        if isinstance(self.pairs, str) and self.pairs != "all" and self._anchor not in modalities:
            raise ValueError(f"pairs: {self.pairs} names no modality of this model: {', '.join(modalities)}")
        if not self.pairs and "crystal" not in modalities:
            raise ValueError("without a crystal there is no anchor: list the pairs")
        aligned = self.aligned(modalities)
        for pair in aligned:
            if pair[0] == pair[1] or not set(pair) <= set(modalities):
                raise ValueError(f"pair {pair} must name two different modalities of {', '.join(modalities)}")
        if len({frozenset(pair) for pair in aligned}) < len(aligned):
            raise ValueError(f"a pair is listed twice in {self.pairs}")
        names = ["-".join(pair) for pair in aligned]
        for name in self.pair_weights:
            if name not in names:
                raise ValueError(f"pair_weights: {name!r} is not an aligned pair; there are {', '.join(names)}")

    def without(self, removed: Collection[str]) -> Self:
        """Return the settings without the pairs and weights that name a removed modality."""
        changes: dict[str, Any] = {}
        if isinstance(self.pairs, tuple) and self.pairs:
            changes["pairs"] = tuple(pair for pair in self.pairs if not set(pair) & set(removed))
        if self.pair_weights:
            kept = {name: w for name, w in self.pair_weights.items() if not set(name.split("-")) & set(removed)}
            changes["pair_weights"] = kept
        return self.model_copy(update=changes) if changes else self

    def aligned(self, modalities: Names) -> tuple[Pair, ...]:
        """Return the pairs that are trained."""
        if self.pairs == "all":
            return tuple(combinations(modalities, 2))
        if isinstance(self.pairs, str) or not self.pairs:
            return tuple((self._anchor, name) for name in modalities if name != self._anchor)
        return self.pairs

    def weights(self, modalities: Names) -> Mapping[Pair, float]:
        """Pair → its weight in the mean over pairs."""
        return {pair: self.pair_weights.get("-".join(pair), 1.0) for pair in self.aligned(modalities)}

    @property
    def _anchor(self) -> str:
        match = re.fullmatch(r"anchored\((\w+)\)", self.pairs) if isinstance(self.pairs, str) else None
        return "crystal" if match is None else match[1]


class AllAtOnce(Objective):
    """Objective that aligns all modalities of a model in one joint term."""

    def check_number(self, modalities: Names, least: int, most: int) -> None:
        """Refuse too few or too many modalities.

        Raises:
            ValueError: the number of modalities is not supported; the message gives the supported one.
        """
        if not least <= len(modalities) <= most:
            number = "exactly three" if least == most == 3 else f"{least} to {most}"
            raise ValueError(f"{self.kind} aligns {number} modalities at once, not {len(modalities)}")

    def aligned(self, modalities: Names) -> tuple[Pair, ...]:
        """Return all pairs; they are trained jointly."""
        return tuple(combinations(modalities, 2))
