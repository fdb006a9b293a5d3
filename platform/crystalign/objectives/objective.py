"""`Objective`: a contrastive loss with its settings, aligned pairs, trained parameters and value.

To add one, write a file here and a line in `OBJECTIVES`, or use an entry point of another package.

Importing the settings of an objective does not import torch, so a model's description can be read without it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from crystalign.config import Tagged
from crystalign.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor, nn

Names = tuple[str, ...]
"""A group of modalities that an objective aligns with each other."""
Pair = tuple[str, str]
"""A pair of modalities."""


class Loss(NamedTuple):
    """Value of an objective on one rank."""

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

    An implementation must be exact for any number of workers: `loss` receives the rows of this rank and returns a
    share whose mean over the ranks is the loss of the global batch (`crystalign.objectives.gather`).
    """

    @classmethod
    def kinds(cls) -> Registry[type[Any]]:
        """Return the registry `OBJECTIVES`."""
        return OBJECTIVES

    def check(self, modalities: Names) -> None:
        """Refuse a model that this objective cannot align.

        Args:
            modalities: the model's modalities, in its order.

        Raises:
            ValueError: the model cannot be aligned; the message says why.
        """

    @abstractmethod
    def aligned(self, modalities: Names) -> tuple[Pair, ...]:
        """Return the pairs that are trained, directly or in a joint loss; evaluation reports them as trained."""

    def without(self, removed: Collection[str]) -> Self:  # noqa: ARG002
        """Return the settings for a model that lacks some modalities; only lists of modalities change."""
        return self

    def parameters(self, modalities: Names) -> dict[str, nn.Module]:  # noqa: ARG002
        """Make the objective's own trained modules; none by default.

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
        """Compute the loss of a batch.

        Args:
            parameters: the modules that `parameters` made, in their current state.
            embeddings: modality → (b, D), this rank's unit vectors; zero where absent. b is the same on every rank.
            present: modality → (b,) bool.
            keys: modality → (b, K) int64; two rows with an equal key in any column look alike in the modality. Claims
                and facts of texts have entries of their own: `crystalign.objectives.likeness`.

        Returns:
            This rank's share, whose mean over ranks is the global loss.
        """

    def logit_scales(self, parameters: Mapping[str, nn.Module]) -> dict[Names, Tensor]:  # noqa: ARG002
        """Pair (or tuple of all modalities) → scalar 1/τ, for logging; empty if there is no temperature."""
        return {}

    def constrain(self, parameters: Mapping[str, nn.Module]) -> None:
        """Clamp its parameters to their bounds, in place; called after each step, without gradients."""


def state_key(names: Sequence[str]) -> str:
    """Name of the parameter of a pair, or of more modalities, within its group."""
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
    accepts=lambda entry: isinstance(entry, type) and issubclass(entry, Objective),
)
"""Registry of objectives: name in `objective: {kind: …}` → class."""
