"""Sources of crystals: one file per kind, and `open_source`, which recognises the kind of a location.

To add a kind, write a file that ends in `KIND = SourceKind(recognises, opens)` and a line in `SOURCES`. Another
package adds its own by an entry point in the group `crystalign.sources`, a notebook by `SOURCES.register`.
"""

from __future__ import annotations

from collections.abc import Collection

from crystalign.errors import ConfigError
from crystalign.limits import Limits
from crystalign.material import Provenance
from crystalign.registry import Registry
from crystalign.sources.source import Item, Source, SourceKind, SourceRequest

__all__ = ["SOURCES", "Item", "Source", "SourceKind", "SourceRequest", "open_source"]

SOURCES = Registry[SourceKind](
    "source",
    "crystalign.sources",
    {
        "demo": "crystalign.sources.demo:KIND",
        "prototypes": "crystalign.sources.prototypes:KIND",
        "table": "crystalign.sources.table:KIND",
        "gnome": "crystalign.sources.gnome:KIND",
        "alexandria": "crystalign.sources.alexandria:KIND",
        "cod": "crystalign.sources.cod:KIND",
        "json": "crystalign.sources.pymatgen_json:KIND",
        "files": "crystalign.sources.files:KIND",
    },
    accepts=lambda entry: isinstance(entry, SourceKind),
)
"""Every kind of source by name."""
DEFAULT = "files"
"""Default kind of a location that no other kind recognises."""


def open_source(
    location: str,
    *,
    mapping: str | None = None,
    licence: str = "",
    name: str = "",
    vintage: str = "",
    seed: int = 0,
    limits: Limits | None = None,
    accept: Collection[str] = (),
) -> Source:
    """Open the source at a location.

    Args:
        location: `demo`, `prototypes`, a Parquet table, JSON (`.json`, `.jsonl`), a zip or tar, or a folder of CIF,
            POSCAR, JSON and VASP output; a path or a URI; `gnome:`, `alexandria:` or `cod:` with the folder of the
            files of that database; or a location that a registered kind recognises.
        mapping: for a Parquet table, the YAML that says what its columns are, or the name of a shipped one.
        licence: SPDX licence of the data; the mapping of a table, `demo` and `prototypes` state their own.
        name: value of `Provenance.source`; by default the last part of `location`.
        vintage: release of the source.
        seed: seed of the substitutions of `demo` and `prototypes`.
        limits: size limits for untrusted files.
        accept: reasons of `crystalign.readers.structures.reading.OBJECTIONS`: structures that contradict their file in
            these ways are accepted, with a remark.

    Raises:
        ConfigError: no such file, a table without a mapping, a mapping for something else, an unknown reason, or a
            location that two kinds recognise.
    """
    from crystalign.readers.structures.reading import OBJECTIONS

    unknown = sorted(set(accept) - set(OBJECTIONS))
    if unknown:
        reasons = "".join(f"\n  {reason}: {meaning}" for reason, meaning in OBJECTIONS.items())
        raise ConfigError(f"no reason {unknown[0]!r} to accept; there are{reasons}")
    kind = SOURCES[_kind_of(location)]
    if kind.needs_mapping != (mapping is not None):
        needs, takes = "needs --mapping, the YAML that says what its columns are", "takes no --mapping"
        problem = needs if kind.needs_mapping else takes
        raise ConfigError(f"{location} {problem}; a mapping belongs to a Parquet table")
    stem = location.rstrip("/").rsplit("/", 1)[-1].split(".")[0]
    provenance = Provenance(source=name or stem, licence=licence or "unknown", vintage=vintage)
    return kind.opens(SourceRequest(location, mapping, provenance, seed, limits or Limits(), frozenset(accept)))


def _kind_of(location: str) -> str:
    """Return the name of the kind that recognises a location, or `DEFAULT`.

    Raises:
        ConfigError: more than one kind does.
    """
    names = [name for name, kind in SOURCES.items() if kind.recognises(location)]
    if len(names) > 1:
        raise ConfigError(f"{location} is recognised by the sources {' and '.join(names)}: uninstall one of them")
    return names[0] if names else DEFAULT
