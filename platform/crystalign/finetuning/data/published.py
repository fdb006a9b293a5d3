"""Published splits as lists of ids, e.g. MEGNet's official split and matbench's five folds."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from crystalign import storage
from crystalign.checksums import Fingerprint
from crystalign.config import Config
from crystalign.errors import ConfigError
from crystalign.shards.splits import SplitName
from crystalign.storage import Uri

LIMIT = 512 * 2**20
NAMES: dict[str, SplitName] = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}
"""Names of the parts in files."""


class PublishedLists(NamedTuple):
    """Assignment of ids to parts."""

    parts: Mapping[str, SplitName]
    """Id of a material → its part."""
    sha256: str
    """sha256 of the file."""


class PublishedSplit(Config):
    """A split as lists of ids.

    JSON holds `{"train": […], "validation": […], "test": […]}` at `part`, which is a path of keys such as
    `splits/matbench_log_kvrh/fold_0` in matbench's validation file. A Parquet table holds a column of ids and, in the
    column `part`, the words train, val and test. Materials that are not listed are left out.
    """

    lists: Uri
    """Path or URI of the file."""
    part: str = ""
    """Position of the lists in the file: a path of JSON keys, or a column of a Parquet table."""
    id: str = "material_id"
    """Column of ids, of a Parquet table."""
    sha256: str = ""
    """Expected sha256 of the file; empty for no check."""
    validation: float = Field(default=0.25, gt=0, lt=1)
    """Share of the training ids used for validation if the file lists none, chosen by a hash of the id. A quarter of
    80 % is 20 % of all."""

    def read(self) -> PublishedLists:
        """Read the lists.

        Raises:
            ConfigError: the file is not readable or not the expected one, lists are missing, or an id is in two of
                them.
        """
        data = storage.read_bytes(self.lists, limit=LIMIT)
        fingerprint = Fingerprint.of(data)
        if self.sha256 and (problem := fingerprint.difference(self.sha256)):
            raise ConfigError(f"split: {self.lists} {problem}: it is another list")
        parts = self._from_table(data) if data[:4] == b"PAR1" else self._from_json(data)
        if "train" not in parts.values() or "test" not in parts.values():
            counts = dict(Counter(parts.values()))
            raise ConfigError(f"split: {self.lists} at {self.part!r} must list train and test ids; it has {counts}")
        return PublishedLists(parts, fingerprint.sha256)

    def _from_json(self, data: bytes) -> dict[str, SplitName]:
        try:
            lists = json.loads(data)
        except ValueError as error:
            raise ConfigError(f"split: {self.lists} is neither JSON nor Parquet: {error}") from error
        for key in filter(None, self.part.split("/")):
            if not isinstance(lists, dict) or key not in lists:
                raise ConfigError(f"split: {self.lists} has no {key!r} of {self.part!r}; it has {_keys(lists)}")
            lists = lists[key]
        if not isinstance(lists, dict) or not {"train", "test"} <= set(lists):
            raise ConfigError(f"split: {self.lists} at {self.part!r} holds no train and test lists but {_keys(lists)}")
        return self._disjoint((str(name), key) for key in lists if key in NAMES for name in lists[key])

    def _from_table(self, data: bytes) -> dict[str, SplitName]:
        table = pq.read_table(io.BytesIO(data))
        missing = [name for name in (self.id, self.part) if name not in table.column_names]
        if missing:
            raise ConfigError(f"split: {self.lists} has no column {missing[0]!r}; it has {_keys(table.column_names)}")
        ids, words = (table.column(name).cast(pa.string()).to_pylist() for name in (self.id, self.part))
        unknown = {word for word in words if word} - set(NAMES)
        if unknown:
            raise ConfigError(f"split: column {self.part!r} holds {_keys(unknown)}; expected train, val and test")
        return self._disjoint((str(name), word) for name, word in zip(ids, words, strict=True) if word)

    def _disjoint(self, listed: Iterable[tuple[str, str]]) -> dict[str, SplitName]:
        assigned: dict[str, SplitName] = {}
        for name, word in listed:
            if assigned.setdefault(name, NAMES[word]) != NAMES[word]:
                raise ConfigError(
                    f"split: {self.lists} at {self.part!r} lists {name!r} under {assigned[name]} and under "
                    f"{NAMES[word]}; a material is in one part"
                )
        return assigned


def _keys(content: Any) -> str:
    """List some of the existing names for a message."""
    names = sorted(map(str, content)) if isinstance(content, dict | list | set) else [type(content).__name__]
    return ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
