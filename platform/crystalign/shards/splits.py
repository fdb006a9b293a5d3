"""Splits into training, validation and test part: a pure function of a key and a salt, not a stored shuffle."""

from __future__ import annotations

import hashlib
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field, model_validator

from crystalign.config import Config
from crystalign.errors import ConfigError

SplitName = Literal["train", "validation", "test"]
GROUP = "structure_group"
"""Column with the id of the material that represents all materials with the same structure."""
SALT = "crystalign"
"""Default salt, the same for all sources and stages, so that duplicates across sources fall into the same part."""


def fraction(key: str, salt: str = SALT) -> float:
    """Map a key to a number in [0, 1): the top 53 bits of BLAKE2b(salt, key), the same on every machine."""
    digest = hashlib.blake2b(f"{salt}\0{key}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) * 2.0**-53


class SplitRule(Config):
    """A split: the key whose materials stay in one part, and the sizes of the parts."""

    by: Literal["formula", "material", "chemsys", "prototype"] = "formula"
    """Materials with the same key are in the same part. `formula` keeps polymorphs together, and one compound in two
    databases. `material` keeps materials of one structure together if the structures have been compared."""
    salt: str = SALT
    """Salt of the hash; another salt gives another split."""
    train: float = Field(default=0.8, ge=0, le=1)
    """Fraction of the keys in the training part."""
    validation: float = Field(default=0.1, ge=0, le=1)
    """Fraction of the keys in the validation part; the rest is the test part."""

    @model_validator(mode="after")
    def _sums(self) -> SplitRule:
        if self.train + self.validation > 1.0 + 1e-9:
            raise ValueError(f"train {self.train} + validation {self.validation} exceeds 1")
        return self

    @property
    def column(self) -> str:
        """The column of a shard with the fraction of this rule's key at the default salt."""
        return f"split_{self.by}"

    @property
    def key(self) -> str:
        """The column of a shard with the key itself."""
        return "id" if self.by == "material" else self.by

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that `mask` may need."""
        return (self.column, self.key, GROUP) if self.by == "material" else (self.column, self.key)

    def name_of(self, value: float) -> SplitName:
        """The part to which a fraction in [0, 1) belongs."""
        if value < self.train:
            return "train"
        return "validation" if value < self.train + self.validation else "test"

    def mask(self, table: pa.Table, which: SplitName) -> NDArray[np.bool_]:
        """(rows,) which rows of a table belong to a part.

        Args:
            table: a table with the columns `columns`.
            which: the part.

        Raises:
            ConfigError: a key is null, such as an undetermined prototype.
        """
        numbers = self._fractions(table)
        low, high = {
            "train": (0.0, self.train),
            "validation": (self.train, self.train + self.validation),
            "test": (self.train + self.validation, 1.0),
        }[which]
        return np.asarray((numbers >= low) & (numbers < high))

    def _fractions(self, table: pa.Table) -> NDArray[np.float64]:
        """(rows,) the fraction in [0, 1) of each row's key."""
        if self.by == "material":
            groups, ids = (table.column(name).to_pylist() for name in (GROUP, "id"))
            keys = [name if group is None else group for name, group in zip(ids, groups, strict=True)]
        else:
            column = table.column(self.column if self.salt == SALT else self.key)
            if column.null_count:
                raise ConfigError(f"{column.null_count} rows have no {self.by}; split by formula, or derive it first")
            if self.salt == SALT:
                return np.asarray(column.to_numpy())
            keys = column.to_pylist()
        return np.array([fraction(str(key), self.salt) for key in keys], np.float64)
