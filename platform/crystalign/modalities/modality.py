"""What a modality is: a column on disk, a way to read a file, and a way to become tensors.

A modality has a *value* (a frozen dataclass such as `DensityOfStates`), a *column* (an Arrow
struct on disk), *features* (a dictionary of NumPy arrays, made in CPU workers) and a *batch* (a
dictionary of tensors, which is all that training and serving ever move between processes).
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

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
"""One sample: named arrays, ready to be concatenated or stacked."""
Inputs = dict[str, "torch.Tensor"]
"""A batch of samples: what an encoder's `forward` takes."""


Cells = Mapping[str, NDArray[Any]]
"""Column name → the numbers of one row's cell."""


class TableColumns(Config, ABC):
    """Where a modality stands in a Parquet table and in which convention: its part of a mapping's YAML."""

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """The columns it needs; a row whose cell in the first is null does not have the modality."""

    @abstractmethod
    def read(self, cells: Cells, crystal: Crystal) -> Any:
        """The value of one row.

        Raises:
            InputError: the numbers are no value of this modality.
        """


class Modality(ABC, Generic[Value]):
    """One way of looking at a material.

    An instance holds the settings by which values become tensors; they travel in the model
    directory, so that a served model sees what it was trained on.
    """

    name: ClassVar[str]
    """Key of the modality in datasets, models, the API and on the page."""
    label: ClassVar[str]
    """For people."""
    sibling: ClassVar[bool] = False
    """Heavy columns live in files of their own, so that readers of other modalities never pay for them."""
    encodes_volume: ClassVar[bool] = True
    """Whether the volume of the cell can be read off it, as off whatever follows from the structure."""
    stored_since: ClassVar[int] = 1
    """First dataset version that stores the same values as this release."""
    seen_since: ClassVar[int] = 1
    """First model format that was trained on the same inputs as this release produces."""
    n_keys: ClassVar[int] = 1
    """How many keys `equivalences` gives."""
    columns: ClassVar[type[TableColumns] | None] = None
    """How a Parquet table from elsewhere may hold it; None where tables hold no such thing."""
    derived_by: ClassVar[str | None] = None
    """`module:function` that computes its value from a crystal; None where it does not follow from one."""
    prepares_encoder: ClassVar[bool] = False
    """Whether an encoder needs values of the training split before its first step, as a tokenizer does."""
    masked_by: ClassVar[str | None] = None
    """`module:function` that takes materials and gives values without what names the crystal, and their keys:
    `crystalign evaluate` asks with these too. None where nothing is masked."""
    query: ClassVar[QuerySpec | None] = None
    """How a search asks by it; None where nothing does."""
    instead_of: ClassVar[Mapping[str, str]] = {}
    """Modality → what to say to who asks for it of a model that reads this one but not that."""

    class Settings(Config):
        """How values become tensors; each modality extends it."""

    def __init__(self, settings: Config | None = None) -> None:
        self.settings = settings if settings is not None else self.Settings()

    # --- on disk ---------------------------------------------------------------------------------------------------

    @classmethod
    @abstractmethod
    def column_type(cls) -> pa.StructType:
        """The Arrow type of the nullable column."""

    @classmethod
    @abstractmethod
    def to_column(cls, value: Value) -> Mapping[str, Any]:
        """The value as a mapping that `column_type` accepts."""

    @classmethod
    @abstractmethod
    def from_column(cls, scalar: pa.StructScalar) -> Value:
        """The value back from one cell of the column."""

    def fits(self, table: pa.Table) -> NDArray[np.bool_]:
        """(rows,) which rows these settings can turn into tensors, told from light columns such as `n_sites`.

        What does not fit is left out of a training, an embedding and an evaluation before they
        start, and counted, rather than met in the middle of them.
        """
        return np.ones(table.num_rows, dtype=bool)

    # --- to the network --------------------------------------------------------------------------------------------

    @abstractmethod
    def featurise(self, value: Value, *, rng: np.random.Generator | None = None) -> Features:
        """Arrays of one sample; with `rng` augmented, without it deterministic."""

    @abstractmethod
    def collate(self, samples: Sequence[Features]) -> Inputs:
        """Tensors of a batch of at least one sample, in the order given."""

    @abstractmethod
    def empty_sample(self) -> Features:
        """A harmless sample for a rank that has none: it keeps the graph and the collectives alike
        on all ranks, enters no statistic and is never stored.
        """

    def check_features(self, features: Features) -> None:
        """Refuse features that this modality would not make: an encoder reads them without looking.

        They may come from a process that read a hostile file. By default they have the names, types and shapes of the
        sample that `empty_sample` gives; a modality whose samples differ in length extends this.

        Raises:
            ValueError: they are not its own.
        """
        check_arrays(features, self.empty_sample())

    # --- which materials look alike --------------------------------------------------------------------------------

    @classmethod
    def equivalence(cls, material: Material) -> str:
        """Two materials with equal keys cannot be told apart in this modality; by default no two can be confused.

        Materials of one structure group are alike in every modality, whatever this key says: see `key_columns`.
        """
        return material.id

    @classmethod
    def equivalences(cls, material: Material) -> tuple[str, ...]:
        """Keys of which one in common is enough; a modality has as many for every material."""
        return (cls.equivalence(material),)


def key_columns(modality: type[Modality[Any]], materials: Sequence[Material | None]) -> NDArray[np.int64]:
    """(n, K + 1) the keys by which materials are alike in a modality: its own, and that of the structure.

    Two materials whose keys are equal in any column are neither negatives of each other in training nor
    misses in evaluation. A material without the modality has zeros.
    """
    known = {
        row: [stable_hash(key) for key in (*modality.equivalences(material), material.structure)]
        for row, material in enumerate(materials)
        if material is not None and material.value(modality.name) is not None
    }
    keys = np.zeros((len(materials), modality.n_keys + 1), np.int64)
    for row, own in known.items():
        keys[row] = own
    return keys


def stable_hash(text: str) -> int:
    """A signed 64-bit integer that depends on `text` alone, on any machine."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big", signed=True)


def check_arrays(features: Features, expected: Features, *, variable: Collection[str] = ()) -> None:
    """Refuse arrays unlike those expected.

    Args:
        features: what is checked.
        expected: a sample with all names, types and shapes.
        variable: names whose shape may differ.

    Raises:
        ValueError: another name, number type or shape, one that is missing, or a number that is not finite.
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
