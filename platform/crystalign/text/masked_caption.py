"""The caption of a crystal with its composition and symmetry masked, written from the facts.

It is what `crystalign.text.masking.mask_text` makes of the caption, a hundred times faster.
"""

from __future__ import annotations

from crystalign.physics.caption import bond_clause, lattice_sentences, packing_sentence
from crystalign.physics.facts import CrystalFacts, Environment
from crystalign.text.masking import mask_quantities


def masked_caption(facts: CrystalFacts, *, lengths: bool = True) -> str:
    """Packing, lattice and bonds; formula, class, elements, structure type, space group and crystal system are masked.

    Args:
        facts: the facts about the crystal.
        lengths: whether the volume per atom, lattice and bond lengths remain; otherwise they are masked, too.
    """
    sentences = [
        "[formula] is a [formula]",
        "It crystallizes in the [system] space group [group]",
        packing_sentence(facts) if lengths else mask_quantities(packing_sentence(facts)),
        *(lattice_sentences(facts) if lengths else []),
        "; ".join(masked_bond_clause(environment, lengths=lengths) for environment in facts.environments),
    ]
    return ". ".join(sentences) + "."


def masked_bond_clause(environment: Environment, *, lengths: bool = True) -> str:
    """`[element] is bonded to 6 [element] (octahedral, 2.82 Å)`."""
    clause = bond_clause(environment, symbol=lambda _: "[element]")
    return clause if lengths else mask_quantities(clause)
