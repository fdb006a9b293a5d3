"""The modalities by name. Adding one is a file here and a line in `_CLASSES`."""

from __future__ import annotations

import functools
import importlib
from typing import Any

from crystalign.errors import ConfigError
from crystalign.modalities.modality import Features, Inputs, Modality, key_columns, stable_hash

_CLASSES = {
    "crystal": "crystalign.modalities.crystal:CrystalModality",
    "dos": "crystalign.modalities.dos:DosModality",
    "charge_density": "crystalign.modalities.charge_density:ChargeDensityModality",
    "xrd": "crystalign.modalities.xrd:XrdModality",
    "text": "crystalign.modalities.text:TextModality",
    "composition": "crystalign.modalities.composition:CompositionModality",
    "image": "crystalign.modalities.image:ImageModality",
    "tabular": "crystalign.modalities.tabular:TabularModality",
    "text_embedding": "crystalign.modalities.text_embedding:TextEmbeddingModality",
    "phonon_dos": "crystalign.modalities.phonon_dos:PhononDosModality",
}

NAMES = tuple(_CLASSES)
"""Every modality, in the order in which tables print them."""


@functools.cache
def modality_class(name: str) -> type[Modality[Any]]:
    """The class of a modality.

    Raises:
        ConfigError: no such modality.
    """
    if name not in _CLASSES:
        message = f"no modality {name!r}; there are {', '.join(NAMES)}"
        raise ConfigError(message)
    module, _, attribute = _CLASSES[name].partition(":")
    found: type[Modality[Any]] = getattr(importlib.import_module(module), attribute)
    return found


def make_modality(name: str, settings: dict[str, Any] | None = None) -> Modality[Any]:
    """A modality with validated settings.

    Raises:
        ConfigError: no such modality, or a setting it does not have.
    """
    cls = modality_class(name)
    return cls(cls.Settings.from_mapping(settings or {}, origin=f"the settings of modality {name!r}"))


__all__ = ["NAMES", "Features", "Inputs", "Modality", "key_columns", "make_modality", "modality_class", "stable_hash"]
