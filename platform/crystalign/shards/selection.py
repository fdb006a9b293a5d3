"""The rows that a run trains on: part of a split and required modalities, computed once and stored as bitmaps."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from crystalign import storage
from crystalign.errors import DatasetError
from crystalign.modalities import Modality
from crystalign.shards.dataset import Dataset
from crystalign.shards.splits import SplitName, SplitRule

LIMIT = 256 * 2**20


@dataclass(frozen=True)
class Selection:
    """The selected rows of every row group of a dataset."""

    dataset_sha256: str
    """SHA-256 of the dataset's manifest."""
    shards: NDArray[np.int64]
    """(G,) shard of each row group."""
    groups: NDArray[np.int64]
    """(G,) index of each row group within its shard."""
    masks: tuple[NDArray[np.bool_], ...]
    """G arrays: which rows of each row group are selected."""

    @classmethod
    def build(
        cls,
        dataset: Dataset,
        rule: SplitRule,
        which: SplitName,
        require: Sequence[str] = (),
        *,
        fits: Sequence[Modality[Any]] = (),
    ) -> Selection:
        """Select the rows of one part of a split that have every required modality and fit a model.

        Args:
            dataset: the dataset; only its split columns and the presence of modalities are read.
            rule: the split.
            which: part of the split.
            require: names of required modalities; the crystal is always present.
            fits: modalities with the settings of a model; rows that they cannot represent are left out.

        Raises:
            DatasetError: no row is left.
        """
        shards, groups, masks = [], [], []
        keys = list(dict.fromkeys([*rule.columns, "n_sites"]))
        for number, entry in enumerate(dataset.manifest.shards):
            light = dataset.read(number, columns=keys)
            mask = rule.mask(light, which)
            for modality in fits:
                mask &= modality.fits(light)
            for name in require:
                mask &= dataset.has(number, name)
            edges = np.cumsum((0, *entry.row_groups))
            for group in range(len(entry.row_groups)):
                shards.append(number)
                groups.append(group)
                masks.append(mask[edges[group] : edges[group + 1]])
        selection = cls(dataset.manifest.sha256, np.array(shards, np.int64), np.array(groups, np.int64), tuple(masks))
        if selection.n == 0:
            required = f" with {', '.join(require)}" if require else ""
            raise DatasetError(f"the {which} part of {dataset.uri} has no material{required}; choose another split")
        return selection

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """(G,) number of selected rows of each row group."""
        return np.array([int(mask.sum()) for mask in self.masks], dtype=np.int64)

    @property
    def n(self) -> int:
        """Number of selected rows."""
        return int(self.counts.sum())

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the dataset's identity and of all bits; identifies the selection."""
        digest = hashlib.sha256(self.dataset_sha256.encode())
        for shard, group, mask in zip(self.shards, self.groups, self.masks, strict=True):
            digest.update(f"{shard}/{group}/{len(mask)}:".encode() + np.packbits(mask).tobytes())
        return digest.hexdigest()

    def rows(self, index: int) -> NDArray[np.int64]:
        """(c, 3) shard, row group and row of the selected rows of the row group with index `index` (0 to G − 1)."""
        chosen = np.flatnonzero(self.masks[index])
        where = np.tile([self.shards[index], self.groups[index]], (len(chosen), 1))
        return np.column_stack([where, chosen])

    def save(self, uri: str) -> str:
        """Write the selection below the dataset (or any folder) at `uri`, under a name that contains its SHA-256.

        Returns:
            The URI of the file.
        """
        target = storage.join(uri, "selections", f"{self.sha256}.parquet")
        table = pa.table(
            {
                "shard": self.shards,
                "group": self.groups,
                "rows": pa.array([len(mask) for mask in self.masks], pa.int64()),
                "bitmap": pa.array([np.packbits(mask).tobytes() for mask in self.masks], pa.binary()),
            }
        ).replace_schema_metadata({"dataset_sha256": self.dataset_sha256})
        sink = io.BytesIO()
        pq.write_table(table, sink, compression="zstd")
        storage.write_bytes(target, sink.getvalue())
        return target

    @classmethod
    def load(cls, uri: str) -> Selection:
        """Read a selection back.

        Raises:
            DatasetError: the file is damaged, or its content does not fit its name.
        """
        try:
            table = pq.read_table(pa.BufferReader(storage.read_bytes(uri, limit=LIMIT)))
        except pa.ArrowException as error:
            raise DatasetError(f"{uri} is not a selection: {error}; delete it and start again") from error
        packed: list[Any] = table.column("bitmap").to_pylist()
        masks = tuple(
            np.unpackbits(np.frombuffer(bits, np.uint8), count=rows).astype(bool)
            for bits, rows in zip(packed, table.column("rows").to_pylist(), strict=True)
        )
        sha256 = (table.schema.metadata or {}).get(b"dataset_sha256", b"").decode()
        selection = cls(sha256, table.column("shard").to_numpy(), table.column("group").to_numpy(), masks)
        if selection.sha256 not in uri:
            raise DatasetError(f"{uri} holds the selection {selection.sha256[:16]}…, not the one it is named after")
        return selection
