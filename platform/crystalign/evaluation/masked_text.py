"""The masked texts of a pool, and which of them cannot be told apart."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from crystalign.material import Material
from crystalign.modalities import key_columns, stable_hash
from crystalign.modalities.text import Text, TextModality
from crystalign.text.masking import mask_text


def masked_texts(materials: Sequence[Material]) -> tuple[list[Text | None], NDArray[np.int64]]:
    """The text of every material without composition and symmetry, with its equivalence keys.

    Masking takes words away and adds none, so two texts that were alike before are alike after it. The keys are
    therefore those of the whole texts and one more:

    - the key of the text itself: the words of a caption of ours; the formula of what a person wrote, for
      a title names a compound, any polymorph of which may be meant, and masking the formula does not
      tell which; and the words of the whole text;
    - the key of the structure;
    - the words that are left, but for capitals and spaces: two compounds of which no more is said than
      `Specific heat of [formula]` cannot be told apart.

    Materials that agree in any of them are alike.

    Args:
        materials: n of them, with or without a text.

    Returns:
        The masked texts, None where there is no text; and (n, 4) keys, zeros where there is no text.
    """
    texts: list[Text | None] = [material.value("text") for material in materials]
    masked = [
        None if text is None else Text(mask_text(text.description, material.crystal), generated=text.generated)
        for material, text in zip(materials, texts, strict=True)
    ]
    words = [0 if text is None else stable_hash(" ".join(text.description.split()).casefold()) for text in masked]
    return masked, np.column_stack([key_columns(TextModality, materials), np.array(words, np.int64)])
