"""A manifest that is written once, as the last file of a folder, and never replaced."""

from __future__ import annotations

import json
from typing import ClassVar, Self

from crystalign import storage
from crystalign.config import Config
from crystalign.errors import ConfigError, DatasetError, StorageError

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"


class StoredManifest(Config):
    """Base of the manifests of embeddings and of predictions. Without a manifest, there is nothing in the folder."""

    content: ClassVar[str]
    """What the folder holds, for messages."""
    command: ClassVar[str]
    """The command that makes it."""

    schema_version: int = SCHEMA_VERSION
    """Version of this layout."""

    @classmethod
    def read(cls, uri: str) -> Self:
        """The manifest in the folder at `uri`.

        Raises:
            DatasetError: there is none, or it has another schema version or another content.
        """
        again = f"make them with `{cls.command}`"
        try:
            values = json.loads(storage.read_bytes(storage.join(uri, MANIFEST)))
        except StorageError as error:
            raise DatasetError(f"no {cls.content} at {uri}: it has no {MANIFEST}; {again}") from error
        if values.get("schema_version") != SCHEMA_VERSION:
            raise DatasetError(
                f"the {cls.content} at {uri} have schema version {values.get('schema_version')}, this release reads "
                f"{SCHEMA_VERSION}: {again}"
            )
        try:
            return cls.from_mapping(values, origin=f"the manifest of {uri}")
        except ConfigError as error:
            raise DatasetError(f"{uri} holds no {cls.content} ({error}); {again}") from error

    def write(self, uri: str) -> None:
        """Write the manifest; it cannot be replaced afterwards. Every file that it names must exist.

        Raises:
            ConflictError: there already is a manifest.
        """
        data = json.dumps(self.model_dump(mode="json"), indent=1).encode()
        storage.write_bytes(storage.join(uri, MANIFEST), data, if_absent=True)
