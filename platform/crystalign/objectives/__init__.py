"""Contrastive losses, exact for any number of ranks; one file per objective."""

from __future__ import annotations

from crystalign.objectives.objective import OBJECTIVES, Loss, Names, Objective, Pair

__all__ = ["OBJECTIVES", "Loss", "Names", "Objective", "Pair"]
