"""Base class of sources: a cheap list of work items, and a method to read an item on any machine.

The driver lists items and tasks read them. An item that cannot be used is listed too, with the reason, so every
requested material ends up either in the dataset or in quarantine.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple, Self

from crystalign import storage
from crystalign.config import Config
from crystalign.errors import InputError, StorageError
from crystalign.limits import Limits, time_limit
from crystalign.material import Material, Provenance
from crystalign.properties import PropertySpec
from crystalign.readers.compression import without_suffix
from crystalign.rejects import Reject, unforeseen

MAX_ID_LENGTH = 200
_NAMES_ITS_KIND = re.compile(r"[A-Za-z][\w-]+:(?!//)")


class Item(Config):
    """One unit of work: a file, some rows of a table, a slice of a JSON file."""

    key: str
    """Key of the item within the source, e.g. the name of a member."""
    id: str = ""
    """Id of the material, if the item is one material."""
    start: int = 0
    """First character or offset, if the source uses them."""
    stop: int = 0
    """Index after the last character or offset."""
    first: int = 0
    """Number of the first entry of the slice from `start` to `stop`."""
    rows: tuple[int, ...] = ()
    """Row numbers, if the source has rows."""
    weight: int = 0
    """Estimated number of materials, if the rows of the item are not known before it is read."""
    share: float = 1.0
    """Share of such materials to take, at random."""
    files: tuple[str, ...] = ()
    """All files of a material that consists of several."""
    rejected: tuple[str, str] | None = None
    """(reason, message) if the item is refused before reading."""

    @property
    def count(self) -> int:
        """Expected number of materials, for distributing the work."""
        return len(self.rows) or max(1, round(self.weight * self.share))

    def take(self, positions: Sequence[int]) -> Self:
        """Return the item restricted to some of its rows, or to as large a share of them if they are not known."""
        if self.rows:
            return self.model_copy(update={"rows": tuple(self.rows[i] for i in positions)})
        return self.model_copy(update={"share": self.share * len(positions) / self.count})


class Source(ABC):
    """A source of crystals. Instances are small, picklable and, except for caches, stateless."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()

    @abstractmethod
    def items(self) -> list[Item]:
        """List all items in a fixed order, without reading them.

        Raises:
            StorageError: there is nothing at the location.
            FileFormatError: the source as a whole cannot be opened.
        """

    @abstractmethod
    def load(self, item: Item) -> Iterator[Material | Reject | None]:
        """Load the materials of an item. None means that reading goes on; the time limit of one file starts again.

        Raises:
            InputError: the item as a whole cannot be read.
        """

    def properties(self) -> tuple[PropertySpec, ...]:
        """Return the property columns that its materials may have."""
        return ()

    def licences(self) -> tuple[str, ...]:
        """Return the licences that its materials may have, if the source states them before it is read."""
        return ()

    def origin(self, item: Item) -> str:
        """Describe the location of an item for a message about its refusal."""
        return item.key

    def read(self, item: Item) -> Iterator[Material | Reject]:
        """Run `load` and convert errors to `Reject`; only the loss of the store raises.

        Raises:
            StorageError: the source can no longer be read.
        """
        if item.rejected:
            yield Reject(item.id or item.key, "list", *item.rejected, self.origin(item))
            return
        results = self.load(item)
        while True:
            try:
                # the limit holds for reading alone, not for the code that consumes this generator
                with time_limit(self.limits.max_seconds, item.key):
                    material = next(results)
            except StopIteration:
                return
            except InputError as error:
                yield Reject(item.id or item.key, "read", error.reason, str(error), self.origin(item))
                return
            except StorageError:
                raise
            except Exception as error:  # noqa: BLE001 (a parser may raise anything on an untrusted file)
                yield Reject(item.id or item.key, "read", *unforeseen(error), self.origin(item))
                return
            if material is not None:
                yield material if isinstance(material, Reject) else self._checked(material)

    def _checked(self, material: Material) -> Material | Reject:
        """Check a material and add its symmetry; return a `Reject` if it may not enter a dataset."""
        from crystalign.physics.symmetry import symmetry

        crystal, where = material.crystal, material.provenance.reference
        try:
            with time_limit(self.limits.max_seconds, material.id):
                check_id(material.id)
                crystal.check(max_sites=self.limits.max_sites, min_distance=self.limits.min_distance)
                group = symmetry(crystal)
        except InputError as error:
            return Reject(material.id[:MAX_ID_LENGTH], "check", error.reason, str(error), where)
        except Exception as error:  # noqa: BLE001 (one bad crystal must not stop the others)
            return Reject(material.id[:MAX_ID_LENGTH], "check", *unforeseen(error), where)
        return replace(material, spacegroup_number=group.number, prototype=group.prototype)


class SourceRequest(NamedTuple):
    """Arguments of `open_source`."""

    location: str
    """A path, a URI, or a word such as `demo`."""
    mapping: str | None
    """For a table: YAML file that describes its columns, or the name of a shipped mapping."""
    provenance: Provenance
    """Provenance (source, licence, release) of materials if the source states none."""
    seed: int
    """Seed for random choices of the source."""
    limits: Limits
    """Size limits for untrusted files."""
    accept: frozenset[str]
    """Reasons of `crystalign.readers.structures.reading.OBJECTIONS` that are accepted."""

    @property
    def place(self) -> str:
        """The absolute path or URI in a location `NAME:PLACE`.

        Raises:
            StorageError: it is no path or URI.
        """
        return storage.absolute(self.location.partition(":")[2])


class SourceKind(NamedTuple):
    """One kind of source, as the registry `crystalign.sources.SOURCES` holds it."""

    recognises: Callable[[str], bool]
    """Function that tells from the spelling of a location whether it is of this kind, without opening it."""
    opens: Callable[[SourceRequest], Source]
    """Function that opens a source of this kind."""
    needs_mapping: bool = False
    """Whether a mapping is required; if not, none is allowed."""


def prefix_of(name: str) -> Callable[[str], bool]:
    """The test whether a location is written `NAME:PLACE`, with this name of a kind."""
    return lambda location: location.startswith(f"{name}:")


def ends_with(location: str, endings: tuple[str, ...]) -> bool:
    """Whether a path or URI has one of these endings; a location `NAME:PLACE`, which names its kind, has none."""
    return not _NAMES_ITS_KIND.match(location) and location.endswith(endings)


def check_id(identifier: str) -> None:
    """Refuse an id that is not valid for a row.

    Raises:
        InputError: the id is empty, too long, contains control characters, or is `.` or `..`, which URLs cannot
            contain.
    """
    if identifier in {".", ".."}:
        raise InputError(f"id {identifier!r} means a folder; give the material a name", reason="bad-id")
    if not identifier or len(identifier) > MAX_ID_LENGTH or not identifier.isprintable():
        message = f"id {identifier[:80]!r} is empty, longer than {MAX_ID_LENGTH} characters or not printable"
        raise InputError(message, reason="bad-id")


def sample(items: Sequence[Item], limit: int | None, seed: int) -> list[Item]:
    """Draw a uniform random sample of at most `limit` materials, in the order of the source.

    Of an item whose number of materials is an estimate, a share is taken, so that their number is approximate.

    Args:
        items: everything the source listed.
        limit: how many materials to keep; None keeps all.
        seed: random seed; the same seed chooses the same materials.
    """
    import numpy as np

    total = sum(item.count for item in items)
    if limit is None or limit >= total:
        return list(items)
    chosen = np.sort(np.random.default_rng(seed).choice(total, size=limit, replace=False))
    sampled, first = [], 0
    for item in items:
        low, high = np.searchsorted(chosen, (first, first + item.count))
        if high > low:
            sampled.append(item.take((chosen[low:high] - first).tolist()))
        first += item.count
    return sampled


def file_id(name: str) -> str:
    """The id of a material that is one file: its path without the ending and without `#`, which numbers blocks."""
    endings = r"\.(cif|mcif|cif\.txt|vasp|poscar|contcar|xyz|extxyz|json|jsonl)$"
    stem = re.sub(endings, "", without_suffix(name), flags=re.IGNORECASE)
    return stem.replace("#", "_") or name
