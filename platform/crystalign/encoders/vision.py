"""Base of the image encoders: published weights from a folder, and no batch statistics."""

from __future__ import annotations

import json
import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from crystalign.encoders.encoder import Files
from crystalign.encoders.published import NETWORK, Published, published_description
from crystalign.errors import ConfigError
from crystalign.modalities import Inputs

GROUPS = 32
"""Number of groups of GroupNorm, as in its paper; fewer if the channels are not a multiple."""


class Vision(Published):
    """Encoder around a `transformers` network for images."""

    family: ClassVar[str]
    """`model_type` of the networks that this class supports."""

    def __init__(
        self, settings: Published.Settings, files: Files | None = None, network: nn.Module | None = None
    ) -> None:
        super().__init__(settings, files, network)
        self.network = without_batch_statistics(self.network, published=settings.pretrained is not None)
        self.network.requires_grad_(not self.frozen)

    def description(self) -> dict[str, Any]:
        """Return the configuration of the published network, or of a fresh one from the settings."""
        if NETWORK in self._files:
            return super().description()
        return self.describe(self.settings) | {"model_type": self.family}

    @classmethod
    @abstractmethod
    def describe(cls, settings: Any) -> dict[str, Any]:
        """Return the settings as configuration fields of `transformers`."""

    def states(self, inputs: Inputs) -> Tensor:
        """Return the last hidden state for (n, 3, S, S) `pixels`."""
        hidden: Tensor = self.network(inputs["pixels"]).last_hidden_state
        return hidden

    @classmethod
    def prepare(cls, settings: Any, values: Sequence[Any]) -> Files:  # noqa: ARG003 (the protocol)
        """Read the configuration of a published network.

        Raises:
            ConfigError: there is no such network, or it is of another kind.
        """
        if settings.pretrained is None:
            return {}
        try:
            description = published_description(settings.pretrained)
        except (OSError, ValueError) as error:
            message = f"no published image encoder {settings.pretrained!r}: {error}"
            raise ConfigError(message) from error
        if description["model_type"] != cls.family:
            message = (
                f"{settings.pretrained!r} is a {description['model_type']!r}, and this encoder reads a {cls.family!r}"
            )
            raise ConfigError(message)
        return {NETWORK: json.dumps(description, indent=2, default=str).encode()}


def without_batch_statistics(network: nn.Module, *, published: bool) -> nn.Module:
    """Replace each BatchNorm of the network, in place.

    In a published network it becomes the affine map x · γ/√(σ² + ε) + β − μ γ/√(σ² + ε) with the published mean μ and
    variance σ², as in evaluation mode. In a fresh network it becomes GroupNorm (Wu & He, ECCV 2018, arXiv:1803.08494).
    """
    for name, child in network.named_children():
        if not isinstance(child, nn.BatchNorm2d):
            without_batch_statistics(child, published=published)
        elif published:
            setattr(network, name, ChannelAffine(child))
        else:
            setattr(network, name, nn.GroupNorm(math.gcd(GROUPS, child.num_features), child.num_features))
    return network


class ChannelAffine(nn.Module):
    """Per-channel x · scale + shift: a BatchNorm with constant statistics."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = norm.weight.detach() / (norm.running_var + norm.eps).sqrt()
        self.scale = nn.Parameter(scale)
        self.shift = nn.Parameter(norm.bias.detach() - norm.running_mean * scale)

    def forward(self, x: Tensor) -> Tensor:
        """(n, C, H, W) → (n, C, H, W)."""
        return torch.addcmul(self.shift[:, None, None], x, self.scale[:, None, None])
