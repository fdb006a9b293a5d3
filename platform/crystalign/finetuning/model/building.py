"""Make encoders and projections of a `PropertyModel`: fresh ones, or copies from a pre-trained model."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

from torch import nn

from crystalign.encoders import encoder_class, encoder_settings
from crystalign.encoders.encoder import Encoder, Files
from crystalign.model import Model
from crystalign.model_config import ModalitySpec


def fresh_encoders(
    specs: Mapping[str, ModalitySpec], files: Mapping[str, bytes], *, restore: bool = False
) -> dict[str, Encoder]:
    """Make encoders with fresh weights or, for published networks, the published ones.

    Args:
        specs: modality → its encoder.
        files: `<modality>/<file>` → content, as `crystalign.model.prepare` makes them.
        restore: skip published weights because the caller loads the weights afterwards.

    Raises:
        ConfigError: an encoder does not have a setting, or a required file is missing.
    """
    encoders = {}
    for name, spec in specs.items():
        cls, settings = encoder_class(spec.encoder), encoder_settings(spec.encoder, spec.options)
        own: Files = {path.partition("/")[2]: data for path, data in files.items() if path.startswith(f"{name}/")}
        encoders[name] = cls.restore(settings, own) if restore else cls.build(settings, own)
    return encoders


def taken_from(model: Model, modalities: Sequence[str]) -> tuple[dict[str, Encoder], dict[str, nn.Module]]:
    """Copy a pre-trained model's encoders and projections.

    Raises:
        ConfigError: it has no such modality.
    """
    for name in modalities:
        model.modality(name)
    encoders = {name: copy.deepcopy(model.encoders[name]) for name in modalities}
    return encoders, {name: copy.deepcopy(model.projections[name]) for name in modalities}  # type: ignore[return-value]


def fresh_projection(width: int, embedding_dim: int) -> nn.Module:
    """Make the projection that `Model` has after an encoder, with fresh weights."""
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, embedding_dim, bias=False))
