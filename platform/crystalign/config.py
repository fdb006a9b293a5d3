"""The one base of every configuration: YAML, command line, Ray and HTTP speak the same models."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from crystalign.errors import ConfigError

MAX_FAULTS = 20
"""Named in one message."""


class Config(BaseModel):
    """Frozen, strict about names, documented by the docstring under each field."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @classmethod
    def from_mapping(cls, values: dict[str, Any], *, origin: str) -> Self:
        """Validate `values`; errors name the field and `origin`, the place the values came from.

        Raises:
            ConfigError: a field is unknown, missing or out of range.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            found = error.errors(include_url=False, include_input=False)
            lines = [f"{'.'.join(map(str, e['loc'])) or '(top)'}: {e['msg']}" for e in found[:MAX_FAULTS]]
            more = f"; and {len(found) - MAX_FAULTS} more" if len(found) > MAX_FAULTS else ""
            message = f"{origin} is not a valid {cls.__name__}: " + "; ".join(lines) + more
            raise ConfigError(message) from error

    @classmethod
    def from_yaml(cls, path: str | Path) -> Self:
        """Read a YAML file.

        Raises:
            ConfigError: the file is missing, is not a YAML mapping or does not validate.
        """
        return cls.from_mapping(read_yaml(path), origin=str(path))

    def to_yaml(self) -> str:
        """The resolved configuration, every default included."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping at the top of a YAML file.

    Raises:
        ConfigError: no such file, not YAML, or not a mapping.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        message = f"no configuration file at {path}"
        raise ConfigError(message) from error
    except yaml.YAMLError as error:
        message = f"{path} is not YAML: {error}"
        raise ConfigError(message) from error
    if not isinstance(values, dict):
        message = f"{path} must hold a mapping at its top, not {type(values).__name__}"
        raise ConfigError(message)
    return values
