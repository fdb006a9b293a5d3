"""The manifest of an index: model, dataset and segments, each with its checksum."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any, Literal, Self

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


class SegmentEntry(storage.FileEntry):
    """One immutable file of vectors and metadata."""

    rows: int
    """Number of vectors."""
    store: tuple[storage.FileEntry, ...] = ()
    """Additional files of its vector store."""
    words: storage.FileEntry | None = None
    """File of the words of its texts; None if the dataset has no texts."""


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
    """Number of materials."""
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
    def every_row(self) -> str | None:
        """A filter that all rows satisfy, hypothetical ones included; None if no filter does the same."""
        return f"{PREFIX}{HYPOTHETICAL} IS KNOWN" if self.has_hypothetical else None

    @property
    def listed_fields(self) -> list[Field]:
        """One field per column, as listed by the API."""
        return shortest_names(self.fields)

    @property
    def version(self) -> str:
        """SHA-256 of the content; independent of the time of creation and of the URIs of model and dataset."""
        content = self.model_dump(mode="json", exclude={"created", "model_uri", "dataset_uri"})
        added: dict[str, Any] = {"kind": DEFAULT_KIND, "lexicon": None, "has_facts": False, "store": [], "words": None}
        added |= {"recall": [], "target_recall": TARGET, "has_hypothetical": False, "predictions": []}
        for entry in (content, *content["segments"]):  # keeps the version of manifests of earlier releases
            for name, default in added.items():
                if entry.get(name, ...) == default:
                    del entry[name]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @classmethod
    def read(cls, uri: str) -> Self:
        """The manifest of the index at `uri`.

        Raises:
            DatasetError: there is none, or it has another schema version.
        """
        try:
            data = json.loads(storage.read_bytes(storage.join(uri, MANIFEST)))
        except StorageError as error:
            raise DatasetError(f"no index at {uri}: it has no {MANIFEST}. Make one with `crystalign index`") from error
        if data.get("schema_version") != SCHEMA_VERSION:
            version = data.get("schema_version")
            raise DatasetError(
                f"the index at {uri} has schema version {version}, this release reads {SCHEMA_VERSION}: rebuild it",
            )
        return cls.from_mapping(data, origin=f"the manifest of {uri}")

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

    def read_lexicon(self, uri: str) -> Lexicon | None:
        """The lexicon of the index at `uri`; None if its dataset has no texts.

        Raises:
            VerificationError: the file is missing or differs from the manifest.
        """
        return None if self.lexicon is None else Lexicon.load(storage.read_verified(uri, self.lexicon))

    def write(self, uri: str) -> None:
        """Write the manifest; it cannot be replaced afterwards, because an index is immutable.

        Raises:
            ConflictError: there already is an index.
        """
        data = json.dumps(self.model_dump(mode="json"), indent=1).encode()
        storage.write_bytes(storage.join(uri, MANIFEST), data, if_absent=True)
