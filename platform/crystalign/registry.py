"""`Registry`: implementations of one kind by name, built in or from other packages."""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
from collections.abc import Callable, Iterator, Mapping
from typing import Generic, TypeVar

from crystalign.errors import ConfigError

T = TypeVar("T")


class Registry(Generic[T]):
    """Map names to implementations, which are imported on first use.

    An implementation is added in one of three ways:

    - a line in the built-in table of the registry;
    - an entry point of an installed package, in the group of the registry. Every process on a machine with the package
      finds it. In the package's `pyproject.toml`:

          [project.entry-points."crystalign.objectives"] triplet = "my_package.triplet:Triplet"

    - `register`, for this process only, e.g. in notebooks and tests.

    Names are unique: registering a second implementation under a name is an error. Configurations contain names and
    never module paths, so opening a file imports only installed packages.
    """

    def __init__(
        self,
        kind: str,
        group: str,
        builtin: Mapping[str, str | T],
        *,
        accepts: Callable[[object], bool] = lambda _: True,
    ) -> None:
        """Create a registry without importing modules or reading entry points.

        Args:
            kind: what it holds, one word for messages, e.g. "objective".
            group: entry-point group for other packages, e.g. "crystalign.objectives".
            builtin: name → `module:attribute`, or the implementation itself if it is cheap to import; in display
                order.
            accepts: whether an object is an implementation of this kind.
        """
        self.kind = kind
        self.group = group
        self._builtin = dict(builtin)
        self._entries: dict[str, str | T] = dict(builtin)
        self._loaded: dict[str, T] = {}
        self._offered: dict[str, importlib.metadata.EntryPoint] | None = None
        self._accepts = accepts

    def register(self, name: str, implementation: str | T, *, replace: bool = False) -> None:
        """Register an implementation in this process only.

        Args:
            name: its name in configurations.
            implementation: the object, or `module:attribute`.
            replace: whether to replace an earlier registration, e.g. when a notebook cell runs again.

        Raises:
            ConfigError: the name is taken, or the object is not of the registry's kind.
        """
        if name in self and not (replace and name in self._entries and name not in self._builtin):
            raise ConfigError(f"there is a {self.kind} {name!r} already; choose another name")
        if not isinstance(implementation, str) and not self._accepts(implementation):
            raise ConfigError(f"{implementation!r} is not a {self.kind}, so it cannot be registered as {name!r}")
        self._loaded.pop(name, None)
        self._entries[name] = implementation

    def unregister(self, name: str) -> None:
        """Remove an implementation that `register` added.

        Raises:
            ConfigError: nothing was registered under this name.
        """
        if name in self._builtin or name not in self._entries:
            raise ConfigError(f"no {self.kind} {name!r} was registered in this process")
        del self._entries[name]
        self._loaded.pop(name, None)

    def refresh(self) -> None:
        """Read the entry points again, after a package was installed or removed."""
        self._offered = None
        self._loaded = {name: entry for name, entry in self._loaded.items() if name in self._entries}

    def names(self) -> tuple[str, ...]:
        """All names: built-in ones, those registered in this process, then those of other packages, sorted."""
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
        """Return the implementation of a name; only its own module is imported.

        Raises:
            ConfigError: the name is unknown (the message suggests the nearest one), or the implementation of another
                package cannot be imported or is not of this kind.
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
            implementation: T = getattr(importlib.import_module(module), attribute)
            return implementation
        if name not in self._entry_points():
            self.refresh()  # a package may have been installed since
        offered = self._entry_points().get(name)
        if offered is None:
            raise ConfigError(self._unknown(name))
        return self._load_offered(offered)

    def _load_offered(self, offered: importlib.metadata.EntryPoint) -> T:
        origin = f"{self.kind} {offered.name!r} of package {_package(offered)}"
        try:
            implementation: T = offered.load()
        except Exception as error:
            raise ConfigError(
                f"{origin} cannot be imported from {offered.value}: {type(error).__name__}: {error}. "
                "Fix or uninstall that package"
            ) from error
        if not self._accepts(implementation):
            raise ConfigError(
                f"{origin} is {implementation!r}, which is not a {self.kind}: fix or uninstall that package"
            )
        return implementation

    def _entry_points(self) -> dict[str, importlib.metadata.EntryPoint]:
        """Return the entry points of other packages by name, cached.

        Raises:
            ConfigError: two packages offer the same name, or it is a built-in name.
        """
        if self._offered is None:
            entry_points: dict[str, importlib.metadata.EntryPoint] = {}
            for offered in sorted(importlib.metadata.entry_points(group=self.group), key=lambda e: (e.name, e.value)):
                other = entry_points.get(offered.name)
                if offered.name in self._builtin or (other is not None and other.value != offered.value):
                    owner = "crystalign" if other is None else _package(other)
                    raise ConfigError(
                        f"packages {owner} and {_package(offered)} both offer a {self.kind} {offered.name!r}: "
                        f"uninstall one, or rename its entry point in {self.group!r}"
                    )
                entry_points[offered.name] = offered
            self._offered = entry_points
        return self._offered

    def _unknown(self, name: str) -> str:
        names = self.names()
        near = difflib.get_close_matches(str(name), names, n=3, cutoff=0.6)
        meant = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
        return f"no {self.kind} {name!r}; {meant}there are {', '.join(names)}"


def _package(entry_point: importlib.metadata.EntryPoint) -> str:
    return entry_point.dist.name if entry_point.dist is not None else entry_point.value
