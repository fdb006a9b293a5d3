"""What a source is: a cheap list of work items, and a way to read one of them anywhere.

The driver lists, tasks read. An item that cannot be used is still an item: it carries its
`Reject`, so that whatever a source was asked for ends either in the dataset or in quarantine.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple, Self

from crystalign.config import Config
from crystalign.errors import InputError, StorageError
from crystalign.limits import Limits, time_limit
from crystalign.material import Material, Provenance
from crystalign.properties import PropertySpec
from crystalign.readers.compression import without_suffix
from crystalign.rejects import Reject, unforeseen

MAX_ID_LENGTH = 200


class Item(Config):
    """One unit of work: a file, some rows of a table, a slice of a JSON file."""

    key: str
    """What to read, in the source's own terms: a member's name, a part of the source."""
    id: str = ""
    """The material's id, where the item is one material."""
    start: int = 0
    """First character or offset, where the source counts them."""
    stop: int = 0
    """One past the last."""
    first: int = 0
    """Number of the first row of the slice that `start` and `stop` bound."""
    rows: tuple[int, ...] = ()
    """Row numbers, where the source has rows."""
    files: tuple[str, ...] = ()
    """Where several files make one material: all of them."""
    rejected: tuple[str, str] | None = None
    """(reason, message) of what was refused on sight, before reading."""

    @property
    def count(self) -> int:
        """How many materials to expect, for sharing the work out."""
        return len(self.rows) or 1

    def take(self, positions: Sequence[int]) -> Self:
        """The same item with some of its rows only."""
        return self.model_copy(update={"rows": tuple(self.rows[i] for i in positions)})


class Source(ABC):
    """One place that crystals come from. Small, picklable, stateless between items but for caches."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()

    @abstractmethod
    def items(self) -> list[Item]:
        """Everything there is, in a fixed order, without reading it.

        Raises:
            StorageError: nothing there.
            FileFormatError: the source as a whole cannot be opened.
        """

    @abstractmethod
    def load(self, item: Item) -> Iterator[Material | Reject]:
        """The materials of an item.

        Raises:
            InputError: the item as a whole cannot be read.
        """

    def properties(self) -> tuple[PropertySpec, ...]:
        """The property columns that its materials may fill."""
        return ()

    def origin(self, item: Item) -> str:
        """Where to look when an item is refused."""
        return item.key

    def read(self, item: Item) -> Iterator[Material | Reject]:
        """`load`, with everything that goes wrong turned into a `Reject`; only a vanished store is raised.

        Raises:
            StorageError: the source itself cannot be read any more.
        """
        if item.rejected:
            yield Reject(item.id or item.key, "list", *item.rejected, self.origin(item))
            return
        found = self.load(item)
        while True:
            try:
                # the clock runs only here: never while the reader of this generator is at work
                with time_limit(self.limits.max_seconds, item.key):
                    material = next(found)
            except StopIteration:
                return
            except InputError as error:
                yield Reject(item.id or item.key, "read", error.reason, str(error), self.origin(item))
                return
            except StorageError:
                raise
            except Exception as error:  # noqa: BLE001 (whatever a parser met in a stranger's file)
                yield Reject(item.id or item.key, "read", *unforeseen(error), self.origin(item))
                return
            yield material if isinstance(material, Reject) else self._checked(material)

    def _checked(self, material: Material) -> Material | Reject:
        """A material that may enter a dataset, with its symmetry; otherwise why it may not."""
        from crystalign.physics.symmetry import symmetry

        crystal, where = material.crystal, material.provenance.reference
        try:
            with time_limit(self.limits.max_seconds, material.id):
                check_id(material.id)
                crystal.check(max_sites=self.limits.max_sites, min_distance=self.limits.min_distance)
                known = symmetry(crystal)
        except InputError as error:
            return Reject(material.id[:MAX_ID_LENGTH], "check", error.reason, str(error), where)
        except Exception as error:  # noqa: BLE001 (one crystal must not stop the others)
            return Reject(material.id[:MAX_ID_LENGTH], "check", *unforeseen(error), where)
        return replace(material, spacegroup_number=known.number, prototype=known.prototype)


class SourceRequest(NamedTuple):
    """What the user of `open_source` asked for."""

    location: str
    """A path, a URI, or a word such as `demo`."""
    mapping: str | None
    """Of a table: the YAML that says what its columns are, or the name of a shipped one."""
    provenance: Provenance
    """Of the materials, where the source itself states none: source, licence and release."""
    seed: int
    """Of whatever the source draws at random."""
    limits: Limits
    """Bounds on what a stranger's file may cost."""
    accept: frozenset[str]
    """Reasons of `crystalign.readers.structures.reading.OBJECTIONS` that do not matter."""


class SourceKind(NamedTuple):
    """One kind of source, as the registry `crystalign.sources.SOURCES` holds it."""

    recognises: Callable[[str], bool]
    """Whether a location is one of this kind; decided by its spelling, without opening it."""
    opens: Callable[[SourceRequest], Source]
    """The source at a location that it recognises."""
    needs_mapping: bool = False
    """Whether a mapping must be given; otherwise none may be."""


def check_id(identifier: str) -> None:
    """Refuse an id that cannot be a row's name.

    Raises:
        InputError: empty, too long, with control characters, or a step between folders, which no address can hold.
    """
    if identifier in {".", ".."}:
        raise InputError(f"id {identifier!r} means a folder; give the material a name", reason="bad-id")
    if not identifier or len(identifier) > MAX_ID_LENGTH or not identifier.isprintable():
        message = f"id {identifier[:80]!r} is empty, longer than {MAX_ID_LENGTH} characters or not printable"
        raise InputError(message, reason="bad-id")


def sample(items: Sequence[Item], limit: int | None, seed: int) -> list[Item]:
    """A uniform random sample of at most `limit` materials, in the order of the source.

    Args:
        items: everything the source listed.
        limit: how many materials to keep; None keeps all.
        seed: of the choice; the same seed chooses the same materials.
    """
    import numpy as np

    total = sum(item.count for item in items)
    if limit is None or limit >= total:
        return list(items)
    chosen = np.sort(np.random.default_rng(seed).choice(total, size=limit, replace=False))
    kept, first = [], 0
    for item in items:
        low, high = np.searchsorted(chosen, (first, first + item.count))
        if high > low:
            kept.append(item.take((chosen[low:high] - first).tolist()) if item.rows else item)
        first += item.count
    return kept


def file_id(name: str) -> str:
    """The id of a material that is one file: its path without the ending and without `#`, which numbers blocks."""
    endings = r"\.(cif|mcif|cif\.txt|vasp|poscar|contcar|xyz|extxyz|json|jsonl)$"
    stem = re.sub(endings, "", without_suffix(name), flags=re.IGNORECASE)
    return stem.replace("#", "_") or name
