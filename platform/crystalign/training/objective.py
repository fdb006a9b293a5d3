"""A model's objective on a batch of its embeddings."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from crystalign.model import Model
from crystalign.objectives import Loss, contrastive_loss, sigmoid_loss


def objective(
    model: Model, embeddings: Mapping[str, Tensor], present: Mapping[str, Tensor], keys: Mapping[str, Tensor]
) -> Loss:
    """The loss that the model's settings name, with its temperatures, biases and pairs.

    Args:
        model: whose `config.objective` it is.
        embeddings: modality → (b, D), this rank's unit vectors; zero where absent.
        present: modality → (b,) bool.
        keys: modality → (b,) int64, equal where the modality cannot tell two rows apart.

    Returns:
        This rank's share, whose mean over ranks is the global loss.
    """
    pairs = model.config.aligned
    if model.config.objective == "siglip":
        return sigmoid_loss(embeddings, present, keys, model.logit_scales(), model.pair_biases(), pairs)
    return contrastive_loss(embeddings, present, keys, model.logit_scales(), pairs)
