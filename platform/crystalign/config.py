"""Base classes of all settings, which are the same models in YAML, on the command line, in Ray and over HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import yaml
from pydantic import BaseModel, ConfigDict, ModelWrapValidatorHandler, ValidationError, model_validator

from crystalign.errors import ConfigError
from crystalign.registry import Registry

MAX_FAULTS = 20
"""Largest number of validation errors in one message."""


class Config(BaseModel):
    """Base of all settings: frozen, without unknown names, documented by the docstring under each field."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    moved: ClassVar[Mapping[str, str]] = {}
    """Setting of an earlier release → its current name, for error messages."""

    @classmethod
    def from_mapping(cls, values: dict[str, Any], *, origin: str) -> Self:
        """Validate `values`.

        Args:
            values: setting → value.
            origin: where the values come from, such as a file name, for error messages.

        Raises:
            ConfigError: a field is unknown, missing or out of range; the message names it.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError(f"{origin} is not a valid {cls.__name__}: {faults(error)}") from error

    @classmethod
    def from_yaml(cls, path: str | Path) -> Self:
        """Read a YAML file.

        Raises:
            ConfigError: the file is missing, is not a YAML mapping or is not valid.
        """
        return cls.from_mapping(read_yaml(path), origin=str(path))

    def to_yaml(self) -> str:
        """The configuration as YAML, including all defaults."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)

    @classmethod
    def section(cls, value: object) -> dict[str, Any] | None:
        """`value` as a mapping, if it replaces single settings; None if it replaces all of them."""
        return value if isinstance(value, dict) else None

    @classmethod
    def layer(cls, values: dict[str, Any], base: Config | None) -> tuple[type[Config], dict[str, Any], Config | None]:
        """Prepare to override settings of `base` by `values`.

        Returns:
            The class of the result, `values` with current names, and `base` as an instance of that class.
        """
        return cls, values, base


class Tagged(Config):
    """Settings of several kinds (a tagged union): the field `kind` selects a class from a registry.

    A field of this type accepts `{kind: NAME, …}`, or NAME alone for the defaults of that kind. Annotate it
    `SerializeAsAny[…]`; otherwise the settings that a kind adds are not written.
    """

    kind: str
    """Name of the kind."""

    @classmethod
    def kinds(cls) -> Registry[type[Any]]:
        """The registry of classes by name."""
        raise TypeError(f"{cls.__name__} has no registry")

    @model_validator(mode="wrap")
    @classmethod
    def _of_kind(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Validate the value of a field of the common type with the class of its kind."""
        if isinstance(values, str):
            values = {"kind": values}
        if isinstance(values, Tagged) or not cls.model_fields["kind"].is_required():
            return handler(values)
        if not isinstance(values, dict) or not isinstance(values.get("kind"), str):
            raise ValueError(f"expected kind: NAME, one of {', '.join(cls.kinds())}")  # noqa: TRY004 (pydantic's)
        settings: Self = cls.kinds()[values["kind"]].model_validate(values)
        return settings

    @classmethod
    def section(cls, value: object) -> dict[str, Any] | None:
        """As in `Config`; the name of a kind alone replaces only the kind."""
        return {"kind": value} if isinstance(value, str) else super().section(value)

    @classmethod
    def layer(cls, values: dict[str, Any], base: Config | None) -> tuple[type[Config], dict[str, Any], Config | None]:
        """As in `Config`, for the class of the kind; from a `base` of another kind, common settings are kept."""
        chosen = type(base) if base is not None else cls
        if "kind" in values and (base is None or values["kind"] != getattr(base, "kind", None)):
            chosen = cls.kinds()[values["kind"]]
        if base is not None and not isinstance(base, chosen):
            shared = (set(chosen.model_fields) & base.model_fields_set) - {"kind"}
            base = chosen.model_construct(**{name: getattr(base, name) for name in shared})
        return chosen, values, base


def faults(error: ValidationError) -> str:
    """The validation errors of settings, field by field, in one line."""
    errors = error.errors(include_url=False, include_input=False)
    lines = [f"{'.'.join(map(str, e['loc'])) or '(top)'}: {e['msg']}" for e in errors[:MAX_FAULTS]]
    return "; ".join(lines) + (f"; and {len(errors) - MAX_FAULTS} more" if len(errors) > MAX_FAULTS else "")


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML file that contains a mapping.

    Raises:
        ConfigError: there is no such file, or it is not YAML or not a mapping.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"no configuration file at {path}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold a mapping at its top, not {type(values).__name__}")
    return values
