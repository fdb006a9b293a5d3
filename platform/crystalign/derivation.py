"""Compute modalities that follow from the crystal and its properties, for datasets and for queries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from crystalign.errors import InputError
from crystalign.limits import time_limit
from crystalign.modalities import modality_class
from crystalign.modalities.query import resolved
from crystalign.rejects import Reject, unforeseen

if TYPE_CHECKING:
    from crystalign.material import Material


def extended(
    material: Material,
    modalities: Sequence[str],
    max_seconds: float,
    rejects: list[Reject],
    *,
    refresh: bool = False,
) -> Material:
    """Add those of `modalities` that can be computed from the crystal and are missing.

    Args:
        material: the material.
        modalities: names of modalities; those that do not follow from the crystal are skipped.
        max_seconds: time limit for each modality.
        rejects: failures are appended here.
        refresh: compute generated texts without facts, which earlier releases wrote, again. The embedding of a text
            that this changes is removed.

    Returns:
        The extended material.
    """
    computed: dict[str, Any] = {}
    for name in modalities:
        compute = derivation_of(name)
        value = material.value(name)
        if compute is None or (value is not None and not (refresh and _lacks_facts(value))):
            continue
        try:
            with time_limit(max_seconds, f"{name} of {material.id}"):
                computed[name] = compute(material)
        except InputError as error:
            reason, message = error.reason, str(error)
        except Exception as error:  # noqa: BLE001 (one crystal must not stop the others)
            reason, message = unforeseen(error)
        else:
            continue
        rejects.append(Reject(material.id, f"derive {name}", reason, message, material.provenance.reference))
    kept = dict(material.modalities)
    if "text" in kept and "text" in computed and kept["text"].description != computed["text"].description:
        kept.pop("text_embedding", None)
    return replace(material, modalities={**kept, **computed})


def derivation_of(modality: str) -> Callable[[Material], Any] | None:
    """The function that computes a modality of a material; None if the modality does not follow from its crystal.

    Raises:
        ConfigError: there is no such modality.
    """
    target = modality_class(modality).derived_by
    compute: Callable[[Material], Any] | None = None if target is None else resolved(target)
    return compute


def _lacks_facts(value: Any) -> bool:
    from crystalign.modalities.text import Text

    return isinstance(value, Text) and value.generated and value.facts_json is None


def xrd_of(material: Material) -> Any:
    """The peaks of the crystal's powder pattern."""
    from crystalign.physics.diffraction import powder_peaks

    return powder_peaks(material.crystal)


def text_of(material: Material) -> Any:
    """The caption of the crystal, with the facts that other texts about it can state."""
    from crystalign.modalities.text import Text
    from crystalign.physics.caption import caption_of
    from crystalign.physics.facts import crystal_facts
    from crystalign.physics.symmetry import symmetry
    from crystalign.text.property_words import verdicts

    facts = crystal_facts(material.crystal, symmetry(material.crystal))
    words = verdicts(material.properties, facts.density)
    facts = facts.model_copy(update={"property_words": words.true, "wrong_property_words": words.false})
    return Text(caption_of(facts), generated=True, facts_json=facts.model_dump_json())


def composition_of(material: Material) -> Any:
    """The composition of the crystal."""
    from crystalign.modalities.composition import Composition

    return Composition.of(material.crystal)


def image_of(material: Material) -> Any:
    """A picture of the crystal."""
    from crystalign.modalities.image import Picture
    from crystalign.physics.picture import draw_crystal

    return Picture(draw_crystal(material.crystal))


def tabular_of(material: Material) -> Any:
    """The descriptors of the crystal."""
    from crystalign.modalities.vector import Vector
    from crystalign.physics.descriptors import descriptors

    return Vector(descriptors(material.crystal))
