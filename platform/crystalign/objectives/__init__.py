"""Contrastive losses, exact at any world size."""

from __future__ import annotations

from crystalign.objectives.clip import contrastive_loss
from crystalign.objectives.gather import Loss
from crystalign.objectives.siglip import sigmoid_loss

__all__ = ["Loss", "contrastive_loss", "sigmoid_loss"]
