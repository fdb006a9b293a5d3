"""`Objective`: what a contrastive loss is to a model: settings, what it aligns, parameters of its own, a value.

Adding one is a file here and a line in `OBJECTIVES`, or an entry point of another package.

Importing an objective's settings imports no torch, so that a model's description can be read without it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from crystalign.config import Tagged
from crystalign.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor, nn

Names = tuple[str, ...]
"""Modalities that an objective aligns with each other."""
Pair = tuple[str, str]
"""Two of them."""


class Loss(NamedTuple):
    """An objective's value on one rank."""

    total: Tensor
    """Scalar. Its mean over the ranks, which is what DDP takes of the gradients, is the exact global loss."""
    pairs: dict[Names, Tensor]
    """Pair → this rank's share of the pair's loss, without weight and gradient; the mean over ranks is the pair's
    loss. A non-pairwise objective has one entry, under all its modalities."""
    counts: dict[Names, int]
    """Pair → rows of the global batch that have all its modalities."""


class Objective(Tagged):
    """A contrastive loss over the modalities of a model; its fields are its settings.

    A subclass sets `kind: Literal["name"] = "name"` and is registered under that name: by a line in
    `crystalign.objectives.OBJECTIVES`, by an entry point of its package in the group `crystalign.objectives`, or by
    `OBJECTIVES.register` in one process. A model saves the settings in `config.json` and the parameters with its
    weights.

    Whoever writes one sees to it that it is exact at any number of workers: `loss` gets the rows of this rank and
    returns a share whose mean over the ranks is the loss of the global batch (`crystalign.objectives.gather`).
    """

    @classmethod
    def kinds(cls) -> Registry[type[Any]]:
        """`OBJECTIVES`."""
        return OBJECTIVES

    def check(self, modalities: Names) -> None:
        """Refuse a model that this cannot align.

        Args:
            modalities: of the model, in its order.

        Raises:
            ValueError: why not.
        """

    @abstractmethod
    def aligned(self, modalities: Names) -> tuple[Pair, ...]:
        """The pairs that are trained, directly or as part of all modalities: evaluation measures them as such."""

    def parameters(self, modalities: Names) -> dict[str, nn.Module]:  # noqa: ARG002
        """Fresh modules of its own that are trained with the encoders; none by default.

        Returns:
            Name → module, such as an `nn.ParameterDict` of temperatures; the model holds it under this name, so its
            weights are called `<name>.…`. Matrices decay, scalars and vectors do not.
        """
        return {}

    @abstractmethod
    def loss(
        self,
        parameters: Mapping[str, nn.Module],
        embeddings: Mapping[str, Tensor],
        present: Mapping[str, Tensor],
        keys: Mapping[str, Tensor],
    ) -> Loss:
        """Its value on a batch.

        Args:
            parameters: what `parameters` made, as it is by now.
            embeddings: modality → (b, D), this rank's unit vectors; zero where absent. b is the same on every rank.
            present: modality → (b,) bool.
            keys: modality → (b, K) int64, equal in a column where the modality cannot tell two rows apart.

        Returns:
            This rank's share, whose mean over ranks is the global loss.
        """

    def logit_scales(self, parameters: Mapping[str, nn.Module]) -> dict[Names, Tensor]:  # noqa: ARG002
        """Pair, or all modalities, → scalar 1/τ, for the log; empty where there is no temperature."""
        return {}

    def constrain(self, parameters: Mapping[str, nn.Module]) -> None:
        """Put its parameters back into their bounds, in place; called after each step, without gradient."""


def state_key(names: Sequence[str]) -> str:
    """What the parameter of a pair, or of more modalities, is called within its group."""
    return "__".join(names)


OBJECTIVES: Registry[type[Objective]] = Registry(
    "objective",
    "crystalign.objectives",
    {
        "clip": "crystalign.objectives.clip:Clip",
        "siglip": "crystalign.objectives.siglip:SigLip",
        "cosface": "crystalign.objectives.cosface:CosFace",
        "tensorclip": "crystalign.objectives.tensorclip:TensorClip",
        "barlow": "crystalign.objectives.barlow:BarlowTwins",
    },
    accepts=lambda found: isinstance(found, type) and issubclass(found, Objective),
)
"""Name in `objective: {kind: …}` → its class; other packages add theirs by the entry-point group."""
