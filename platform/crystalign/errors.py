"""Every exception Crystalign raises for a reason its user can act upon.

Error:
    ├── InputError            a value or a file cannot be used; it is quarantined or answered with a 4xx
    │   ├── CrystalError      not a crystal we can hold: broken cell, overlapping atoms, unknown element, too large
    │   ├── SpectrumError     a density of states or a powder pattern that cannot be read
    │   ├── DensityError      a charge density that cannot be read
    │   └── FileFormatError   the file is not what its name says, is truncated or is too large
    ├── ConfigError           a setting that contradicts another, or a name that does not exist
    ├── StorageError          the object store refused, vanished or lied
    │   ├── VerificationError what was read back is not what was written
    │   └── ConflictError     another process wrote the file first
    ├── DatasetError          no manifest, or one that does not match its files
    ├── ModelError            a model directory that cannot be used as asked
    └── QueryError            a search that cannot be answered as asked

A message says what was wrong, with the value, and what to do. `InputError.reason` is the
short, stable word that quarantine tables and API answers group by.
"""

from __future__ import annotations


class Error(Exception):
    """Root of every Crystalign exception."""


class InputError(Error, ValueError):
    """A value or a file of the user's that cannot be used."""

    def __init__(self, message: str, *, reason: str = "invalid") -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[object, ...]:
        """Keep `reason` when the exception crosses a process boundary."""
        return (_rebuild, (type(self), str(self), self.reason))


def _rebuild(cls: type[InputError], message: str, reason: str) -> InputError:
    return cls(message, reason=reason)


class CrystalError(InputError):
    """Not a crystal that can be held."""


class SpectrumError(InputError):
    """A density of states or a powder pattern that cannot be read."""


class DensityError(InputError):
    """A charge density that cannot be read."""


class FileFormatError(InputError):
    """A file that is not what its name says, is truncated or is too large."""


class ConfigError(Error, ValueError):
    """A setting that contradicts another, or a name that does not exist."""


class StorageError(Error, OSError):
    """The object store refused, vanished or lied."""


class VerificationError(StorageError):
    """What was read back is not what was written."""


class ConflictError(StorageError):
    """A file is not the one that was to be replaced: another process wrote it first. It is left as it is."""


class DatasetError(Error):
    """No manifest, or one that does not match its files."""


class ModelError(Error):
    """A model directory that cannot be used as asked."""


class QueryError(InputError):
    """A search that cannot be answered as asked."""
