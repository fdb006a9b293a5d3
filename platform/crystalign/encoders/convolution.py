"""What the convolutional encoders share: circular padding, groups of a norm, and the cell as numbers."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor


def cell_features(lattice: Tensor) -> Tensor:
    """(n, 7): log of the three lengths, cosines of the three angles, log of the volume; free of rotation.

    In single precision whatever is autocast: half of it would round a hundredth of an ångström away.
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
    """(n, C, N, N, N) with `width` points of the opposite face beyond each face."""
    return F.pad(x, (width,) * 6, mode="circular")


def norm_groups(channels: int, most: int = 8) -> int:
    """The largest power of two up to `most` that divides `channels`."""
    groups = most
    while channels % groups:
        groups //= 2
    return groups
