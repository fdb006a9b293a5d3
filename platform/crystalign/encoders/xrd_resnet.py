"""One-dimensional residual network over a powder pattern."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from pydantic import Field
from torch import Tensor, nn

from crystalign.encoders.convolution import norm_groups
from crystalign.encoders.pretrained import Pretrainable
from crystalign.modalities import Inputs


class XrdResNet(Pretrainable):
    """ResNet (He et al., CVPR 2016, arXiv:1512.03385) over momentum transfer Q, with GroupNorm.

    A strided stem is followed by residual stages that each halve the length. Peak positions matter most, so the last
    map is reduced to `positions` bins and *flattened* instead of averaged. Unmeasured bins are masked, and the mask is
    a second input channel.
    """

    class Settings(Pretrainable.Settings):
        """Size of the network."""

        stem_stride: int = Field(default=4, ge=1)
        """Stride of the first convolution, in bins."""
        stem_kernel: int = Field(default=11, ge=1)
        """Kernel width of the first convolution, in bins."""
        channels: tuple[int, ...] = (32, 64, 128)
        """Channels of each stage; multiples of 8."""
        kernel: int = Field(default=5, ge=1)
        """Width of the convolutions in the stages."""
        positions: int = Field(default=32, ge=1)
        """Bins to which the last map is pooled before it is flattened."""
        reduced: int = Field(default=64, ge=1)
        """Channels to which the last map is reduced before it is flattened."""
        hidden: int = Field(default=512, ge=4)
        """Width of the hidden layer after flattening."""
        width: int = Field(default=256, ge=4)
        """Length of the output vector."""

    settings: Settings

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        first = settings.channels[0]
        self.width = settings.width
        padding = settings.stem_kernel // 2
        self.stem = nn.Conv1d(2, first, settings.stem_kernel, stride=settings.stem_stride, padding=padding)
        stages: list[nn.Module] = []
        for previous, channels in zip((first, *settings.channels[:-1]), settings.channels, strict=True):
            stages.append(ResidualStage(previous, channels, settings.kernel))
        self.stages = nn.Sequential(*stages)
        self.reduce = nn.Conv1d(settings.channels[-1], settings.reduced, 1)
        self.head = nn.Sequential(
            nn.LayerNorm(settings.positions * settings.reduced),
            nn.Linear(settings.positions * settings.reduced, settings.hidden),
            nn.GELU(),
            nn.Linear(settings.hidden, settings.width),
        )

    def forward(self, inputs: Inputs) -> Tensor:
        """(n, width) from `pattern` (n, G) and `mask` (n, G), 1 where measured."""
        pattern = inputs["pattern"]
        mask = inputs["mask"].to(pattern.dtype)
        x = torch.stack([pattern * mask, mask], dim=1)  # (n, 2, G)
        x = self.stages(self.stem(x))  # (n, C, G/stride/2^stages)
        x = F.adaptive_avg_pool1d(self.reduce(x), self.settings.positions)  # (n, reduced, positions)
        vectors: Tensor = self.head(x.flatten(1))  # (n, width)
        return vectors


class ResidualStage(nn.Module):
    """Two convolutions around a shortcut; halves the length."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(norm_groups(inputs), inputs)
        self.conv1 = nn.Conv1d(inputs, outputs, kernel, stride=2, padding=kernel // 2, bias=False)
        self.norm2 = nn.GroupNorm(norm_groups(outputs), outputs)
        self.conv2 = nn.Conv1d(outputs, outputs, kernel, padding=kernel // 2, bias=False)
        self.shortcut = nn.Conv1d(inputs, outputs, 2, stride=2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(n, C, L) → (n, C', L/2)."""
        x = F.pad(x, (0, x.shape[-1] % 2))  # an even length, so that both branches agree
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        out: Tensor = self.shortcut(x) + h
        return out
