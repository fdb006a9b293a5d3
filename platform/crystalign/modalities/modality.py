"""Base class of modalities: column type, file parser, and conversion to tensors.

A modality has a *value* (a frozen dataclass such as `DensityOfStates`), a *column* (an Arrow struct on disk),
*features* (a dictionary of NumPy arrays, made in CPU workers) and a *batch* (a dictionary of tensors, which is all
that training and serving ever move between processes).
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from crystalign.config import Config
from crystalign.modalities.query import QuerySpec

if TYPE_CHECKING:
    import pyarrow as pa
    import torch

    from crystalign.crystal import Crystal
    from crystalign.material import Material

Value = TypeVar("Value")
Features = dict[str, np.ndarray[Any, Any]]
"""Features of one sample: named arrays, ready to be concatenated or stacked."""
Inputs = dict[str, "torch.Tensor"]
"""Tensors of a batch of samples, the argument of an encoder's `forward`."""


class Claims(NamedTuple):
    """Claims as hashes: what fits several materials, such as a short text, fits those that all its claims hold of."""

    made: Sequence[int]
    """What the features of a sample claim."""
    true: Sequence[int]
    """Everything that could be claimed of the material."""


Cells = Mapping[str, NDArray[Any]]
"""Column name → numbers in the cell of one row."""


class TableColumns(Config, ABC):
    """Columns and conventions of a modality in a Parquet table; a section of the mapping's YAML."""

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """Required columns; a row whose first column is null does not have the modality."""

    @abstractmethod
    def read(self, cells: Cells, crystal: Crystal) -> Any:
        """Read the value of one row.

        Raises:
            InputError: the numbers are not a valid value of this modality.
        """


class Modality(ABC, Generic[Value]):
    """A kind of data about a material, e.g. its structure or a spectrum.

    An instance holds the settings by which values become tensors. They are saved in the model directory, so a served
    model gets the same inputs as in training.
    """

    name: ClassVar[str]
    """Key of the modality in datasets, models, the API and on the page."""
    label: ClassVar[str]
    """Display name."""
    sibling: ClassVar[bool] = False
    """Whether the column is stored in separate files, so that reading other modalities does not load it."""
    encodes_volume: ClassVar[bool] = True
    """Whether it determines the cell volume, like everything that is computed from the structure."""
    stored_since: ClassVar[int] = 1
    """First dataset version that stores the same values as this release."""
    seen_since: ClassVar[int] = 1
    """First model format that was trained on the same inputs as this release produces."""
    n_keys: ClassVar[int] = 1
    """Number of keys that `equivalences` returns."""
    makes_claims: ClassVar[bool] = False
    """Whether its features can fit several materials, as a short text does, and `claims` tells which."""
    columns: ClassVar[type[TableColumns] | None] = None
    """Class that describes its columns in an external Parquet table; None if tables cannot contain it."""
    derived_by: ClassVar[str | None] = None
    """`module:function` that computes its value for a material from the crystal; None if it cannot be computed."""
    prepares_encoder: ClassVar[bool] = False
    """Whether an encoder needs training values before its first step, e.g. to train a tokenizer."""
    masked_by: ClassVar[str | None] = None
    """`module:function` that returns, for materials, versions without the words that name the crystal: name → values
    and their keys. `crystalign evaluate` also uses these as queries. None if nothing is masked."""
    query: ClassVar[QuerySpec | None] = None
    """How it is used as a query; None if it cannot be."""
    instead_of: ClassVar[Mapping[str, str]] = {}
    """Other modality → message for a query by it, when the model reads this modality but not the other."""

    class Settings(Config):
        """Settings of the conversion to tensors; each modality extends them."""

    def __init__(self, settings: Config | None = None) -> None:
        self.settings = settings if settings is not None else self.Settings()

    # --- on disk ---------------------------------------------------------------------------------------------------

    @classmethod
    @abstractmethod
    def column_type(cls) -> pa.StructType:
        """Return the Arrow type of the nullable column."""

    @classmethod
    @abstractmethod
    def to_column(cls, value: Value) -> Mapping[str, Any]:
        """Convert a value to a mapping that `column_type` accepts."""

    @classmethod
    @abstractmethod
    def from_column(cls, scalar: pa.StructScalar) -> Value:
        """Convert a cell of the column back to a value."""

    def fits(self, table: pa.Table) -> NDArray[np.bool_]:
        """Mask (rows,) of the rows that these settings can featurise, decided from light columns such as `n_sites`.

        Other rows are excluded and counted before a training, an embedding or an evaluation starts.
        """
        return np.ones(table.num_rows, dtype=bool)

    # --- to the network --------------------------------------------------------------------------------------------

    @abstractmethod
    def featurise(self, value: Value, *, rng: np.random.Generator | None = None) -> Features:
        """Return the features of one sample; augmented with `rng`, deterministic without."""

    @abstractmethod
    def collate(self, samples: Sequence[Features]) -> Inputs:
        """Return the tensors of a batch of at least one sample, in the given order."""

    @abstractmethod
    def empty_sample(self) -> Features:
        """Return a harmless sample for a rank without samples, so that all ranks run the same graph and collectives.

        It does not count in any statistic and is never stored.
        """

    def check_features(self, features: Features) -> None:
        """Refuse features that this modality would not make, because encoders do not check them.

        Features may come from a process that read a malicious file. By default they have the names, types and shapes
        of the sample that `empty_sample` gives; a modality whose samples differ in length extends this.

        Raises:
            ValueError: they are not its own.
        """
        check_arrays(features, self.empty_sample())

    def seen_in_training(self, value: Value) -> Sequence[Value]:
        """Return the value and variants that training may draw; encoders are prepared with all of them."""
        return (value,)

    # --- materials that look alike ---------------------------------------------------------------------------------

    @classmethod
    def equivalence(cls, material: Material) -> str:
        """Return a key that is equal for materials that look alike in this modality; by default all differ.

        Materials of one structure group count as alike in every modality, whatever this key is: see `key_columns`.
        """
        return material.id

    @classmethod
    def equivalences(cls, material: Material) -> tuple[str, ...]:
        """Return keys; materials with one key in common look alike. Their number is the same for every material."""
        return (cls.equivalence(material),)

    def claims(self, value: Value, features: Features) -> Claims | None:  # noqa: ARG002
        """Return the claims of augmented features, for a modality that `makes_claims`; None if they are not known.

        In training, other materials that the claims hold of are not negatives of the sample.
        """
        return None


def key_columns(modality: type[Modality[Any]], materials: Sequence[Material | None]) -> NDArray[np.int64]:
    """Return the (n, K + 1) equivalence keys of materials in a modality: its own keys and that of the structure.

    Two materials whose keys are equal in any column are neither negatives of each other in training nor
    misses in evaluation. A material without the modality has zeros.
    """
    own_keys = {
        row: [stable_hash(key) for key in (*modality.equivalences(material), material.structure)]
        for row, material in enumerate(materials)
        if material is not None and material.value(modality.name) is not None
    }
    keys = np.zeros((len(materials), modality.n_keys + 1), np.int64)
    for row, own in own_keys.items():
        keys[row] = own
    return keys


def stable_hash(text: str) -> int:
    """Hash `text` to a signed 64-bit integer that is the same on every machine."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big", signed=True)


def check_arrays(features: Features, expected: Features, *, variable: Collection[str] = ()) -> None:
    """Check that arrays have the expected names, types and shapes.

    Args:
        features: arrays to check.
        expected: a sample with all names, types and shapes.
        variable: names whose shape may differ.

    Raises:
        ValueError: a name, number type or shape is unexpected, an array is missing, or a number is not finite.
    """
    for name, array in features.items():
        if name not in expected:
            raise ValueError(f"no feature {name!r}")
        if expected[name].dtype != array.dtype or expected[name].ndim != array.ndim:
            raise ValueError(f"feature {name!r} is of another type")
        if name not in variable and expected[name].shape != array.shape:
            raise ValueError(f"feature {name!r} is of another shape")
        if not np.isfinite(array).all():
            raise ValueError(f"feature {name!r} is not finite")
    if missing := set(expected) - set(features):
        raise ValueError(f"no {min(missing)}")
