"""`manifest.json`: names every file of a dataset; written last. A dataset without one does not exist."""

from __future__ import annotations

import hashlib
import json

from pydantic import Field

from crystalign import storage
from crystalign.config import Config
from crystalign.errors import ConfigError, DatasetError, StorageError
from crystalign.modalities.text_embedding import LanguageModelEntry
from crystalign.properties import PropertySpec
from crystalign.shards.schema import READABLE, SCHEMA_VERSION
from crystalign.storage import FileEntry

MANIFEST = "manifest.json"
LIMIT = 256 * 2**20
"""Bytes; a manifest of 100 million rows has about 10 MB."""


class SourceEntry(Config):
    """Where rows come from, and under which licence."""

    name: str
    """The database."""
    licence: str
    """SPDX identifier."""
    vintage: str = ""
    """Its release."""
    rows: int
    """How many rows come from it."""


class ShardEntry(FileEntry):
    """One shard with its heavy modalities beside it."""

    rows: int
    """Materials."""
    row_groups: tuple[int, ...]
    """Rows of each row group."""
    counts: dict[str, int]
    """Modality or property column → rows that have it."""
    sources: tuple[SourceEntry, ...]
    """Where its rows come from."""
    siblings: dict[str, FileEntry] = {}
    """Heavy modality → its file, the same rows in the same order."""
    language_model: LanguageModelEntry | None = Field(default=None, exclude_if=lambda entry: entry is None)
    """Who made its text embeddings; None where it has none, or where a table brought them without saying."""


class Manifest(Config):
    """The content of a dataset."""

    schema_version: int = SCHEMA_VERSION
    """Of the shards."""
    created: str
    """UTC, ISO 8601."""
    shards: tuple[ShardEntry, ...]
    """In order; the order is part of the dataset's identity."""
    modalities: dict[str, int]
    """Modality → rows that have it."""
    properties: tuple[PropertySpec, ...] = ()
    """The property columns."""
    property_counts: dict[str, int] = {}
    """Property column → rows that have it."""
    sources: tuple[SourceEntry, ...]
    """Sources with their licences."""
    quarantine: tuple[FileEntry, ...] = ()
    """Files that list what was refused, and why."""
    quarantined: int = 0
    """How much was refused."""
    derived: tuple[str, ...] = ()
    """Modalities that were computed from the crystals."""

    @property
    def rows(self) -> int:
        """Materials in all."""
        return sum(shard.rows for shard in self.shards)

    @property
    def licences(self) -> tuple[str, ...]:
        """Every licence of its rows."""
        return tuple(sorted({source.licence for source in self.sources}))

    @property
    def language_model(self) -> LanguageModelEntry | None:
        """Who made the text embeddings, the same for all rows; None where there are none or it is not recorded."""
        return next((shard.language_model for shard in self.shards if shard.language_model is not None), None)

    @property
    def sha256(self) -> str:
        """Identity of the data: of everything but the time of writing."""
        content = self.model_dump(mode="json", exclude={"created"})
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def write(self, uri: str) -> None:
        """Put it in place, verified; from now on the dataset exists."""
        storage.write_bytes(storage.join(uri, MANIFEST), (self.model_dump_json(indent=1) + "\n").encode())

    @classmethod
    def read(cls, uri: str) -> Manifest:
        """The manifest of the dataset at `uri`.

        Raises:
            DatasetError: there is none, it is no manifest, too large, or of a version that is not known.
            StorageError: the store does not answer.
        """
        path = storage.join(uri, MANIFEST)
        if not storage.exists(path):
            raise DatasetError(f"no dataset at {uri}: it has no {MANIFEST}. `crystalign ingest` makes one")
        try:
            values = json.loads(storage.read_bytes(path, limit=LIMIT))
        except StorageError as error:
            raise DatasetError(f"the dataset at {uri} cannot be opened: {error}") from error
        except ValueError as error:
            raise DatasetError(f"{uri}/{MANIFEST} is not JSON: {error}; the dataset must be made again") from error
        version = values.get("schema_version") if isinstance(values, dict) else None
        if version not in READABLE:
            raise DatasetError(
                f"{uri} has schema version {version}, this Crystalign reads {' and '.join(map(str, READABLE))}; "
                "use the Crystalign that wrote it, or ingest again"
            )
        try:
            return cls.from_mapping(values, origin=f"{uri}/{MANIFEST}")
        except ConfigError as error:
            raise DatasetError(str(error)) from error
