"""A network that reads Raman spectra, as a package from elsewhere would bring it."""

from __future__ import annotations

from torch import Tensor, nn

from crystalign.config import Config
from crystalign.encoders import EncoderEntry
from crystalign.encoders.encoder import Encoder
from crystalign.modalities import Inputs


class RamanNetwork(Encoder):
    """One layer."""

    class Settings(Config):
        """Its size."""

        width: int = 8
        """Length of the vectors."""

    settings: Settings

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.width = settings.width
        self.layer = nn.Linear(64, settings.width)

    def forward(self, inputs: Inputs) -> Tensor:
        return self.layer(inputs["dos"])


ENTRY = EncoderEntry("raman", "raman_network:RamanNetwork", "A test of this project")
