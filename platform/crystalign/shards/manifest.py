"""`manifest.json`: names every file of a dataset; written last. A dataset without one does not exist."""

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
"""Bytes; a manifest of 100 million rows has about 10 MB."""


class SourceEntry(Config):
    """Where rows come from, and under which licence."""

    name: str
    """The database."""
    licence: str
    """SPDX identifier."""
    vintage: str = ""
    """Its release."""
    rows: int = Field(ge=0)
    """How many rows come from it."""


class ShardEntry(FileEntry):
    """One shard with its heavy modalities beside it."""

    rows: int = Field(ge=1)
    """Materials."""
    row_groups: tuple[int, ...]
    """Rows of each row group."""
    counts: dict[str, Annotated[int, Field(ge=0)]]
    """Modality or property column → rows that have it."""
    sources: tuple[SourceEntry, ...]
    """Where its rows come from."""
    siblings: dict[str, FileEntry] = {}
    """Heavy modality → its file, the same rows in the same order."""
    groups: FileEntry | None = Field(default=None, exclude_if=lambda entry: entry is None)
    """The structure group of each row; None where the structures have not been compared."""
    language_model: LanguageModelEntry | None = Field(default=None, exclude_if=lambda entry: entry is None)
    """Who made its text embeddings; None where it has none, or where a table brought them without saying."""

    @model_validator(mode="after")
    def _adds_up(self) -> ShardEntry:
        if min(self.row_groups, default=0) < 1 or sum(self.row_groups) != self.rows:
            raise ValueError(f"row_groups {self.row_groups} do not add up to {self.rows} rows")
        if (most := max(self.counts.values(), default=0)) > self.rows:
            raise ValueError(f"a count of {most} exceeds {self.rows} rows")
        return self


class StructureGroups(Config):
    """Materials that are the same structure, found by `crystalign.physics.same_structure`."""

    tolerance: SameStructure
    """How far they may differ."""
    groups: int
    """Different structures."""
    copies: int
    """Materials whose structure stands for another one's group: rows less groups."""
    unsettled: int = 0
    """Comparisons that failed or took too long; the crystals count as different."""


class Manifest(Config):
    """The content of a dataset."""

    schema_version: int = SCHEMA_VERSION
    """Of the shards."""
    created: str
    """UTC, ISO 8601."""
    shards: tuple[ShardEntry, ...] = Field(min_length=1)
    """In order; the order is part of the dataset's identity."""
    modalities: dict[str, Annotated[int, Field(ge=0)]]
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
    structures: StructureGroups | None = Field(default=None, exclude_if=lambda entry: entry is None)
    """What was found when the structures were compared with each other; None where nobody has."""

    @property
    def rows(self) -> int:
        """Materials in all."""
        return sum(shard.rows for shard in self.shards)

    @property
    def files(self) -> frozenset[str]:
        """Paths of every file it names."""
        beside = [entry for shard in self.shards for entry in (*shard.siblings.values(), shard.groups) if entry]
        return frozenset(entry.path for entry in (*self.shards, *self.quarantine, *beside))

    @property
    def licences(self) -> tuple[str, ...]:
        """Every licence of its rows."""
        return tuple(sorted({source.licence for source in self.sources}))

    @property
    def language_model(self) -> LanguageModelEntry | None:
        """Who made the text embeddings, the same for all rows; None where there are none or it is not recorded."""
        return next((shard.language_model for shard in self.shards if shard.language_model is not None), None)

    def uncompared(self, uri: str) -> str | None:
        """What to tell whoever trains on this dataset or evaluates on it, if nobody has compared its structures."""
        if self.structures is not None:
            return None
        return (
            f"the structures of {uri} have not been compared, so that copies count as different materials: "
            f"`crystalign duplicates {uri}` finds them"
        )

    @property
    def sha256(self) -> str:
        """Identity of the data: of everything but the time of writing."""
        content = self.model_dump(mode="json", exclude={"created"})
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def write(self, uri: str, *, expected: str | None = None) -> None:
        """Put it in place, verified; from now on the dataset exists.

        Args:
            uri: of the dataset.
            expected: `version` of the manifest that it replaces; None for a new dataset.

        Raises:
            ConflictError: another job wrote a manifest in the meantime; that one is kept.
        """
        data = (self.model_dump_json(indent=1) + "\n").encode()
        try:
            storage.replace_bytes(storage.join(uri, MANIFEST), data, expected=expected)
        except ConflictError as error:
            raise _overtaken(uri, expected) from error

    @staticmethod
    def version(uri: str) -> str | None:
        """SHA-256 of the manifest's bytes, which `write` takes to replace it; None where there is no dataset."""
        return storage.sha256_of(storage.join(uri, MANIFEST))

    @classmethod
    def refuse_changed(cls, uri: str, expected: str | None) -> None:
        """Find out early what `write` would refuse: files that another job's manifest does not name may be gone.

        Raises:
            ConflictError: another job wrote a manifest since.
        """
        if cls.version(uri) != expected:
            raise _overtaken(uri, expected)

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


def _overtaken(uri: str, expected: str | None) -> ConflictError:
    what = "made a dataset there" if expected is None else "changed or deleted the dataset"
    return ConflictError(
        f"{uri} is left as it is: another job {what} while this one worked. Run the command again to build upon what "
        "is there now"
    )
