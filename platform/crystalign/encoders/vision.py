"""What the encoders of images share: published weights from a folder, and no statistics across samples."""

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
"""Of a GroupNorm, as its paper has it; fewer where the channels are not a multiple of it."""


class Vision(Published):
    """A network of `transformers` over an image."""

    family: ClassVar[str]
    """`model_type` of the networks that the class reads."""

    def __init__(
        self, settings: Published.Settings, files: Files | None = None, network: nn.Module | None = None
    ) -> None:
        super().__init__(settings, files, network)
        self.network = without_batch_statistics(self.network, published=settings.pretrained is not None)
        self.network.requires_grad_(not self.frozen)

    def description(self) -> dict[str, Any]:
        """That of the published network, or of one that the settings ask for."""
        if NETWORK in self._files:
            return super().description()
        return self.describe(self.settings) | {"model_type": self.family}

    @classmethod
    @abstractmethod
    def describe(cls, settings: Any) -> dict[str, Any]:
        """The configuration, as `transformers` calls its fields, of the network that the settings ask for."""

    def states(self, inputs: Inputs) -> Tensor:
        """The last hidden state of (n, 3, S, S) `pixels`."""
        found: Tensor = self.network(inputs["pixels"]).last_hidden_state
        return found

    @classmethod
    def prepare(cls, settings: Any, values: Sequence[Any]) -> Files:  # noqa: ARG003 (the protocol)
        """Read a published network's description.

        Raises:
            ConfigError: there is none, or it is of another kind.
        """
        if settings.pretrained is None:
            return {}
        try:
            found = published_description(settings.pretrained)
        except (OSError, ValueError) as error:
            message = f"no published image encoder {settings.pretrained!r}: {error}"
            raise ConfigError(message) from error
        if found["model_type"] != cls.family:
            message = f"{settings.pretrained!r} is a {found['model_type']!r}, and this encoder reads a {cls.family!r}"
            raise ConfigError(message)
        return {NETWORK: json.dumps(found, indent=2, default=str).encode()}


def without_batch_statistics(network: nn.Module, *, published: bool) -> nn.Module:
    """The network with each BatchNorm replaced, in place.

    In a published network by what it computes there, x · γ/√(σ² + ε) + β − μ γ/√(σ² + ε), with the
    published mean μ and variance σ²: its outputs are those of its evaluation mode. In a fresh one by
    GroupNorm (Wu & He, ECCV 2018, arXiv:1803.08494).
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
    """x · scale + shift per channel: a BatchNorm whose statistics are constants."""

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
