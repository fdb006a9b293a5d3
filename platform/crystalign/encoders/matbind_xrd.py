"""MatBind's residual network over a powder pattern."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from pydantic import Field
from torch import Tensor, nn

from crystalign.encoders.convolution import norm_groups
from crystalign.encoders.pretrained import Pretrainable
from crystalign.errors import ConfigError
from crystalign.modalities import Inputs


class MatBindXrd(Pretrainable):
    """One-dimensional ResNet with wide kernels and GroupNorm (MatBind, ICLR 2025 workshop), averaged over the pattern.

    Convolutions of width 9, a stride of 4 between stages of 64, 128, 256 and 512 channels. With one block per
    stage it has the ~5 M parameters that are published; `blocks: [2, 2, 2, 2]` makes 11 M. The pattern is on a grid of
    Q instead of 2θ, so it does not depend on the wavelength, and a second channel is the mask of
    measured bins.

    The mean over positions loses most of the peak positions, which distinguish crystals of the same symmetry;
    `xrd-resnet` keeps them.
    """

    class Settings(Pretrainable.Settings):
        """Size of the network."""

        channels: tuple[int, ...] = (64, 128, 256, 512)
        """Channels of each stage."""
        blocks: tuple[int, ...] = (1, 1, 1, 1)
        """Residual blocks of each stage."""
        kernel: int = Field(default=9, ge=1)
        """Width of the convolutions in the stages."""
        stride: int = Field(default=4, ge=1)
        """Downsampling factor between stages."""

    settings: Settings

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        if len(settings.channels) != len(settings.blocks) or settings.kernel % 2 == 0:
            message = (
                f"{len(settings.channels)} numbers of channels, {len(settings.blocks)} of blocks and a kernel of "
                f"{settings.kernel}; each stage needs both, and the kernel is odd"
            )
            raise ConfigError(message)
        first, self.width = settings.channels[0], settings.channels[-1]
        self.stem = nn.Sequential(nn.Conv1d(2, first, 7, stride=2, padding=3, bias=False), _norm(first), nn.ReLU())
        layers: list[nn.Module] = []
        inputs = first
        for stage, (channels, blocks) in enumerate(zip(settings.channels, settings.blocks, strict=True)):
            for block in range(blocks):
                stride = settings.stride if stage and not block else 1
                layers.append(Block(inputs, channels, settings.kernel, stride, shortcut=not block))
                inputs = channels
        self.stages = nn.Sequential(*layers)

    def forward(self, inputs: Inputs) -> Tensor:
        """(n, width) from `pattern` (n, G) and `mask` (n, G), 1 where measured."""
        pattern = inputs["pattern"]
        mask = inputs["mask"].to(pattern.dtype)
        x = self.stem(torch.stack([pattern * mask, mask], dim=1))  # (n, C, G/2)
        x = F.max_pool1d(x, 3, stride=2, padding=1)  # (n, C, G/4)
        vectors: Tensor = self.stages(x).mean(dim=2)  # (n, width)
        return vectors


class Block(nn.Module):
    """relu(norm conv relu norm conv x + shortcut x) (He et al., CVPR 2016, arXiv:1512.03385)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, *, shortcut: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)
        self.norm1 = _norm(outputs)
        self.conv2 = nn.Conv1d(outputs, outputs, kernel, padding=kernel // 2, bias=False)
        self.norm2 = _norm(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if shortcut:
            self.shortcut = nn.Sequential(nn.Conv1d(inputs, outputs, 1, stride=stride, bias=False), _norm(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(n, C, L) → (n, C', L/stride)."""
        h = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(h)) + self.shortcut(x))


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(norm_groups(channels, 32), channels)
