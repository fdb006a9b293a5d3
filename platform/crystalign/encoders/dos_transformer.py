"""Transformer over a density of states, with patches or, as published, single energies as tokens."""

from __future__ import annotations

import math
from typing import Literal

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

    MultiMat uses 601 single energies as tokens. Here `patch` neighbouring bins form one token, as in ViT (Dosovitskiy
    et al., arXiv:2010.11929), which makes attention patch² times cheaper. Tokens have learned position embeddings; the
    output concatenates a class token and the mean over tokens.

    The published networks are settings of this class on this project's grid: all materials share one energy window, so
    there is no padding and no mask. MultiMat adds a linear map of the energy E, in units of half the window; MatBind
    adds this map and sinusoids, and weighs the maps of E and of the density by two learned numbers. All layers are
    pre-norm, also in the MatBind setting.
    """

    class Settings(Config):
        """Size of the network, and how a token encodes its energy."""

        bins: int = Field(default=400, ge=1)
        """Length of the input; equal to the modality's `points`."""
        patch: int = Field(default=8, ge=1)
        """Bins per token; `bins` must be a multiple."""
        hidden: int = Field(default=128, ge=4)
        """Channels per token."""
        layers: int = Field(default=3, ge=1)
        """Transformer layers."""
        heads: int = Field(default=4, ge=1)
        """Attention heads; `hidden` must be a multiple unless `head_width` is given."""
        head_width: int | None = Field(default=None, ge=1)
        """Channels per head; None for `hidden / heads`."""
        expansion: int = Field(default=2, ge=1)
        """Channels of the inner MLP layer, in units of `hidden`."""
        activation: Literal["gelu", "relu"] = "gelu"
        """Activation function of the MLP in each layer."""
        attention_bias: bool = True
        """Whether the query, key and value maps have a bias."""
        energies: Literal["none", "concatenated", "mixed"] = "none"
        """How a token's energy is added to its density: not at all, concatenated and mapped, or as a weighted sum."""
        positions: Literal["learned", "sinusoidal", "none"] = "learned"
        """Position encoding that is added to a token."""
        summary: bool = True
        """Whether a class token is concatenated to the mean; tokens are then normalised before averaging."""
        dropout: float = Field(default=0.0, ge=0, lt=1)
        """Dropout probability in training."""

    settings: Settings

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        _check(settings)
        hidden, tokens = settings.hidden, settings.bins // settings.patch
        self.width = hidden * (2 if settings.summary else 1)
        self.patches = nn.Linear(settings.patch, hidden, bias=settings.energies != "mixed")
        if settings.energies != "none":
            self.energies = nn.Linear(1, hidden, bias=settings.energies != "mixed")
            joined = settings.energies == "concatenated"
            self.join = nn.Linear(2 * hidden, hidden) if joined else nn.Linear(2, 1, bias=False)
        if settings.positions == "learned":
            self.positions = nn.Parameter(0.02 * torch.randn(1, tokens + settings.summary, hidden))
        if settings.summary:
            self.summary = nn.Parameter(torch.zeros(1, 1, hidden))
            self.norm = nn.LayerNorm(hidden)
        self.layers = nn.ModuleList(
            TransformerLayer(
                hidden,
                settings.heads,
                settings.expansion,
                settings.dropout,
                head_width=settings.head_width,
                bias=settings.attention_bias,
                activation=settings.activation,
            )
            for _ in range(settings.layers)
        )

    def forward(self, inputs: Inputs) -> Tensor:
        """(n, width) from `dos` (n, bins); width is 2·hidden with a class token, else hidden."""
        dos = inputs["dos"]
        if dos.shape[1] != self.settings.bins:
            message = (
                f"spectra of {dos.shape[1]} points for a network of {self.settings.bins}; "
                "set the modality's `points` to the encoder's `bins`"
            )
            raise ConfigError(message)
        x = self._tokens(dos)  # (n, T, C)
        if self.settings.summary:
            x = torch.cat([self.summary.expand(len(x), -1, -1), x], dim=1)  # (n, 1 + T, C)
        if self.settings.positions == "learned":
            x = x + self.positions
        elif self.settings.positions == "sinusoidal":
            x = x + sinusoids(x.shape[1], x.shape[2]).to(x)
        for layer in self.layers:
            x = layer(x)
        if not self.settings.summary:
            return x.mean(dim=1)  # (n, C)
        x = self.norm(x)
        return torch.cat([x[:, 0], x[:, 1:].mean(dim=1)], dim=1)  # (n, 2C)

    def _tokens(self, dos: Tensor) -> Tensor:
        """(n, bins) → (n, T, C)."""
        x: Tensor = self.patches(dos.view(len(dos), -1, self.settings.patch))  # (n, T, C)
        if self.settings.energies == "none":
            return x
        tokens = x.shape[1]
        places = (2.0 * torch.arange(tokens, device=x.device) + 1.0) / tokens - 1.0  # (T,) in (−1, 1)
        with torch.autocast(x.device.type, enabled=False):  # half precision has fewer numbers than there are bins
            e = self.energies(places.to(self.energies.weight.dtype)[:, None])  # (T, C)
        e = e.to(x.dtype).expand_as(x)  # (n, T, C)
        if self.settings.energies == "concatenated":
            joined: Tensor = self.join(torch.cat([e, x], dim=-1))  # (n, T, C)
            return joined
        mixed: Tensor = self.join(torch.stack([e, x], dim=-1)).squeeze(-1)  # (n, T, C)
        return mixed


def sinusoids(tokens: int, hidden: int) -> Tensor:
    """(T, C) sin and cos of t / 10000^(2i/C) in turn (Vaswani et al., NeurIPS 2017, arXiv:1706.03762)."""
    rates = torch.exp(torch.arange(0, hidden, 2) * (-math.log(10000.0) / hidden))  # (C/2,)
    angles = torch.arange(tokens)[:, None] * rates  # (T, C/2)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :hidden]


def _check(settings: DosTransformer.Settings) -> None:
    if settings.bins % settings.patch or (settings.head_width is None and settings.hidden % settings.heads):
        message = f"patch {settings.patch} must divide {settings.bins} bins, and {settings.heads} heads the hidden size"
        raise ConfigError(message)
    if settings.energies == settings.positions == "none":
        raise ConfigError("tokens have neither an energy nor a position encoding; set one of them")
