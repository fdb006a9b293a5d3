"""A transformer over a density of states: over its patches, or over its single energies as published."""

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

    MultiMat reads 601 single energies as tokens; here `patch` neighbouring bins make one token
    (as in ViT, Dosovitskiy et al., arXiv:2010.11929): attention is patch² times cheaper. Tokens carry
    learned positions, so the energy of a feature is known, and are averaged beside a class token.

    The published networks are settings of the same class, on this project's grid: one window for all
    materials instead of each calculation's own, hence no padding and no mask. MultiMat's tokens know their
    energy E by a linear map of it, in units of half the window; MatBind's by that and by sinusoids, with
    two learned weights between the maps of E and of the density. Layers are pre-norm, in MatBind's too.
    """

    class Settings(Config):
        """Size, and how a token knows its energy."""

        bins: int = Field(default=400, ge=1)
        """Length of the input, as the modality's `points`."""
        patch: int = Field(default=8, ge=1)
        """Bins per token; it divides `bins`."""
        hidden: int = Field(default=128, ge=4)
        """Channels of a token."""
        layers: int = Field(default=3, ge=1)
        """Transformer layers."""
        heads: int = Field(default=4, ge=1)
        """Attention heads; they divide `hidden` unless `head_width` is given."""
        head_width: int | None = Field(default=None, ge=1)
        """Channels of a head; None shares `hidden` out."""
        expansion: int = Field(default=2, ge=1)
        """Channels of the layers' inner map, in units of `hidden`."""
        activation: Literal["gelu", "relu"] = "gelu"
        """Between the two maps of a layer."""
        attention_bias: bool = True
        """Whether queries, keys and values have one."""
        energies: Literal["none", "concatenated", "mixed"] = "none"
        """A token's energy beside its density: not; both mapped, joined and mapped again; or added with two weights."""
        positions: Literal["learned", "sinusoidal", "none"] = "learned"
        """What is added to a token by its place."""
        summary: bool = True
        """Whether a class token stands beside the mean, and the tokens are normalised before it."""
        dropout: float = Field(default=0.0, ge=0, lt=1)
        """Share of activations dropped in training."""

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
        raise ConfigError("without energies or positions no token knows its energy; set one of them")
