"""Objectives that scale cosines by a trained 1/τ."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

from pydantic import Field

from crystalign.objectives.objective import Names, Objective, state_key

if TYPE_CHECKING:
    from torch import Tensor, nn

MAX_LOG_SCALE = math.log(100.0)
SCALES = "log_scales"
"""Name of the log scales in a model's weights."""


class Tempered(Objective):
    """Objective with a logit scale s = 1/τ for each group that it aligns; log s is the trained parameter."""

    initial_temperature: float = Field(default=0.07, gt=0.01, le=1.0)
    """Temperature τ at the start; each pair learns its own logit scale 1/τ <= 100."""
    learn_temperature: bool = True
    """Whether the logit scales are trained."""

    @abstractmethod
    def scaled(self, modalities: Names) -> tuple[Names, ...]:
        """Return the groups that have their own logit scale: pairs, or all modalities together."""

    def parameters(self, modalities: Names) -> dict[str, nn.Module]:
        """Make the log scales."""
        import torch
        from torch import nn

        start = -math.log(self.initial_temperature)
        scales = {
            state_key(names): nn.Parameter(torch.tensor(start), self.learn_temperature)
            for names in self.scaled(modalities)
        }
        return super().parameters(modalities) | {SCALES: nn.ParameterDict(scales)}

    def logit_scales(self, parameters: Mapping[str, nn.Module]) -> dict[Names, Tensor]:
        """Pair (or tuple of all modalities) → scalar 1/τ."""
        scales = cast("nn.ParameterDict", parameters[SCALES])
        return {tuple(key.split("__")): scale.exp() for key, scale in scales.items()}

    def constrain(self, parameters: Mapping[str, nn.Module]) -> None:
        """Keep 1/τ <= 100, as CLIP does: beyond it, training becomes unstable."""
        for scale in parameters[SCALES].parameters():
            scale.clamp_(max=MAX_LOG_SCALE)
