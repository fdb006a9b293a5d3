"""One file = one kind of source. `open_source` says which one a path means."""

from __future__ import annotations

from collections.abc import Collection

from crystalign.sources.limits import Limits
from crystalign.sources.source import Item, Source, time_limit

__all__ = ["Item", "Limits", "Source", "open_source", "time_limit"]


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
    """The source that `location` means.

    Args:
        location: `demo`, `prototypes`, a Parquet table, JSON (`.json`, `.jsonl`), a zip or tar, or a folder of CIF,
            POSCAR, JSON and VASP output; a path or a URI.
        mapping: for a Parquet table, the YAML that says what its columns are, or the name of a shipped one.
        licence: SPDX identifier of what is read; the mapping of a table, `demo` and `prototypes` bring their own.
        name: what `Provenance.source` says; the last part of `location` without one.
        vintage: the release of the source.
        seed: of the substitutions of `demo` and `prototypes`.
        limits: bounds on what a stranger's file may cost.
        accept: reasons of `crystalign.sources.reading.OBJECTIONS`: structures that contradict their file in these
            ways are taken, with a remark.

    Raises:
        ConfigError: no such file, a table without a mapping, a mapping for something else, or an unknown reason.
    """
    from crystalign.errors import ConfigError
    from crystalign.material import Provenance
    from crystalign.sources.compression import without_suffix
    from crystalign.sources.files import FilesSource
    from crystalign.sources.pymatgen_json import PymatgenJsonSource
    from crystalign.sources.reading import OBJECTIONS
    from crystalign.sources.table import TableSource, load_mapping

    limits = limits or Limits()
    unknown = sorted(set(accept) - set(OBJECTIONS))
    if unknown:
        known = "".join(f"\n  {reason}: {meaning}" for reason, meaning in OBJECTIONS.items())
        raise ConfigError(f"no reason {unknown[0]!r} to accept; there are{known}")
    if location in {"demo", "prototypes"}:
        from crystalign.sources.demo import DemoSource
        from crystalign.sources.prototypes import PrototypeSource

        return DemoSource(limits, seed=seed) if location == "demo" else PrototypeSource(limits, seed=seed)
    is_table = location.endswith(".parquet")
    if is_table != (mapping is not None):
        problem = "needs --mapping, the YAML that says what its columns are" if is_table else "takes no --mapping"
        raise ConfigError(f"{location} {problem}; a mapping belongs to a Parquet table")
    if mapping is not None:
        return TableSource(location, load_mapping(mapping), limits)
    stem = location.rstrip("/").rsplit("/", 1)[-1].split(".")[0]
    provenance = Provenance(source=name or stem, licence=licence or "unknown", vintage=vintage)
    if without_suffix(location.lower()).endswith((".json", ".jsonl", ".ndjson")):
        return PymatgenJsonSource(location, provenance, limits, accept)
    return FilesSource(location, provenance, limits, accept)
