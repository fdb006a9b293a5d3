"""The manifest of an index: model, dataset and segments, each with its checksum."""

from __future__ import annotations

import hashlib
import json
from typing import Literal, Self

from crystalign import storage
from crystalign.config import Config
from crystalign.errors import DatasetError, StorageError
from crystalign.index.vector_store import DEFAULT_KIND
from crystalign.properties import PropertySpec

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"


class SegmentEntry(storage.FileEntry):
    """One immutable file of vectors and metadata."""

    rows: int
    """Number of vectors."""
    store: tuple[storage.FileEntry, ...] = ()
    """Additional files of its vector store."""


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

    @property
    def version(self) -> str:
        """SHA-256 of the content; independent of the time of creation and of the URIs of model and dataset."""
        content = self.model_dump(mode="json", exclude={"created", "model_uri", "dataset_uri"})
        if self.kind == DEFAULT_KIND:  # keeps the version of manifests written before there were kinds
            del content["kind"]
        for segment in content["segments"]:
            if not segment["store"]:
                del segment["store"]
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

    def write(self, uri: str) -> None:
        """Write the manifest; it cannot be replaced afterwards, because an index is immutable.

        Raises:
            ConflictError: there already is an index.
        """
        data = json.dumps(self.model_dump(mode="json"), indent=1).encode()
        storage.write_bytes(storage.join(uri, MANIFEST), data, if_absent=True)
