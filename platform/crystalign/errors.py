"""All exceptions that Crystalign raises for errors that a user can correct.

Error:
    ├── InputError            a value or a file cannot be used; it is quarantined, or the API answers with a 4xx status
    │   ├── CrystalError      an invalid crystal: broken cell, overlapping atoms, unknown element, too large
    │   ├── SpectrumError     a density of states or a powder pattern cannot be read
    │   ├── DensityError      a charge density cannot be read
    │   ├── FileFormatError   a file does not have the format of its name, is truncated or is too large
    │   └── QueryError        a search cannot be answered as requested
    ├── ConfigError           a setting contradicts another, or a name does not exist
    ├── StorageError          the object store refused a request, did not answer, or lost data
    │   ├── VerificationError the data read back differ from what was written or recorded
    │   └── ConflictError     another process wrote the file first
    ├── DatasetError          there is no manifest, or it does not match its files
    └── ModelError            a model directory cannot be used as requested

A message says what was wrong, with the value, and what to do. `InputError.reason` is a short, stable word by which
quarantine tables and API responses group errors.
"""

from __future__ import annotations


class Error(Exception):
    """Base class of all Crystalign exceptions."""


class InputError(Error, ValueError):
    """A value or a file from the user cannot be used.

    Args:
        message: what was wrong, with the value, and what to do.
        reason: short, stable word by which errors are grouped.
    """

    def __init__(self, message: str, *, reason: str = "invalid") -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[object, ...]:
        """Keep `reason` when the exception crosses a process boundary."""
        return (_rebuild, (type(self), str(self), self.reason))


def _rebuild(cls: type[InputError], message: str, reason: str) -> InputError:
    return cls(message, reason=reason)


class CrystalError(InputError):
    """A crystal is invalid: broken cell, overlapping atoms, unknown element, or too large."""


class SpectrumError(InputError):
    """A density of states or a powder pattern cannot be read."""


class DensityError(InputError):
    """A charge density cannot be read."""


class FileFormatError(InputError):
    """A file does not have the format of its name, is truncated or is too large."""


class ConfigError(Error, ValueError):
    """A setting contradicts another, or a name does not exist."""


class StorageError(Error, OSError):
    """The object store refused a request, did not answer, or lost data."""


class VerificationError(StorageError):
    """The data read back differ from what was written or recorded."""


class ConflictError(StorageError):
    """A file to replace was changed by another process first; it is left unchanged."""


class DatasetError(Error):
    """There is no manifest, or it does not match its files."""


class ModelError(Error):
    """A model directory cannot be used as requested."""


class QueryError(InputError):
    """A search cannot be answered as requested."""
