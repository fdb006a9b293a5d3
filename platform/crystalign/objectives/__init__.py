"""Contrastive losses, exact at any world size: one file = one objective."""

from __future__ import annotations

from crystalign.objectives.objective import OBJECTIVES, Loss, Names, Objective, Pair

__all__ = ["OBJECTIVES", "Loss", "Names", "Objective", "Pair"]
