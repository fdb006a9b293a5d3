"""A model's objective on a batch of its embeddings."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from crystalign.model import Model
from crystalign.objectives import (
    Loss,
    barlow_twins_loss,
    contrastive_loss,
    cosface_loss,
    sigmoid_loss,
    tensor_loss,
)


def objective(
    model: Model, embeddings: Mapping[str, Tensor], present: Mapping[str, Tensor], keys: Mapping[str, Tensor]
) -> Loss:
    """The loss that the model's settings name, with its temperatures, biases, pairs and their weights.

    Args:
        model: whose `config.objective` it is.
        embeddings: modality → (b, D), this rank's unit vectors; zero where absent.
        present: modality → (b,) bool.
        keys: modality → (b, K) int64, equal in a column where the modality cannot tell two rows apart.

    Returns:
        This rank's share, whose mean over ranks is the global loss.
    """
    config = model.config
    batch, pairs, weights = (embeddings, present, keys), config.aligned, config.weights
    match config.objective:
        case "clip":
            return contrastive_loss(*batch, model.logit_scales(), pairs, weights=weights)
        case "siglip":
            return sigmoid_loss(*batch, model.logit_scales(), model.pair_biases(), pairs, weights=weights)
        case "cosface":
            scale, margin = config.cosface_scale, config.cosface_margin
            return cosface_loss(*batch, pairs, scale=scale, margin=margin, weights=weights)
        case "tensorclip":
            return tensor_loss(*batch, *model.logit_scales().values())
        case "barlow":
            return barlow_twins_loss(*batch, off_diagonal_weight=config.barlow_off_diagonal)
