"""What an index says of itself: which model, which dataset, which segments, all by checksum."""

from __future__ import annotations

import hashlib
import json
from typing import Literal, Self

from crystalign import storage
from crystalign.config import Config
from crystalign.errors import DatasetError, StorageError
from crystalign.properties import PropertySpec

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"


class SegmentEntry(storage.FileEntry):
    """One immutable file of vectors and metadata."""

    rows: int


class IndexManifest(Config):
    """Identity and content of an index; written last, so an index without it does not exist."""

    schema_version: int = SCHEMA_VERSION
    created: str
    """UTC, ISO 8601."""
    modality: str
    """Whose embeddings the index holds; every query is compared with these."""
    dimension: int
    metric: Literal["inner_product"] = "inner_product"
    rows: int
    model_uri: str
    model_sha256: str
    """The model that made the vectors: queries of any other model are refused."""
    dataset_uri: str
    dataset_sha256: str
    properties: tuple[PropertySpec, ...]
    licences: tuple[str, ...]
    """Of the rows; they follow into every answer."""
    segments: tuple[SegmentEntry, ...]

    @property
    def version(self) -> str:
        """Depends on the content alone: the sha256 of everything but the time of creation and the places."""
        content = self.model_dump(mode="json", exclude={"created", "model_uri", "dataset_uri"})
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @classmethod
    def read(cls, uri: str) -> Self:
        """The manifest of the index at `uri`.

        Raises:
            DatasetError: there is none, or it is of another schema version.
        """
        try:
            data = json.loads(storage.read_bytes(storage.join(uri, MANIFEST)))
        except StorageError as error:
            message = f"no index at {uri}: it has no {MANIFEST}. Make one with `crystalign index`"
            raise DatasetError(message) from error
        if data.get("schema_version") != SCHEMA_VERSION:
            found = data.get("schema_version")
            message = f"the index at {uri} has schema version {found}, this release reads {SCHEMA_VERSION}: rebuild it"
            raise DatasetError(message)
        return cls.from_mapping(data, origin=f"the manifest of {uri}")

    def write(self, uri: str) -> None:
        """Write it, once and for all: an index is immutable.

        Raises:
            ConflictError: an index is there.
        """
        data = json.dumps(self.model_dump(mode="json"), indent=1).encode()
        storage.write_bytes(storage.join(uri, MANIFEST), data, if_absent=True)
