"""CrabNet with its published settings."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F  # noqa: N812
from pydantic import Field
from torch import Tensor, nn

from crystalign.config import Config
from crystalign.crystal import MAX_ATOMIC_NUMBER
from crystalign.encoders.encoder import Encoder
from crystalign.modalities import Inputs


class CrabNet(Encoder):
    r"""Attention between the elements of a formula (Wang et al., npj Comput. Mater. 7, 77 (2021)).

    1. A token is 2^s W e_z, a linear map of the element's vector, plus a fractional encoding: sines
       and cosines of the fraction x in its first half, of 0.0025 (log₂ x)² in its second, both
       rounded to 1/5000.
    2. Post-norm transformer layers with an inner layer of 4 d channels and ReLU.
    3. Each token passes residual layers, LeakyReLU(W h + V h); the formula is the mean over tokens.

    Differences from the paper: the element's vector is learned, not mat2vec's; the amplitudes of the
    two encodings are 2^a and 2^b with a = b = 0 at the start; the last layer, which predicts one
    property and its uncertainty, is left to the projection.
    """

    class Settings(Config):
        """Size of the network; the defaults are the published ones."""

        element: int = Field(default=200, ge=1)
        """Channels of an element embedding."""
        hidden: int = Field(default=512, ge=8, multiple_of=4)
        """Channels d per token."""
        layers: int = Field(default=3, ge=1)
        """Transformer layers."""
        heads: int = Field(default=4, ge=1)
        """Attention heads; `hidden` must be a multiple."""
        inner: int = Field(default=2048, ge=1)
        """Channels of the inner layer."""
        residual: tuple[int, ...] = Field(default=(1024, 512, 256, 128), min_length=1)
        """Widths of the residual layers; the last is the length of the output vector."""
        resolution: int = Field(default=5000, ge=2)
        """Number of steps to which a fraction is rounded."""
        dropout: float = Field(default=0.1, ge=0, lt=1)
        """Dropout probability in training."""

    settings: Settings

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.width = settings.residual[-1]
        self.elements = nn.Embedding(MAX_ATOMIC_NUMBER + 1, settings.element, padding_idx=0)
        self.token = nn.Linear(settings.element, settings.hidden)
        self.token_scale = nn.Parameter(torch.ones(()))
        self.linear_scale, self.log_scale = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))
        layer = nn.TransformerEncoderLayer(
            settings.hidden, settings.heads, settings.inner, settings.dropout, batch_first=True
        )
        self.transformer = nn.TransformerEncoder(layer, settings.layers, enable_nested_tensor=False)
        widths = (settings.hidden, *settings.residual)
        self.residual = nn.Sequential(*(ResidualLayer(*pair) for pair in itertools.pairwise(widths)))

    def forward(self, inputs: Inputs) -> Tensor:
        """(n, width) from `z` (n, M), zero where padded, and `fraction` (n, M)."""
        z, fraction = inputs["z"], inputs["fraction"]
        mask = z > 0  # (n, M)
        x = self.token(self.elements(z)) * 2.0**self.token_scale  # (n, M, d)
        x = x + self._encoding(fraction).to(x.dtype)
        x = self.transformer(x, src_key_padding_mask=~mask)
        x = self.residual(x) * mask[..., None]  # (n, M, width)
        mean: Tensor = x.sum(dim=1) / mask.sum(dim=1, keepdim=True)
        return mean

    def _encoding(self, fraction: Tensor) -> Tensor:
        """(n, M) → (n, M, d)."""
        half = self.settings.hidden // 2
        x = fraction.clamp(min=1.0 / self.settings.resolution)
        linear = fractional_encoding(x, half, self.settings.resolution) * 2.0**self.linear_scale
        squared = (0.0025 * x.log2().square()).clamp(max=1.0)
        logarithmic = fractional_encoding(squared, half, self.settings.resolution) * 2.0**self.log_scale
        return torch.cat([linear, logarithmic], dim=-1)


def fractional_encoding(x: Tensor, channels: int, resolution: int) -> Tensor:
    """(n, M) → (n, M, channels): sin and cos, in turn, of k / 50^(2 i / channels), k = round(x · resolution) − 1."""
    step = (x * resolution).round().clamp(min=1.0) - 1.0  # (n, M)
    channel = torch.arange(channels, device=x.device, dtype=x.dtype)
    angle = step[..., None] / 50.0 ** (2.0 * channel / channels)  # (n, M, channels)
    return torch.where(channel % 2 == 0, angle.sin(), angle.cos())


class ResidualLayer(nn.Module):
    """LeakyReLU(W h + b + V h)."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.main = nn.Linear(before, after)
        self.shortcut = nn.Linear(before, after, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., before) → (..., after)."""
        return F.leaky_relu(self.main(x) + self.shortcut(x))
