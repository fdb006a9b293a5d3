"""Heads that map a material's vector to predictions."""

from __future__ import annotations

from torch import Tensor, nn

from crystalign.finetuning.network.config import HeadConfig
from crystalign.modalities import Inputs


class VectorHead(nn.Module):
    """Linear layers with SiLU between them; a single linear layer if `hidden` is empty."""

    def __init__(self, width: int, outputs: int, hidden: tuple[int, ...] = (), dropout: float = 0.0) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for size in hidden:
            layers += [nn.Linear(width, size), nn.SiLU(), nn.Dropout(dropout)]
            width = size
        self.layers = nn.Sequential(*layers, nn.Linear(width, outputs))

    def forward(self, vectors: Tensor, crystals: Inputs | None = None) -> Tensor:  # noqa: ARG002 (as every head)
        """Map (n, width) → (n, outputs); the crystals are not used."""
        outputs: Tensor = self.layers(vectors)
        return outputs


def vector_head(config: HeadConfig, width: int, outputs: int) -> VectorHead:
    """Make a head that only uses the vectors."""
    hidden = config.hidden if config.kind == "mlp" else ()
    return VectorHead(width, outputs, hidden, config.dropout)
