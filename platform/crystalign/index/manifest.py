"""The manifest of an index: model, dataset and segments, each with its checksum.

`manifest.json` is the current version of an index. `versions` says how another version takes its place.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any, Literal, Self

import pydantic
from pydantic import model_validator

from crystalign import storage
from crystalign.config import Config
from crystalign.errors import DatasetError, StorageError
from crystalign.index.filter_fields import PREFIX, Field, Fields, make_fields, shortest_names
from crystalign.index.lexical import Lexicon
from crystalign.index.recall import TARGET, RecallPoint
from crystalign.index.vector_store import DEFAULT_KIND
from crystalign.material import HYPOTHETICAL
from crystalign.properties import PredictedProperty, PropertySpec

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
_NOT_CONTENT = {"created", "model_uri", "dataset_uri", "number", "parent", "earlier", "change"}
_ADDED: dict[str, Any] = {
    "kind": DEFAULT_KIND,
    "lexicon": None,
    "has_facts": False,
    "has_hypothetical": False,
    "predictions": [],
    "store": [],
    "recall": [],
    "target_recall": TARGET,
    "added_datasets": [],
}
"""Fields that earlier releases lack, with their defaults: they are left out of the version, which so stays the same."""
_ADDED_TO_SEGMENTS: dict[str, Any] = {
    "store": [],
    "words": None,
    "kind": None,
    "removed": None,
    "removed_rows": 0,
    "dataset": 0,
}


class SegmentEntry(storage.FileEntry):
    """One immutable file of vectors and metadata."""

    rows: int = pydantic.Field(ge=0)
    """Number of vectors."""
    store: tuple[storage.FileEntry, ...] = ()
    """Additional files of its vector store."""
    words: storage.FileEntry | None = None
    """File of the words of its texts; None if the dataset has no texts."""
    kind: str | None = None
    """Name of its vector store; None: that of the index. Rows that are added to an approximate index are exact."""
    removed: storage.FileEntry | None = None
    """Bitmap of the rows that were removed: row r is bit r % 8 of byte r // 8; None if there are none."""
    removed_rows: int = pydantic.Field(default=0, ge=0)
    """Number of these rows."""
    dataset: int = pydantic.Field(default=0, ge=0)
    """Number of the dataset that holds its materials: 0 for that of the index, n for the n-th of `added_datasets`."""

    @property
    def live_rows(self) -> int:
        """Number of rows that are searched."""
        return self.rows - self.removed_rows


class AddedDataset(Config):
    """A further dataset, whose materials were added to the index."""

    uri: str
    """URI of the dataset at the time of embedding."""
    sha256: str
    """SHA-256 of its manifest."""


class Change(Config):
    """How a version differs from the one before it."""

    what: Literal["add", "remove", "compact", "rollback"]
    """The command that made it."""
    note: str
    """One line for people."""
    rows_added: int = 0
    """Number of rows that were added."""
    rows_removed: int = 0
    """Number of rows that were removed."""
    source_sha256: str | None = None
    """Identity of what was added, so that a repeated command is recognised."""


class IndexManifest(Config):
    """Identity and content of an index. It is written last: an index without a manifest does not exist."""

    schema_version: int = SCHEMA_VERSION
    """Version of this layout."""
    created: str
    """Time of creation, UTC, ISO 8601."""
    modality: str
    """The modality whose embeddings the index holds; every query is compared with these."""
    dimension: int
    """Dimension D of the vectors."""
    metric: Literal["inner_product"] = "inner_product"
    """How vectors are compared."""
    kind: str = DEFAULT_KIND
    """Name of the vector store."""
    rows: int
    """Number of materials; removed ones do not count."""
    model_uri: str
    """URI of the model at the time of embedding."""
    model_sha256: str
    """SHA-256 of the model that computed the vectors; queries of other models are refused."""
    dataset_uri: str
    """URI of the dataset of the materials."""
    dataset_sha256: str
    """SHA-256 of the manifest of that dataset."""
    properties: tuple[PropertySpec, ...]
    """Property columns."""
    licences: tuple[str, ...]
    """Licences of the rows; every search result names them."""
    segments: tuple[SegmentEntry, ...]
    """Segments, in order."""
    lexicon: storage.FileEntry | None = None
    """File that counts how many texts hold each word; None if the dataset has no texts."""
    store: tuple[storage.FileEntry, ...] = ()
    """Files that the vector stores of all segments share."""
    recall: tuple[RecallPoint, ...] = ()
    """The measured recall; empty for an exact kind."""
    target_recall: float = TARGET
    """The recall that searches are to reach; of no effect for an exact kind."""
    has_facts: bool = False
    """Whether the segments have the columns that follow from captions with facts: keywords and density."""
    has_hypothetical: bool = False
    """Whether rows are hypothetical; searches leave them out unless the filter names `_crystalign_hypothetical`."""
    predictions: tuple[PredictedProperty, ...] = ()
    """Predicted properties, which have columns of their own."""
    added_datasets: tuple[AddedDataset, ...] = ()
    """Datasets of materials that were added later and are not in `dataset_uri`."""
    number: int = 1
    """Number of this version of the index."""
    parent: storage.FileEntry | None = None
    """File of the version before it; None for the first."""
    earlier: tuple[str, ...] = ()
    """`version` of all versions before it, the first of them first; they stay known when their files are pruned."""
    change: Change | None = None
    """How it differs from that version; None for the first."""

    @model_validator(mode="after")
    def _check_segments(self) -> Self:
        for entry in self.segments:
            if entry.removed_rows > entry.rows or entry.dataset > len(self.added_datasets):
                raise ValueError(f"{entry.path} names more removed rows than it has, or a dataset that is not listed")
        return self

    @property
    def fields(self) -> Fields:
        """The names that a filter may use."""
        return make_fields(
            self.properties,
            has_facts=self.has_facts,
            has_hypothetical=self.has_hypothetical,
            predictions=self.predictions,
        )

    @property
    def number_columns(self) -> tuple[str, ...]:
        """The columns of known and predicted properties; null in segments that lack them."""
        predicted = (column for spec in self.predictions for column in spec.columns.values())
        return (*(spec.column for spec in self.properties), *predicted)

    @property
    def every_row(self) -> str | None:
        """A filter that all rows satisfy; None if there are no hypothetical rows, so that no filter is needed."""
        return f"{PREFIX}{HYPOTHETICAL} IS KNOWN" if self.has_hypothetical else None

    @property
    def listed_fields(self) -> list[Field]:
        """One field per column, as listed by the API."""
        return shortest_names(self.fields)

    @property
    def version(self) -> str:
        """SHA-256 of the content.

        It does not depend on the time of creation, on the URIs of model and dataset, or on what the index was before.
        """
        content = self.model_dump(mode="json", exclude=_NOT_CONTENT)
        content["added_datasets"] = [dataset["sha256"] for dataset in content["added_datasets"]]
        for entry, added in ((content, _ADDED), *((segment, _ADDED_TO_SEGMENTS) for segment in content["segments"])):
            for name, default in added.items():
                if entry[name] == default:
                    del entry[name]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @classmethod
    def read(cls, uri: str) -> Self:
        """The manifest of the current version of the index at `uri`.

        Raises:
            DatasetError: there is none, or it has another schema version.
        """
        try:
            data = storage.read_bytes(storage.join(uri, MANIFEST))
        except StorageError as error:
            raise DatasetError(f"no index at {uri}: it has no {MANIFEST}. Make one with `crystalign index`") from error
        return cls.parse(data, origin=uri)

    @classmethod
    def parse(cls, data: bytes, *, origin: str) -> Self:
        """The manifest from the content of its file.

        Raises:
            DatasetError: it has another schema version.
            ConfigError: a field is unknown, missing or out of range.
        """
        values = json.loads(data)
        if values.get("schema_version") != SCHEMA_VERSION:
            version = values.get("schema_version")
            raise DatasetError(
                f"the index at {origin} has schema version {version}, this release reads {SCHEMA_VERSION}: rebuild it",
            )
        return cls.from_mapping(values, origin=f"the manifest of {origin}")

    def to_bytes(self) -> bytes:
        """The content of its file."""
        return json.dumps(self.model_dump(mode="json"), indent=1).encode()

    def kind_of(self, entry: SegmentEntry) -> str:
        """Name of the vector store of a segment."""
        return entry.kind or self.kind

    @property
    def measured_rows(self) -> int:
        """Number of rows of the kind of the index, for which `recall` was measured; added rows are exact."""
        return sum(entry.rows for entry in self.segments if self.kind_of(entry) == self.kind)

    def files(self) -> Iterator[storage.FileEntry]:
        """Every file that the manifest names."""
        yield from self.store
        if self.lexicon is not None:
            yield self.lexicon
        for entry in self.segments:
            yield entry
            yield from entry.store
            if entry.words is not None:
                yield entry.words
            if entry.removed is not None:
                yield entry.removed

    def read_lexicon(self, uri: str) -> Lexicon | None:
        """The lexicon of the index at `uri`; None if its dataset has no texts.

        Raises:
            VerificationError: the file is missing or differs from the manifest.
        """
        return None if self.lexicon is None else Lexicon.load(storage.read_verified(uri, self.lexicon))

    def write(self, uri: str) -> None:
        """Write the manifest of a new index.

        Raises:
            ConflictError: there already is an index.
        """
        storage.write_bytes(storage.join(uri, MANIFEST), self.to_bytes(), if_absent=True)
