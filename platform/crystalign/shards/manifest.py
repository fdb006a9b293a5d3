"""`manifest.json`: lists every file of a dataset. It is written last: a dataset without a manifest does not exist."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated

from pydantic import Field, model_validator

from crystalign import storage
from crystalign.config import Config
from crystalign.errors import ConfigError, ConflictError, DatasetError, StorageError
from crystalign.modalities.text_embedding import LanguageModelEntry
from crystalign.physics.same_structure import SameStructure
from crystalign.properties import PropertySpec
from crystalign.shards.schema import READABLE, SCHEMA_VERSION
from crystalign.storage import FileEntry

MANIFEST = "manifest.json"
LIMIT = 256 * 2**20
"""Largest size of a manifest in bytes; that of a dataset with 100 million rows has about 10 MB."""


class SourceEntry(Config):
    """A source of rows, with its licence."""

    name: str
    """Name of the database."""
    licence: str
    """SPDX identifier of the licence."""
    vintage: str = ""
    """Release of the database."""
    rows: int = Field(ge=0)
    """Number of rows from this source."""


class ShardEntry(FileEntry):
    """One shard, with the files of its large modalities."""

    rows: int = Field(ge=1)
    """Number of materials."""
    row_groups: tuple[int, ...]
    """Number of rows of each row group."""
    counts: dict[str, Annotated[int, Field(ge=0)]]
    """Modality or property column → number of rows that have it."""
    sources: tuple[SourceEntry, ...]
    """Sources of its rows."""
    siblings: dict[str, FileEntry] = {}
    """Large modality → its file, with the same rows in the same order."""
    groups: FileEntry | None = Field(default=None, exclude_if=lambda entry: entry is None)
    """File with the structure group of each row; None if the structures have not been compared."""
    language_model: LanguageModelEntry | None = Field(default=None, exclude_if=lambda entry: entry is None)
    """Language model of its text embeddings; None if there are none, or if they come from a table that names none."""

    @model_validator(mode="after")
    def _adds_up(self) -> ShardEntry:
        if min(self.row_groups, default=0) < 1 or sum(self.row_groups) != self.rows:
            raise ValueError(f"row_groups {self.row_groups} do not add up to {self.rows} rows")
        if (most := max(self.counts.values(), default=0)) > self.rows:
            raise ValueError(f"a count of {most} exceeds {self.rows} rows")
        return self


class StructureGroups(Config):
    """Result of grouping materials with the same structure by `crystalign.physics.same_structure`."""

    tolerance: SameStructure
    """Tolerances of the comparison."""
    groups: int
    """Number of different structures."""
    copies: int
    """Number of materials that are copies of another one: rows minus groups."""
    unsettled: int = 0
    """Number of comparisons that failed or took too long; their crystals count as different."""


class Manifest(Config):
    """The content of a dataset."""

    schema_version: int = SCHEMA_VERSION
    """Version of the schema of the shards."""
    created: str
    """Time of writing, UTC, ISO 8601."""
    shards: tuple[ShardEntry, ...] = Field(min_length=1)
    """The shards; their order is part of the dataset's identity."""
    modalities: dict[str, Annotated[int, Field(ge=0)]]
    """Modality → number of rows that have it."""
    properties: tuple[PropertySpec, ...] = ()
    """The property columns."""
    property_counts: dict[str, int] = {}
    """Property column → number of rows that have it."""
    sources: tuple[SourceEntry, ...]
    """Sources with their licences."""
    quarantine: tuple[FileEntry, ...] = ()
    """Files that list the refused entries with reasons."""
    quarantined: int = 0
    """Number of refused entries."""
    derived: tuple[str, ...] = ()
    """Modalities that were computed from the crystals."""
    structures: StructureGroups | None = Field(default=None, exclude_if=lambda entry: entry is None)
    """Result of comparing the structures with each other; None if they have not been compared."""

    @property
    def rows(self) -> int:
        """Number of materials."""
        return sum(shard.rows for shard in self.shards)

    @property
    def files(self) -> frozenset[str]:
        """Paths of all files that the manifest names."""
        beside = [entry for shard in self.shards for entry in (*shard.siblings.values(), shard.groups) if entry]
        return frozenset(entry.path for entry in (*self.shards, *self.quarantine, *beside))

    @property
    def licences(self) -> tuple[str, ...]:
        """All licences of the rows."""
        return tuple(sorted({source.licence for source in self.sources}))

    @property
    def language_model(self) -> LanguageModelEntry | None:
        """Language model of the text embeddings, the same for all rows; None if there are none or it is unknown."""
        return next((shard.language_model for shard in self.shards if shard.language_model is not None), None)

    def uncompared(self, uri: str) -> str | None:
        """A warning for training and evaluation if the structures have not been compared; None otherwise."""
        if self.structures is not None:
            return None
        return (
            f"the structures of {uri} have not been compared, so copies count as different materials: "
            f"`crystalign duplicates {uri}` finds them"
        )

    @property
    def sha256(self) -> str:
        """SHA-256 of the manifest without the time of writing; identifies the data."""
        content = self.model_dump(mode="json", exclude={"created"})
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def write(self, uri: str, *, expected: str | None = None) -> None:
        """Write the manifest and verify it; from then on the dataset exists.

        Args:
            uri: URI of the dataset.
            expected: `version` of the manifest that it replaces; None for a new dataset.

        Raises:
            ConflictError: another job wrote a manifest meanwhile, which is kept.
        """
        data = (self.model_dump_json(indent=1) + "\n").encode()
        try:
            storage.replace_bytes(storage.join(uri, MANIFEST), data, expected=expected)
        except ConflictError as error:
            raise _overtaken(uri, expected) from error

    @staticmethod
    def version(uri: str) -> str | None:
        """SHA-256 of the manifest file, which `write` needs to replace it; None if there is no dataset."""
        return storage.sha256_of(storage.join(uri, MANIFEST))

    @classmethod
    def refuse_changed(cls, uri: str, expected: str | None) -> None:
        """Check before `write` that no other job wrote a manifest, whose job may have deleted the files of this one.

        Raises:
            ConflictError: another job wrote a manifest meanwhile.
        """
        if cls.version(uri) != expected:
            raise _overtaken(uri, expected)

    @classmethod
    def read(cls, uri: str) -> Manifest:
        """The manifest of the dataset at `uri`.

        Raises:
            DatasetError: there is none, or it is invalid, too large or of an unknown version.
            StorageError: the store does not answer.
        """
        path = storage.join(uri, MANIFEST)
        if not storage.exists(path):
            raise DatasetError(f"no dataset at {uri}: it has no {MANIFEST}; `crystalign ingest` makes one")
        try:
            values = json.loads(storage.read_bytes(path, limit=LIMIT))
        except StorageError as error:
            raise DatasetError(f"the dataset at {uri} cannot be opened: {error}") from error
        except ValueError as error:
            raise DatasetError(f"{uri}/{MANIFEST} is not JSON: {error}; ingest the source again") from error
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


def _overtaken(uri: str, expected: str | None) -> ConflictError:
    action = "made a dataset there" if expected is None else "changed or deleted the dataset"
    return ConflictError(
        f"{uri} is left as it is: another job {action} while this one worked. Run the command again to continue from "
        "its result"
    )
