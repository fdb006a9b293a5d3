"""Layers of settings of a command: defaults, presets, files and single changes. Flags come last, in `cli`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crystalign.config import Config


def with_defaults(cls: type[Config], values: dict[str, Any], *, origin: str, base: Config | None = None) -> Config:
    """`values` layered over the defaults of `cls`; a missing required field is `tyro.MISSING`, to be set by a flag.

    A nested section replaces only the fields that it names, as flags do.

    Raises:
        ConfigError: a field does not exist, or its value is not valid.
    """
    import tyro

    from crystalign.config import Config
    from crystalign.errors import ConfigError

    try:
        cls, values, base = cls.layer(values, base)
    except ConfigError as error:
        raise ConfigError(f"{origin}: {error}") from error
    for name in values:
        if name not in cls.model_fields:
            raise ConfigError(f"{origin}: {cls.__name__} has no field {name!r}{nearest(name, cls.model_fields)}")
    merged: dict[str, Any] = {}
    for name, field in cls.model_fields.items():
        kind = field.annotation if isinstance(field.annotation, type) else None
        current = getattr(base, name) if base is not None else _field_default(field, tyro.MISSING)
        given = values.get(name)
        section = kind.section(given) if kind is not None and issubclass(kind, Config) else None
        if name not in values:
            merged[name] = current
        elif section is not None:
            assert kind is not None
            inner = current if isinstance(current, Config) else None
            merged[name] = with_defaults(kind, section, origin=f"{origin}: {name}", base=inner)
        else:
            merged[name] = _checked(name, field, given, origin)
    return cls.model_construct(**merged)


def stored(run: str, name: str, *, missing: str) -> dict[str, Any]:
    """The stored settings of a run, with `out` and `name` of its present location.

    Args:
        run: URI of its folder, which may have been moved.
        name: name of the settings file.
        missing: error message if there is no such file.

    Raises:
        ConfigError: there is no such file.
    """
    import yaml

    from crystalign import storage
    from crystalign.errors import ConfigError

    path = storage.join(run, name)
    if not storage.exists(path):
        raise ConfigError(missing)
    values: dict[str, Any] = yaml.safe_load(storage.read_bytes(path))
    out, _, name_of_run = run.rstrip("/").rpartition("/")
    return values | {"out": out, "name": name_of_run, "resume": True}


def changed(cls: type[Config], base: Config | None, change: str) -> Config:
    """`base`, or the defaults of `cls`, with one setting replaced.

    Args:
        cls: the configuration class.
        base: the settings to change.
        change: `name.name=value`, where a name is a field or the key of a mapping, and the value is YAML.

    Raises:
        ConfigError: there is no such field, the value is not valid, or `change` has another form.
    """
    import yaml

    from crystalign.errors import ConfigError

    dotted, equals, text = change.partition("=")
    origin = f"--set {change}"
    if not equals or not all(dotted.split(".")):
        raise ConfigError(f"{origin}: expected NAME.NAME=VALUE, e.g. --set optimiser.lr=1e-4")
    base = with_defaults(cls, {}, origin=origin) if base is None else base
    try:
        values = _replaced(base, dotted.split("."), yaml.safe_load(text), origin)
    except yaml.YAMLError as error:
        raise ConfigError(f"{origin}: the value is not YAML: {error}") from error
    name = dotted.partition(".")[0]
    return with_defaults(cls, {name: values[name]}, origin=origin, base=base)


def _replaced(node: Any, path: Sequence[str], value: Any, origin: str) -> dict[str, Any]:
    """The explicitly set values of `node`, with the one at `path` replaced."""
    from crystalign.config import Config
    from crystalign.errors import ConfigError

    name, rest = path[0], path[1:]
    if isinstance(node, Config):
        fields = type(node).model_fields
        if name in type(node).moved:
            raise ConfigError(
                f"{origin}: {type(node).__name__} has no field {name!r} any more; it is {type(node).moved[name]}"
            )
        if name not in fields:
            raise ConfigError(f"{origin}: {type(node).__name__} has no field {name!r}{nearest(name, fields)}")
        values: dict[str, Any] = {key: getattr(node, key) for key in node.model_fields_set | {name}}
        if name == "kind":
            values = {}  # `Tagged.layer` keeps the settings that both kinds have
    elif isinstance(node, dict):
        values = dict(node)
    else:
        raise ConfigError(f"{origin}: there is nothing to set within {node!r}")
    if rest:
        values[name] = _replaced(values.get(name, {}), rest, value, origin)
    elif value is None and isinstance(node, dict):
        values.pop(name, None)
    else:
        values[name] = value
    return values


def _checked(name: str, field: Any, value: Any, origin: str) -> Any:
    """The value of a field, converted and validated."""
    from typing import Annotated

    from pydantic import TypeAdapter, ValidationError

    from crystalign.errors import ConfigError

    adapter: TypeAdapter[Any] = TypeAdapter(Annotated[field.annotation, field])
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        problems = "; ".join(".".join(map(str, (name, *e["loc"]))) + f": {e['msg']}" for e in error.errors())
        raise ConfigError(f"{origin}: {problems}") from error


def _field_default(field: Any, missing: Any) -> Any:
    return missing if field.is_required() else field.get_default(call_default_factory=True)


def nearest(name: str, known: Iterable[str]) -> str:
    """A suggestion to append to an error message; empty if no known name is similar."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; perhaps you meant {close[0]!r}" if close else ""
