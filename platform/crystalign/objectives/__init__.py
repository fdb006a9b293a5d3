"""Contrastive losses, exact at any world size."""

from __future__ import annotations

from crystalign.objectives.barlow import barlow_twins_loss
from crystalign.objectives.clip import contrastive_loss
from crystalign.objectives.cosface import cosface_loss
from crystalign.objectives.gather import Loss
from crystalign.objectives.siglip import sigmoid_loss
from crystalign.objectives.tensorclip import tensor_loss

__all__ = ["Loss", "barlow_twins_loss", "contrastive_loss", "cosface_loss", "sigmoid_loss", "tensor_loss"]
