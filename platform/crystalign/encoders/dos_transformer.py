"""A transformer over patches of a density of states."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from crystalign.config import Config
from crystalign.encoders.encoder import Encoder
from crystalign.encoders.transformer import TransformerLayer
from crystalign.errors import ConfigError
from crystalign.modalities import Inputs


class DosTransformer(Encoder):
    """Attention over energy, after MultiMat's DOS encoder (Moro et al., Newton 1, 100016 (2025)).

    MultiMat reads 601 single energies as tokens; here `patch` neighbouring bins make one token
    (as in ViT, Dosovitskiy et al., arXiv:2010.11929): attention is patch² times cheaper. Tokens carry
    learned positions, so the energy of a feature is known, and are averaged beside a class token.
    """

    class Settings(Config):
        """Size."""

        bins: int = Field(default=400, ge=1)
        """Length of the input, as `DosModality` makes it."""
        patch: int = Field(default=8, ge=1)
        """Bins per token; it divides `bins`."""
        hidden: int = Field(default=128, ge=4)
        """Channels of a token."""
        layers: int = Field(default=3, ge=1)
        """Transformer layers."""
        heads: int = Field(default=4, ge=1)
        """Attention heads; they divide `hidden`."""
        dropout: float = Field(default=0.0, ge=0, lt=1)
        """Share of activations dropped in training."""

    settings: Settings

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        if settings.bins % settings.patch or settings.hidden % settings.heads:
            message = (
                f"patch {settings.patch} must divide {settings.bins} bins, and {settings.heads} heads the hidden size"
            )
            raise ConfigError(message)
        hidden, tokens = settings.hidden, settings.bins // settings.patch
        self.width = 2 * hidden
        self.patches = nn.Linear(settings.patch, hidden)
        self.positions = nn.Parameter(0.02 * torch.randn(1, tokens + 1, hidden))
        self.summary = nn.Parameter(torch.zeros(1, 1, hidden))
        self.layers = nn.ModuleList(
            TransformerLayer(hidden, settings.heads, dropout=settings.dropout) for _ in range(settings.layers)
        )
        self.norm = nn.LayerNorm(hidden)

    def forward(self, inputs: Inputs) -> Tensor:
        """(n, 2·hidden) from `dos` (n, bins)."""
        dos = inputs["dos"]
        x = self.patches(dos.view(len(dos), -1, self.settings.patch))  # (n, T, C)
        x = torch.cat([self.summary.expand(len(x), -1, -1), x], dim=1) + self.positions  # (n, T + 1, C)
        for layer in self.layers:
            x = layer(x)
        x = self.norm(x)
        return torch.cat([x[:, 0], x[:, 1:].mean(dim=1)], dim=1)  # (n, 2C)
