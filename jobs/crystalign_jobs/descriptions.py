"""Further texts about crystals in `crystalign derive`: descriptions by another program, from a Parquet table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from crystalign import storage
from crystalign.config import Config
from crystalign.errors import ConfigError, InputError
from crystalign.rejects import Reject

if TYPE_CHECKING:
    from crystalign.material import Material
    from crystalign.modalities.text import Text

COLUMNS = ("id", "description")
MAX_BYTES = 4_000_000_000
"""Largest size of the table's file."""
MAX_ROWS = 20_000_000
"""Most rows of the table."""


class Descriptions(Config):
    """A table of texts, with the columns `id` and `description`; an id may occur several times."""

    uri: str
    """URI of the Parquet file."""
    sha256: str
    """Its content: another table is another derivation."""

    @classmethod
    def open(cls, uri: str) -> Descriptions:
        """Check the table and identify it.

        Raises:
            ConfigError: it is missing, too large, not Parquet, or lacks a column.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        digest = storage.sha256_of(uri)
        if digest is None:
            raise ConfigError(f"no table of descriptions at {uri}")
        try:
            with storage.open_input(uri) as source:
                if source.size() > MAX_BYTES:
                    raise ConfigError(f"{uri} has {source.size():,} bytes; at most {MAX_BYTES:,} are read: split it")
                file = pq.ParquetFile(source)
                schema, rows = file.schema_arrow, file.metadata.num_rows
        except pa.ArrowInvalid as error:
            raise ConfigError(f"{uri} is not a Parquet table: {error}") from error
        strings = {field.name for field in schema if pa.types.is_string(field.type)}
        missing = [name for name in COLUMNS if name not in strings]
        if missing:
            raise ConfigError(f"{uri} lacks the column of strings {missing[0]!r}; it has {', '.join(schema.names)}")
        if rows > MAX_ROWS:
            raise ConfigError(f"{uri} has {rows:,} rows; at most {MAX_ROWS:,} are read: split it")
        return cls(uri=uri, sha256=digest)

    def of(self, ids: Sequence[str]) -> dict[str, list[str]]:
        """Id → descriptions in the order of the table, for those ids that it has."""
        import pyarrow.parquet as pq

        with storage.open_input(self.uri) as source:
            table = pq.read_table(source, columns=list(COLUMNS), filters=[("id", "in", set(ids))])
        found: dict[str, list[str]] = {}
        for name, words in zip(*(table[column].to_pylist() for column in COLUMNS), strict=True):
            found.setdefault(name, []).append(words or "")
        return found


def add_descriptions(
    materials: Sequence[Material], descriptions: Descriptions, rejects: list[Reject]
) -> list[Material]:
    """The materials, with their descriptions in place of earlier ones; those not in the table stay as they are.

    Args:
        materials: the rows of a shard.
        descriptions: the table.
        rejects: descriptions that are empty or too long, and those of materials without a text, are appended.
    """
    found = descriptions.of([material.id for material in materials])
    return [
        _described(material, found[material.id], rejects) if material.id in found else material
        for material in materials
    ]


def are_added(ids: Sequence[str], texts: Sequence[dict[str, Any] | None], descriptions: Descriptions) -> bool:
    """Whether the texts of a shard have all descriptions of the table that they can have."""
    found = descriptions.of(ids)
    for name, text in zip(ids, texts, strict=True):
        wanted = found.get(name, [])
        if text is not None and wanted and list(text["others"] or ()) != wanted and _fault(wanted) is None:
            return False
    return True


def _described(material: Material, texts: Sequence[str], rejects: list[Reject]) -> Material:
    """The material with its descriptions; without them, and with a reject, if they cannot be added."""
    text: Text | None = material.value("text")
    fault = _fault(texts)
    if text is None:
        fault = InputError("there is no text that a description could be added to; derive `text` too", reason="no-text")
    if fault is None and text is not None:
        return replace(material, modalities={**material.modalities, "text": replace(text, others=tuple(texts))})
    assert fault is not None
    rejects.append(Reject(material.id, "derive description", fault.reason, str(fault), material.provenance.reference))
    return material


def _fault(texts: Sequence[str]) -> InputError | None:
    """What is wrong with the descriptions of one crystal."""
    from crystalign.modalities.text import Text

    if not all(words.strip() for words in texts):
        return InputError("a description is empty", reason="empty-text")
    try:
        Text("a crystal", others=tuple(texts))
    except InputError as error:
        return error
    return None
