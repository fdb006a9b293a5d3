"""Base class of encoders, which map tensors of n samples to n vectors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Self

from torch import Tensor, nn

from crystalign.config import Config
from crystalign.modalities import Inputs

Files = dict[str, bytes]
"""File name → content: files that an encoder needs besides settings and weights, such as a tokenizer."""


class Encoder(nn.Module, ABC):
    """A network from the inputs of one modality to one vector per sample.

    No encoder uses statistics across samples (no BatchNorm). The embedding of a sample therefore depends on that
    sample only, and the objective is exact for any number of workers.
    """

    width: int
    """Length of the vectors it returns."""
    lr_scales: Mapping[str, float] = MappingProxyType({})
    """Submodule → factor on the run's learning rate; 1 for submodules that are not listed."""

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
        """Make the encoder from its files, with fresh weights or, for a published network, the published ones."""
        return cls(settings)

    @classmethod
    def restore(cls, settings: Any, files: Files) -> Self:
        """Make the encoder like `build`, but without published weights, because the caller loads the weights."""
        return cls.build(settings, files)

    def files(self) -> Files:
        """Return the files that `restore` needs; they are saved in the model directory."""
        return {}
