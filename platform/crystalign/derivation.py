"""Modalities that follow from the crystal alone: computed when a dataset is extended, and when a model is asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from crystalign.errors import InputError
from crystalign.sources.source import time_limit, unforeseen

if TYPE_CHECKING:
    from crystalign.crystal import Crystal
    from crystalign.material import Material
    from crystalign.shards.writer import Reject


def extended(material: Material, modalities: Sequence[str], max_seconds: float, rejects: list[Reject]) -> Material:
    """The material with what follows from its crystal and it lacks of `modalities`; `rejects` gets what fails."""
    from crystalign.shards.writer import Reject

    found: dict[str, Any] = {}
    for name in modalities:
        if name not in DERIVATIONS or material.value(name) is not None:
            continue
        try:
            with time_limit(max_seconds, f"{name} of {material.id}"):
                found[name] = DERIVATIONS[name](material.crystal)
        except InputError as error:
            reason, message = error.reason, str(error)
        except Exception as error:  # noqa: BLE001 (one crystal must not stop the others)
            reason, message = unforeseen(error)
        else:
            continue
        rejects.append(Reject(material.id, f"derive {name}", reason, message, material.provenance.reference))
    return replace(material, modalities={**material.modalities, **found})


def _xrd(crystal: Crystal) -> Any:
    from crystalign.physics.diffraction import powder_peaks

    return powder_peaks(crystal)


def _text(crystal: Crystal) -> Any:
    from crystalign.modalities.text import Text
    from crystalign.physics.caption import caption
    from crystalign.physics.symmetry import symmetry

    return Text(caption(crystal, symmetry(crystal)), generated=True)


def _composition(crystal: Crystal) -> Any:
    from crystalign.modalities.composition import Composition

    return Composition.of(crystal)


def _image(crystal: Crystal) -> Any:
    from crystalign.modalities.image import Picture
    from crystalign.physics.picture import draw_crystal

    return Picture(draw_crystal(crystal))


def _tabular(crystal: Crystal) -> Any:
    from crystalign.modalities.vector import Vector
    from crystalign.physics.descriptors import descriptors

    return Vector(descriptors(crystal))


DERIVATIONS: Mapping[str, Callable[[Crystal], Any]] = {
    "xrd": _xrd,
    "text": _text,
    "composition": _composition,
    "image": _image,
    "tabular": _tabular,
}
"""Modality → what computes its value."""
