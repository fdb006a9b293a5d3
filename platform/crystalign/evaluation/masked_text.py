"""Masked texts of a pool, and which of them are indistinguishable."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from crystalign.material import Material
from crystalign.modalities import key_columns, stable_hash
from crystalign.modalities.text import Text, TextModality
from crystalign.text.masking import mask_text


def masked_texts(materials: Sequence[Material]) -> dict[str, tuple[list[Text | None], NDArray[np.int64]]]:
    """Mask composition and symmetry in the text of every material, and compute equivalence keys.

    There are two versions: `masked`, without any number that gives away the volume or the lattice, and `numbers`,
    which keeps volumes and bond lengths.

    Masking only removes words, so texts that were equivalent before are equivalent afterwards. The keys are
    those of the original texts and one more:

    - the keys of the text: for our captions, the words; for a text by a person, the formula, because the title
      of a paper may refer to any polymorph of the compound; and the words of the whole text;
    - the key of the structure;
    - the words that remain, ignoring case and spaces: two texts that both read `Specific heat of [formula]`
      are indistinguishable.

    Materials that agree in any key are equivalent.

    Args:
        materials: n materials, with or without a text.

    Returns:
        Name of the version → the masked texts, None for materials without a text; and (n, 4) keys, zeros for
        materials without a text.
    """
    own_keys = key_columns(TextModality, materials)
    versions = {}
    for name, lengths in (("masked", False), ("numbers", True)):
        masked = [_masked(material, lengths=lengths) for material in materials]
        words = [0 if text is None else stable_hash(" ".join(text.description.split()).casefold()) for text in masked]
        versions[name] = masked, np.column_stack([own_keys, np.array(words, np.int64)])
    return versions


def _masked(material: Material, *, lengths: bool) -> Text | None:
    text: Text | None = material.value("text")
    if text is None:
        return None
    return Text(mask_text(text.description, material.crystal, lengths=lengths), generated=text.generated)
