"""What the encoders of images share: published weights from a folder, and no statistics across samples."""

from __future__ import annotations

import json
import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from crystalign.config import Config
from crystalign.encoders.encoder import Encoder, Files
from crystalign.errors import ConfigError
from crystalign.modalities import Inputs

NETWORK = "network.json"
GROUPS = 32
"""Of a GroupNorm, as its paper has it; fewer where the channels are not a multiple of it."""


class Vision(Encoder):
    """A network of `transformers` over an image.

    Made on the spot, or, with `pretrained`, a published one from a folder or the hub: its description
    then travels in the model directory, and code that comes with it is never run.
    """

    family: ClassVar[str]
    """`model_type` of the networks that the class reads."""

    class Settings(Config):
        """Where the weights come from; each network adds its size."""

        pretrained: str | None = None
        """Hub name or path of a published network of this kind; None makes one."""
        frozen: bool = False
        """Whether the published weights stay as they are; those made on the spot are always trained."""
        lr_scale: float = Field(default=1.0, gt=0)
        """Learning rate of the published weights, in units of the run's."""

    settings: Settings

    def __init__(self, settings: Settings, files: Files | None = None, network: nn.Module | None = None) -> None:
        super().__init__(settings)
        description = json.loads((files or {}).get(NETWORK, b"null")) or self.describe(settings)
        chosen: Any = _network(self.family, description) if network is None else network
        published = settings.pretrained is not None
        self.network: Any = without_batch_statistics(chosen, published=published)
        self._files = {key: data for key, data in (files or {}).items() if key == NETWORK}
        self.frozen = settings.frozen and published
        self.lr_scales = {"network": settings.lr_scale} if published else {}
        if self.frozen:
            self.network.requires_grad_(False)

    @classmethod
    @abstractmethod
    def describe(cls, settings: Any) -> dict[str, Any]:
        """The configuration, as `transformers` calls its fields, of the network that the settings ask for."""

    def states(self, inputs: Inputs) -> Tensor:
        """The last hidden state of (n, 3, S, S) `pixels`."""
        found: Tensor = self.network(inputs["pixels"]).last_hidden_state
        return found

    def train(self, mode: bool = True) -> Self:
        """As always, but a frozen network drops nothing in training either."""
        super().train(mode)
        self.network.train(mode and not self.frozen)
        return self

    def files(self) -> Files:
        """The description of a published network."""
        return dict(self._files)

    @classmethod
    def prepare(cls, settings: Any, values: Sequence[Any]) -> Files:  # noqa: ARG003 (the protocol)
        """Read a published network's description.

        Raises:
            ConfigError: there is none, or it is of another kind.
        """
        if settings.pretrained is None:
            return {}
        from transformers import AutoConfig

        try:
            found = AutoConfig.from_pretrained(settings.pretrained, trust_remote_code=False)
        except (OSError, ValueError) as error:
            message = f"no published image encoder {settings.pretrained!r}: {error}"
            raise ConfigError(message) from error
        if found.model_type != cls.family:
            message = f"{settings.pretrained!r} is a {found.model_type!r}, and this encoder reads a {cls.family!r}"
            raise ConfigError(message)
        described = found.to_dict()
        described.pop("auto_map", None)  # names code of the network's own, which is never run
        return {NETWORK: json.dumps(described, indent=2, default=str).encode()}

    @classmethod
    def build(cls, settings: Any, files: Files) -> Self:
        """Fresh weights, or the published ones."""
        if settings.pretrained is None:
            return cls(settings, files)
        from transformers import AutoModel

        return cls(settings, files, AutoModel.from_pretrained(settings.pretrained, trust_remote_code=False))

    @classmethod
    def restore(cls, settings: Any, files: Files) -> Self:
        """The network without weights; nothing is read but `files`."""
        return cls(settings, files)


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


def _network(family: str, description: dict[str, Any]) -> nn.Module:
    from transformers import AutoConfig, AutoModel

    known = {key: value for key, value in description.items() if key != "model_type"}
    network: nn.Module = AutoModel.from_config(AutoConfig.for_model(family, **known), trust_remote_code=False)
    return network
