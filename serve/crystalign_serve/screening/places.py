"""`Places`: where a screening writes, and what it must leave alone."""

from __future__ import annotations

import os
import re

from crystalign import storage
from crystalign.errors import ConfigError

ENDING = ".parquet"
_FOLDER = re.compile(r"[0-9a-f]{16}")
_OWN = re.compile(r"[0-9a-f]{16}/\.?(encoded|ids|answers|hits|outcomes)-\d{5}[^/]*|\.?driver\.json[^/]*")
"""Files of a screening in its folder of parts, those of an interrupted write included."""


class Places:
    """Where a screening writes.

    Args:
        out: URI of the file of hits.

    Raises:
        ConfigError: it does not end in `.parquet`.
    """

    def __init__(self, out: str) -> None:
        if not out.endswith(ENDING):
            raise ConfigError(f"--out {out} must end in {ENDING}")
        stem = out.removesuffix(ENDING)
        self.hits, self.outcomes = out, f"{stem}.queries{ENDING}"
        self.receipt, self.parts = f"{stem}.receipt.json", f"{stem}.parts"

    def check_apart(self, *inputs: str) -> None:
        """Check that nothing is written over, into or around what is read.

        Args:
            inputs: URIs of files and folders.

        Raises:
            ConfigError: something would be.
        """
        for uri in (self.hits, self.outcomes, self.receipt, self.parts):
            for other in inputs:
                one, two = (f"{_real(place)}/" for place in (uri, other))
                if one.startswith(two) or two.startswith(one):
                    raise ConfigError(f"{uri} would change {other}, which is read; choose another --out")

    def check_free(self) -> None:
        """Check that a screening replaces and deletes only files of an earlier screening at the same place.

        Raises:
            ConfigError: there are others.
        """
        if storage.exists(self.receipt):
            return
        names = storage.list_names(self.parts)
        if foreign := [name for name in names if not _OWN.fullmatch(name)]:
            raise ConfigError(f"{self.parts} holds {foreign[0]}, which is not of a screening; choose another --out")
        if any("/" in name for name in names):
            return
        for uri in (self.hits, self.outcomes):
            if storage.exists(uri):
                raise ConfigError(f"{uri} exists, without a receipt of a screening; choose another --out, or delete it")

    def delete_parts(self) -> None:
        """Delete the files between the steps; what others put beside them stays."""
        folders = storage.list_folders(self.parts)
        own = [uri for uri in folders if _FOLDER.fullmatch(storage.name_of(uri))]
        if own == folders and all(_OWN.fullmatch(name) for name in storage.list_names(self.parts)):
            storage.delete(self.parts)
        else:
            for uri in own:
                storage.delete(uri)


def _real(uri: str) -> str:
    """A URI without symbolic links."""
    place = storage.absolute(uri)
    return place if "://" in place else os.path.realpath(place)
