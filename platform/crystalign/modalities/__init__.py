"""Registry of modalities. To add one, write a file here and a line in `_CLASSES`, or a package with an entry point.

The entry point names the class, under the name that the class has:

    [project.entry-points."crystalign.modalities"] raman = "my_package.raman:RamanModality"
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from crystalign.modalities.modality import Claims, Features, Inputs, Modality, key_columns, stable_hash
from crystalign.modalities.query import QuerySpec
from crystalign.registry import Registry

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
"""Built-in modalities, in display order."""


def _is_modality(entry: object) -> bool:
    return isinstance(entry, type) and issubclass(entry, Modality)


MODALITIES: Registry[type[Modality[Any]]] = Registry(
    "modality", "crystalign.modalities", _CLASSES, accepts=_is_modality
)
"""All modalities: built-in ones, then those of other packages."""


def modality_class(name: str) -> type[Modality[Any]]:
    """Return the class of a modality.

    Raises:
        ConfigError: no such modality.
    """
    return MODALITIES[name]


def query_specs() -> Iterator[tuple[str, QuerySpec]]:
    """Return the modalities that can be used as a query, with their `QuerySpec`."""
    for name, cls in MODALITIES.items():
        if cls.query is not None:
            yield name, cls.query


def make_modality(name: str, settings: dict[str, Any] | None = None) -> Modality[Any]:
    """Make a modality with validated settings.

    Raises:
        ConfigError: no such modality, or a setting it does not have.
    """
    cls = modality_class(name)
    return cls(cls.Settings.from_mapping(settings or {}, origin=f"the settings of modality {name!r}"))


__all__ = [
    "MODALITIES",
    "NAMES",
    "Claims",
    "Features",
    "Inputs",
    "Modality",
    "key_columns",
    "make_modality",
    "modality_class",
    "query_specs",
    "stable_hash",
]
