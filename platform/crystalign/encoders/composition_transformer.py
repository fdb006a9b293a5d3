"""Transformer over the elements of a formula."""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import Tensor, nn

from crystalign.config import Config
from crystalign.crystal import MAX_ATOMIC_NUMBER
from crystalign.encoders.encoder import Encoder
from crystalign.encoders.transformer import TransformerLayer
from crystalign.modalities import Inputs


class CompositionTransformer(Encoder):
    """Attention between elements, after CrabNet (Wang et al., npj Comput. Mater. 7, 77 (2021)).

    A token is an element's embedding plus a sinusoidal encoding of its fraction, on a linear and on a logarithmic
    scale so that small dopant fractions are resolved. The output concatenates the fraction-weighted and the plain
    mean of the tokens.
    """

    class Settings(Config):
        """Size of the network."""

        hidden: int = Field(default=96, ge=8, multiple_of=4)
        """Channels of a token."""
        layers: int = Field(default=2, ge=1)
        """Transformer layers."""
        heads: int = Field(default=4, ge=1)
        """Attention heads; they divide `hidden`."""

    settings: Settings

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        hidden = settings.hidden
        self.width = 2 * hidden
        self.elements = nn.Embedding(MAX_ATOMIC_NUMBER + 1, hidden, padding_idx=0)
        self.fractions = nn.Linear(hidden, hidden)
        self.layers = nn.ModuleList(TransformerLayer(hidden, settings.heads) for _ in range(settings.layers))
        self.norm = nn.LayerNorm(hidden)

    def forward(self, inputs: Inputs) -> Tensor:
        """(n, 2·hidden) from `z` (n, M), zero where padded, and `fraction` (n, M)."""
        z, fraction = inputs["z"], inputs["fraction"]
        mask = z > 0  # (n, M)
        x = self.elements(z) + self.fractions(_waves(fraction, self.settings.hidden))  # (n, M, C)
        for layer in self.layers:
            x = layer(x, mask)
        x = self.norm(x)
        weighted = (x * fraction[..., None]).sum(dim=1)  # (n, C)
        share = mask.to(x.dtype) / mask.sum(dim=1, keepdim=True)  # (n, M)
        return torch.cat([weighted, (x * share[..., None]).sum(dim=1)], dim=1)  # (n, 2C)


def _waves(fraction: Tensor, width: int) -> Tensor:
    """(n, M) → (n, M, width): sine and cosine of the fraction and of its logarithm, half each."""
    count = width // 4
    steps = torch.arange(count, device=fraction.device, dtype=fraction.dtype)
    periods = torch.exp(steps * (math.log(100.0) / max(1, count - 1)))  # 1 to 100 waves
    logarithm = fraction.clamp(min=1e-4).log10() / 4.0  # -1 to 0
    angles = torch.cat([fraction[..., None] * periods, logarithm[..., None] * periods], dim=-1)  # (n, M, width/2)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)
