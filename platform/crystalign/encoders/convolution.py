"""Shared parts of the convolutional encoders: periodic padding, GroupNorm groups, and cell features."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor


def cell_features(lattice: Tensor) -> Tensor:
    """Rotation-invariant cell features (n, 7): log lengths (3), cosines of the angles (3), log volume.

    Computed in single precision even under autocast: half precision would round away 0.01 Å.
    """
    with torch.autocast(lattice.device.type, enabled=False):
        return _cell_features(lattice if lattice.dtype == torch.float64 else lattice.float())


def _cell_features(lattice: Tensor) -> Tensor:
    metric = lattice @ lattice.mT  # (n, 3, 3)
    lengths = metric.diagonal(dim1=1, dim2=2).sqrt()  # (n, 3)
    cosines = metric / (lengths[:, :, None] * lengths[:, None, :])  # (n, 3, 3)
    angles = torch.stack([cosines[:, 1, 2], cosines[:, 0, 2], cosines[:, 0, 1]], dim=1)  # (n, 3)
    volume = torch.linalg.det(lattice).abs().log()[:, None]  # (n, 1)
    return torch.cat([lengths.log(), angles, volume], dim=1)


def wrap(x: Tensor, width: int) -> Tensor:
    """Pad (n, C, N, N, N) periodically with `width` points on each face."""
    return F.pad(x, (width,) * 6, mode="circular")


def norm_groups(channels: int, most: int = 8) -> int:
    """Number of GroupNorm groups: the largest power of two up to `most` that divides `channels`."""
    groups = most
    while channels % groups:
        groups //= 2
    return groups
