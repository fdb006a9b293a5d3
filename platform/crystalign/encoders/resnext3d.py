"""ResNeXt-50 in three dimensions over a charge density."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812
from pydantic import Field
from torch import Tensor, nn

from crystalign.config import Config
from crystalign.encoders.convolution import cell_features, norm_groups
from crystalign.encoders.encoder import Encoder
from crystalign.errors import ConfigError
from crystalign.modalities import Inputs

Padding = Literal["circular", "zeros"]
EXPANSION = 2
"""Output channels of a block, in units of the channels of its grouped convolution."""


class ResNeXt3d(Encoder):
    """ResNeXt (Xie et al., CVPR 2017, arXiv:1611.05431) as MultiMat reads densities (Newton 1, 100016 (2025)).

    32³ → convolution of width 7, pooling → 8³, four stages of bottlenecks → 1³, a linear map. Three things
    differ from the published network. The grid is one period of a crystal, so convolutions and pooling wrap
    around (`padding: zeros` is the published way). A material's vector must not depend on its batch, so GroupNorm of
    equal size replaces BatchNorm. Voxels are fractions
    of a cell and look alike in sheared cells, so seven features of the cell are concatenated to the pooled map.

    The total stride is 32, so the vector depends on the origin and the axes of the grid. `ChargeDensity.standardised`
    chooses a unique origin and unique axes for each crystal, in every space group.
    """

    class Settings(Config):
        """Size of the network."""

        blocks: tuple[int, int, int, int] = (3, 4, 6, 3)
        """Bottlenecks of each stage; all but the first stage halve the grid."""
        channels: int = Field(default=128, ge=1)
        """Channels of the grouped convolutions in the first stage; each stage doubles them."""
        cardinality: int = Field(default=32, ge=1)
        """Groups of those convolutions; `channels` must be a multiple."""
        padding: Padding = "circular"
        """Padding of the grid: periodic, or zeros as published."""
        width: int = Field(default=128, ge=4)
        """Length of the output vector."""

    settings: Settings

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        if settings.channels % settings.cardinality:
            message = f"{settings.cardinality} groups do not divide {settings.channels} channels"
            raise ConfigError(message)
        self.width = settings.width
        stem, padding = settings.channels // EXPANSION, settings.padding
        self.stem = nn.Conv3d(1, stem, 7, stride=2, padding=3, padding_mode=padding, bias=False)
        self.norm = _norm(stem)
        layers: list[nn.Module] = []
        inputs = stem
        for stage, blocks in enumerate(settings.blocks):
            inner = settings.channels << stage
            for block in range(blocks):
                stride = 2 if stage and not block else 1
                layers.append(Bottleneck(inputs, inner, settings.cardinality, stride, padding))
                inputs = EXPANSION * inner
        self.stages = nn.Sequential(*layers)
        self.cell = nn.Sequential(nn.Linear(7, 32), nn.SiLU(), nn.Linear(32, 32))
        self.head = nn.Linear(inputs + 32, settings.width)

    def forward(self, inputs: Inputs) -> Tensor:
        """(n, width) from `rho` (n, 1, N, N, N) and `lattice` (n, 3, 3) in Å."""
        x = self.stages(self.begin(inputs["rho"])).flatten(2).mean(dim=2)  # (n, C)
        vectors: Tensor = self.head(torch.cat([x, self.cell(cell_features(inputs["lattice"]))], dim=1))  # (n, width)
        return vectors

    def begin(self, rho: Tensor) -> Tensor:
        """(n, 1, N, N, N) → (n, C, N/4, N/4, N/4)."""
        x = F.relu(self.norm(self.stem(rho)))
        if self.settings.padding == "circular":
            return F.max_pool3d(F.pad(x, (1, 0) * 3, mode="circular"), 3, stride=2)
        return F.max_pool3d(x, 3, stride=2, padding=1)


class Bottleneck(nn.Module):
    """1³, grouped 3³ and 1³ convolutions around a shortcut."""

    def __init__(self, inputs: int, inner: int, cardinality: int, stride: int, padding: Padding) -> None:
        super().__init__()
        outputs = EXPANSION * inner
        self.reduce = nn.Sequential(nn.Conv3d(inputs, inner, 1, bias=False), _norm(inner), nn.ReLU())
        self.mix = nn.Sequential(
            nn.Conv3d(inner, inner, 3, stride=stride, padding=1, groups=cardinality, padding_mode=padding, bias=False),
            _norm(inner),
            nn.ReLU(),
        )
        self.expand = nn.Sequential(nn.Conv3d(inner, outputs, 1, bias=False), _norm(outputs))
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv3d(inputs, outputs, 1, stride=stride, bias=False), _norm(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(n, C, N, N, N) → (n, 2·inner, N/stride, N/stride, N/stride)."""
        return F.relu(self.expand(self.mix(self.reduce(x))) + self.shortcut(x))


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(norm_groups(channels, 32), channels)
