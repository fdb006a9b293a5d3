"""`Registry`: named implementations of one kind, ours and those of other packages."""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
from collections.abc import Callable, Iterator, Mapping
from typing import Generic, TypeVar

from crystalign.errors import ConfigError

T = TypeVar("T")


class Registry(Generic[T]):
    """Name → implementation, imported when it is first asked for.

    There are three ways in:

    - a line in the table that the registry is made with;
    - an entry point of an installed package, in the group of the registry. Every process of a cluster finds it where
      the package is installed. In the package's `pyproject.toml`:

          [project.entry-points."crystalign.objectives"]
          triplet = "my_package.triplet:Triplet"

    - `register`, in this process alone: for notebooks and tests.

    A name means one thing: a second implementation under it is an error, not a replacement. Configurations name
    implementations and never modules, so that opening a file imports only what somebody installed.
    """

    def __init__(
        self,
        kind: str,
        group: str,
        builtin: Mapping[str, str | T],
        *,
        accepts: Callable[[object], bool] = lambda _: True,
    ) -> None:
        """Read nothing yet: neither modules nor entry points.

        Args:
            kind: what it holds, in one word for messages: "objective".
            group: entry-point group in which other packages offer theirs: "crystalign.objectives".
            builtin: name → `module:attribute`, or the implementation itself where it costs no import; in the order in
                which tables print them.
            accepts: whether what another package offers is of this kind.
        """
        self.kind = kind
        self.group = group
        self._builtin = dict(builtin)
        self._entries: dict[str, str | T] = dict(builtin)
        self._loaded: dict[str, T] = {}
        self._offered: dict[str, importlib.metadata.EntryPoint] | None = None
        self._accepts = accepts

    def register(self, name: str, implementation: str | T, *, replace: bool = False) -> None:
        """Add an implementation in this process; other processes do not see it.

        Args:
            name: what configurations call it.
            implementation: itself, or `module:attribute`.
            replace: whether an earlier one that was registered may go, as when a notebook's cell runs again.

        Raises:
            ConfigError: the name is taken, or this is not an implementation of the registry's kind.
        """
        if name in self and not (replace and name in self._entries and name not in self._builtin):
            raise ConfigError(f"there is a {self.kind} {name!r} already; choose another name")
        if not isinstance(implementation, str) and not self._accepts(implementation):
            raise ConfigError(f"{implementation!r} is not a {self.kind}, so it cannot be registered as {name!r}")
        self._loaded.pop(name, None)
        self._entries[name] = implementation

    def unregister(self, name: str) -> None:
        """Take out what `register` added.

        Raises:
            ConfigError: nothing was registered under this name.
        """
        if name in self._builtin or name not in self._entries:
            raise ConfigError(f"no {self.kind} {name!r} was registered in this process")
        del self._entries[name]
        self._loaded.pop(name, None)

    def refresh(self) -> None:
        """Forget what other packages offer: it is looked up again, since one was installed or removed."""
        self._offered = None
        self._loaded = {name: found for name, found in self._loaded.items() if name in self._entries}

    def names(self) -> tuple[str, ...]:
        """Every name: ours, those registered in this process, then those of other packages in alphabetical order."""
        return (*self._entries, *(name for name in self._entry_points() if name not in self._entries))

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __len__(self) -> int:
        return len(self.names())

    def __contains__(self, name: object) -> bool:
        return name in self._entries or name in self._entry_points()

    def items(self) -> Iterator[tuple[str, T]]:
        """Every name with its implementation, imported."""
        return ((name, self[name]) for name in self.names())

    def __getitem__(self, name: str) -> T:
        """The implementation of a name; only its own module is imported.

        Raises:
            ConfigError: there is none; the message names the nearest. Or another package's cannot be imported, or is
                not of this kind.
        """
        if name not in self._loaded:
            self._loaded[name] = self._load(name)
        return self._loaded[name]

    def _load(self, name: str) -> T:
        if name in self._entries:
            entry = self._entries[name]
            if not isinstance(entry, str):
                return entry
            module, _, attribute = entry.partition(":")
            found: T = getattr(importlib.import_module(module), attribute)
            return found
        if name not in self._entry_points():
            self.refresh()  # a package may have been installed since
        offered = self._entry_points().get(name)
        if offered is None:
            raise ConfigError(self._unknown(name))
        return self._load_offered(offered)

    def _load_offered(self, offered: importlib.metadata.EntryPoint) -> T:
        origin = f"{self.kind} {offered.name!r} of package {_package(offered)}"
        try:
            found: T = offered.load()
        except Exception as error:
            raise ConfigError(
                f"{origin} cannot be imported from {offered.value}: {type(error).__name__}: {error}. "
                "Mend or uninstall that package"
            ) from error
        if not self._accepts(found):
            raise ConfigError(f"{origin} is {found!r}, which is not a {self.kind}: mend or uninstall that package")
        return found

    def _entry_points(self) -> dict[str, importlib.metadata.EntryPoint]:
        """Those of other packages by name, looked up once.

        Raises:
            ConfigError: a name is offered twice, or is one of ours.
        """
        if self._offered is None:
            found: dict[str, importlib.metadata.EntryPoint] = {}
            for offered in sorted(importlib.metadata.entry_points(group=self.group), key=lambda e: (e.name, e.value)):
                other = found.get(offered.name)
                if offered.name in self._builtin or (other is not None and other.value != offered.value):
                    owner = "crystalign" if other is None else _package(other)
                    raise ConfigError(
                        f"packages {owner} and {_package(offered)} both offer a {self.kind} {offered.name!r}: "
                        f"uninstall one, or rename its entry point in {self.group!r}"
                    )
                found[offered.name] = offered
            self._offered = found
        return self._offered

    def _unknown(self, name: str) -> str:
        names = self.names()
        near = difflib.get_close_matches(str(name), names, n=3, cutoff=0.6)
        meant = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
        return f"no {self.kind} {name!r}; {meant}there are {', '.join(names)}"


def _package(entry_point: importlib.metadata.EntryPoint) -> str:
    return entry_point.dist.name if entry_point.dist is not None else entry_point.value
