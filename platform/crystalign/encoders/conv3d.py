"""Three-dimensional residual network over a charge density."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from pydantic import Field
from torch import Tensor, nn

from crystalign.config import Config
from crystalign.encoders.convolution import cell_features, norm_groups, wrap
from crystalign.encoders.encoder import Encoder
from crystalign.modalities import Inputs


class Conv3d(Encoder):
    """ResNet (He et al., CVPR 2016, arXiv:1512.03385) in three dimensions with circular padding.

    The grid spans one cell in fractional coordinates, so convolutions are periodic. Voxels do not encode the size of
    the cell, so its lengths, angles and volume (`cell_features`) are concatenated to the pooled map.
    """

    class Settings(Config):
        """Size of the network."""

        channels: tuple[int, ...] = (8, 16, 32)
        """Channels of each stage; each stage halves the grid, the first from 32³ to 16³."""
        width: int = Field(default=128, ge=4)
        """Length of the output vector."""

    settings: Settings

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.width = settings.width
        first, last = settings.channels[0], settings.channels[-1]
        self.stem = nn.Conv3d(1, first, 4, stride=2)
        self.stages = nn.ModuleList(
            Stage(previous, channels)
            for previous, channels in zip(settings.channels, settings.channels[1:], strict=False)
        )
        self.norm = nn.GroupNorm(norm_groups(last), last)
        self.cell = nn.Sequential(nn.Linear(7, 32), nn.SiLU(), nn.Linear(32, 32))
        self.head = nn.Sequential(nn.Linear(2 * last + 32, settings.width), nn.SiLU())

    def forward(self, inputs: Inputs) -> Tensor:
        """(n, width) from `rho` (n, 1, N, N, N) and `lattice` (n, 3, 3) in Å."""
        x = self.stem(wrap(inputs["rho"], 1))  # (n, C, N/2, N/2, N/2)
        for stage in self.stages:
            x = stage(x)
        x = F.silu(self.norm(x)).flatten(2)  # (n, C, V)
        cell = self.cell(cell_features(inputs["lattice"]))  # (n, 32)
        vectors: Tensor = self.head(torch.cat([x.mean(dim=2), x.amax(dim=2), cell], dim=1))  # (n, width)
        return vectors


class Stage(nn.Module):
    """Two circular convolutions around a shortcut; halves the grid."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(norm_groups(inputs), inputs)
        self.conv1 = nn.Conv3d(inputs, outputs, 4, stride=2, bias=False)
        self.norm2 = nn.GroupNorm(norm_groups(outputs), outputs)
        self.conv2 = nn.Conv3d(outputs, outputs, 3, bias=False)
        self.shortcut = nn.Conv3d(inputs, outputs, 2, stride=2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(n, C, N, N, N) → (n, C', N/2, N/2, N/2)."""
        h = self.conv1(wrap(F.silu(self.norm1(x)), 1))
        h = self.conv2(wrap(F.silu(self.norm2(h)), 1))
        out: Tensor = self.shortcut(x) + h
        return out
