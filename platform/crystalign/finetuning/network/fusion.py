"""Fusion of several modalities of a material, any of which may be missing.

Follows Costa et al., who compare fusion before one predictor (early), after one predictor per modality (late), and
both (hybrid). Here each is a set of *predictors* whose outputs are averaged with weights: early fusion has one, late
fusion one per modality, hybrid fusion all of them. Each predictor has its own loss, so a modality that is missing at
prediction time only disables its own predictor.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from crystalign.encoders.transformer import TransformerLayer
from crystalign.finetuning.network.config import JOINT, FusionConfig


class Views(NamedTuple):
    """Encoder outputs for n materials."""

    vectors: dict[str, Tensor]
    """Modality → (n, width); rows are zero if it is missing."""
    present: dict[str, Tensor]
    """Modality → (n,) bool."""


class Fusion(nn.Module):
    """Combine the encoder outputs of n materials to one vector per predictor."""

    def __init__(self, config: FusionConfig, widths: Mapping[str, int]) -> None:
        """Make a fusion with fresh weights.

        Args:
            config: kind of fusion and its settings.
            widths: modality → length of its encoder's vector.
        """
        super().__init__()
        self.config, self.modalities = config, tuple(widths)
        self.predictors = config.predictors(self.modalities)
        self.norms = nn.ModuleDict({name: nn.LayerNorm(width) for name, width in widths.items()})
        self.widths = {name: widths[name] for name in self.predictors if name != JOINT}
        self.several = len(widths) > 1
        self.joint: Concatenation | Attention | None = None
        if JOINT in self.predictors:
            kind = Attention if config.kind == "attention" and self.several else Concatenation
            self.joint = kind(config, widths)
            self.widths[JOINT] = self.joint.width

    def forward(self, views: Views) -> tuple[dict[str, Tensor], Tensor]:
        """Return predictor → (n, width), and a mask (n, P) of the predictors that have input."""
        vectors = {name: self.norms[name](views.vectors[name]) for name in self.modalities}  # (n, width) each
        present = torch.stack([views.present[name] for name in self.modalities], dim=1)  # (n, M)
        fused = {name: vectors[name] for name in self.predictors if name != JOINT}
        able = [views.present[name] for name in self.predictors if name != JOINT]
        if self.joint is not None:
            fused[JOINT] = self.joint(vectors, self._hidden(present))
            able.append(present.any(dim=1))
        return fused, torch.stack(able, dim=1)

    def _hidden(self, present: Tensor) -> Tensor:
        """Mask (n, M) of the modalities given to the joint predictor; some are hidden in training."""
        if not (self.training and self.several and self.config.hide):
            return present
        drawn = torch.rand(present.shape, device=present.device).masked_fill(~present, -1.0)  # (n, M)
        last = drawn == drawn.max(dim=1, keepdim=True).values
        return present & ((drawn >= self.config.hide) | last)


class Concatenation(nn.Module):
    """Concatenation x = ⊕_m (v_m if present, else a learned e_m), plus mask bits if there are several modalities."""

    def __init__(self, config: FusionConfig, widths: Mapping[str, int]) -> None:  # noqa: ARG002 (as `Attention`)
        super().__init__()
        self.several = len(widths) > 1
        self.missing = nn.ParameterDict(
            {name: nn.Parameter(0.02 * torch.randn(width)) for name, width in widths.items() if self.several}
        )
        self.width = sum(widths.values()) + (len(widths) if self.several else 0)

    def forward(self, vectors: Mapping[str, Tensor], present: Tensor) -> Tensor:
        """(n, Σ width + M) from (n, width) of each modality and (n, M) presence."""
        if not self.several:
            return next(iter(vectors.values()))
        shown = [
            torch.where(present[:, number, None], vector, self.missing[name])
            for number, (name, vector) in enumerate(vectors.items())
        ]
        return torch.cat([*shown, present.to(shown[0].dtype)], dim=1)


class Attention(nn.Module):
    """Masked attention over one token per modality and a summary token, whose output is the vector."""

    def __init__(self, config: FusionConfig, widths: Mapping[str, int]) -> None:
        super().__init__()
        self.width = config.width
        self.tokens = nn.ModuleDict({name: nn.Linear(width, config.width) for name, width in widths.items()})
        self.summary = nn.Parameter(0.02 * torch.randn(config.width))
        self.layers = nn.ModuleList(TransformerLayer(config.width, config.heads) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)

    def forward(self, vectors: Mapping[str, Tensor], present: Tensor) -> Tensor:
        """(n, width) from (n, width_m) of each modality and (n, M) presence."""
        tokens = [self.tokens[name](vector) for name, vector in vectors.items()]  # (n, C) each
        x = torch.stack([self.summary.expand_as(tokens[0]), *tokens], dim=1)  # (n, 1 + M, C)
        mask = torch.cat([present.new_ones(len(present), 1), present], dim=1)  # (n, 1 + M)
        for layer in self.layers:
            x = layer(x, mask)
        vector: Tensor = self.norm(x[:, 0])  # (n, C)
        return vector


def weighted(outputs: Tensor, able: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted mean (n, T) of P predictors' outputs over those that have input.

    Args:
        outputs: (n, P, T).
        able: (n, P) bool.
        weights: (P,) non-negative; if all able predictors have weight zero, they are weighted equally.
    """
    shares = able.to(outputs.dtype) * weights.to(outputs.dtype)  # (n, P)
    shares = torch.where(shares.sum(dim=1, keepdim=True) > 0, shares, able.to(outputs.dtype))
    shares = shares / shares.sum(dim=1, keepdim=True).clamp(min=1e-12)
    return (outputs * shares[..., None]).sum(dim=1)


def stacking_weights(outputs: Tensor, able: Tensor, labels: Tensor) -> Tensor:
    """Fit non-negative weights (P,) of sum 1 by which P predictors' outputs match the labels best.

    Least squares min_w ‖Σ_p w_p z_p − z‖² with w ≥ 0 (Lawson and Hanson), over the rows and targets for which every
    predictor has input; equal weights if there are fewer than 3 P of them.

    Args:
        outputs: (n, P, T), of the validation part.
        able: (n, P) bool.
        labels: (n, T) on the same scale; NaN where not known.
    """
    import numpy as np
    from scipy.optimize import nnls

    predictors = outputs.shape[1]
    equal = torch.full((predictors,), 1.0 / predictors)
    usable = (torch.isfinite(labels) & able.all(dim=1, keepdim=True)).numpy()  # (n, T)
    answers = outputs.double().movedim(1, 2).numpy()[usable]  # (m, P)
    if len(answers) < 3 * predictors:
        return equal
    weights, _ = nnls(answers, labels.double().numpy()[usable])
    total = float(np.sum(weights))
    return torch.from_numpy(weights / total).float() if total > 0 else equal
