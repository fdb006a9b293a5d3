"""What an encoder is: tensors of n samples in, n vectors out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Self

from torch import Tensor, nn

from crystalign.config import Config
from crystalign.modalities import Inputs

Files = dict[str, bytes]
"""File name → content: what an encoder needs besides settings and weights, such as a tokenizer."""


class Encoder(nn.Module, ABC):
    """A network from the inputs of one modality to one vector per sample.

    No encoder has statistics across samples (no BatchNorm): the embedding of a sample depends on
    that sample alone, and the objective is exact at any number of workers.
    """

    width: int
    """Length of the vectors it returns."""
    lr_scales: Mapping[str, float] = MappingProxyType({})
    """Submodule → its learning rate in units of the run's; what is not named learns at the run's."""

    class Settings(Config):
        """The size of the network; each encoder extends it."""

    def __init__(self, settings: Config) -> None:
        super().__init__()
        self.settings = settings

    @abstractmethod
    def forward(self, inputs: Inputs) -> Tensor:
        """(n, width) vectors of the n samples in `inputs`."""

    # --- encoders with files: a tokenizer, a published network's configuration --------------------------------------

    @classmethod
    def prepare(cls, settings: Any, values: Sequence[Any]) -> Files:  # noqa: ARG003
        """Make the encoder's files from the training values of its modality; most encoders have none."""
        return {}

    @classmethod
    def build(cls, settings: Any, files: Files) -> Self:  # noqa: ARG003
        """The encoder with its files and fresh (or, for a published network, published) weights."""
        return cls(settings)

    @classmethod
    def restore(cls, settings: Any, files: Files) -> Self:
        """The encoder whose weights the caller will load: like `build`, but reads no published weights."""
        return cls.build(settings, files)

    def files(self) -> Files:
        """The files that a model directory must hold for `restore`."""
        return {}
