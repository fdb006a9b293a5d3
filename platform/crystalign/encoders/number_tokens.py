"""Numbers in a text as values: one token for each, whose embedding follows from the size of the number.

A tokenizer that splits 2.82 into digits hides that it lies between 2.80 and 2.85. Here the number becomes the token
`[NUM]`, and W φ(x) is added to the embedding of this token, as in xVal (Golkar et al., arXiv:2310.02989), with Fourier
features of the logarithm instead of the number itself, because lengths and volumes span decades:

    φ(x) = (sign x, u, sin 2π 2ᵏu, cos 2π 2ᵏu  for k = −2 … 6),  u = log₁₀ max(|x|, 10⁻⁶)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from crystalign.text.quantities import find_quantities

NUMBER = "[NUM]"
"""The token that stands for a number."""
_OCTAVES = range(-2, 7)
_SMALLEST = 1e-6


def split_numbers(text: str) -> tuple[str, list[float]]:
    """Replace measured numbers by `[NUM]`, and return their values in order.

    A number counts as measured if it has decimals or a unit follows: `2.82`, `10 Å`. All others stay in the text:
    counts, indices of formulas, numbers of space groups.
    """
    text = text.replace(NUMBER, "NUM")
    values: list[float] = []
    pieces, at = [], 0
    for match in find_quantities(text):
        values.append(float(match[0].replace("−", "-")))
        pieces += [text[at : match.start()], NUMBER]
        at = match.end()
    return "".join([*pieces, text[at:]]), values


class NumberEmbedding(nn.Module):
    """W φ(x) for the tokens that stand for numbers; 0 for the others.

    Args:
        channels: channels of a token embedding.
        token: id of `[NUM]`.
    """

    def __init__(self, channels: int, token: int) -> None:
        super().__init__()
        self.token = token
        self.linear = nn.Linear(2 + 2 * len(_OCTAVES), channels)

    def forward(self, tokens: Tensor, values: Sequence[Sequence[float]]) -> Tensor:
        """(n, T) token ids and the numbers of each text, in order → (n, T, C).

        Numbers after the last token of a text that was cut off are ignored.
        """
        at = tokens == self.token  # (n, T)
        dtype = self.linear.weight.dtype
        sizes = torch.zeros(tokens.shape, dtype=torch.float64)
        for row, (count, numbers) in enumerate(zip(at.sum(dim=1).tolist(), values, strict=True)):
            sizes[row, at[row].cpu()] = torch.tensor(numbers[:count], dtype=torch.float64)
        u = sizes.abs().clamp(min=_SMALLEST).log10()  # (n, T)
        angles = [2 * torch.pi * 2.0**k * u for k in _OCTAVES]
        features = torch.stack([sizes.sign(), u, *(a.sin() for a in angles), *(a.cos() for a in angles)], dim=-1)
        embedded: Tensor = self.linear(features.to(tokens.device, dtype)) * at[..., None].to(dtype)  # (n, T, C)
        return embedded
