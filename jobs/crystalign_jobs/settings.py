"""Settings of a command in layers: defaults, presets and files, single changes; flags come last, in `cli`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crystalign.config import Config


def with_defaults(cls: type[Config], values: dict[str, Any], *, origin: str, base: Config | None = None) -> Config:
    """`values` over the defaults of `cls`; what is required and not given stays `tyro.MISSING` for a flag to fill.

    A nested section replaces only the fields it names, as flags do.

    Raises:
        ConfigError: a field does not exist or its value does not fit.
    """
    import tyro

    from crystalign.config import Config
    from crystalign.errors import ConfigError

    for name in values:
        if name not in cls.model_fields:
            raise ConfigError(f"{origin}: {cls.__name__} has no field {name!r}{nearest(name, cls.model_fields)}")
    filled: dict[str, Any] = {}
    for name, field in cls.model_fields.items():
        kind = field.annotation
        present = getattr(base, name) if base is not None else _field_default(field, tyro.MISSING)
        given = values.get(name)
        if name not in values:
            filled[name] = present
        elif isinstance(given, dict) and isinstance(kind, type) and issubclass(kind, Config):
            inner = present if isinstance(present, Config) else None
            filled[name] = with_defaults(kind, given, origin=f"{origin}: {name}", base=inner)
        else:
            filled[name] = _checked(name, field, given, origin)
    return cls.model_construct(**filled)


def stored(run: str, name: str, *, missing: str) -> dict[str, Any]:
    """The settings that a run was started with, to go on with it where it lies now.

    Args:
        run: URI of its folder, which may have been moved.
        name: of the file.
        missing: what to say where there is none.

    Raises:
        ConfigError: there is none.
    """
    import yaml

    from crystalign import storage
    from crystalign.errors import ConfigError

    place = storage.join(run, name)
    if not storage.exists(place):
        raise ConfigError(missing)
    values: dict[str, Any] = yaml.safe_load(storage.read_bytes(place))
    out, _, own = run.rstrip("/").rpartition("/")
    return values | {"out": out, "name": own, "resume": True}


def changed(cls: type[Config], base: Config | None, change: str) -> Config:
    """`base`, or the defaults of `cls`, with one setting replaced.

    Args:
        cls: the configuration class.
        base: what it is changed in.
        change: `name.name=value`, where a name is a field or the key of a mapping, and the value is YAML.

    Raises:
        ConfigError: no such field, or the value does not fit, or it is no such text.
    """
    import yaml

    from crystalign.errors import ConfigError

    place, equals, text = change.partition("=")
    origin = f"--set {change}"
    if not equals or not all(place.split(".")):
        raise ConfigError(f"{origin}: expected NAME.NAME=VALUE, e.g. --set optimiser.lr=1e-4")
    base = with_defaults(cls, {}, origin=origin) if base is None else base
    try:
        values = _replaced(base, place.split("."), yaml.safe_load(text), origin)
    except yaml.YAMLError as error:
        raise ConfigError(f"{origin}: the value is not YAML: {error}") from error
    name = place.partition(".")[0]
    return with_defaults(cls, {name: values[name]}, origin=origin, base=base)


def _replaced(node: Any, path: Sequence[str], value: Any, origin: str) -> dict[str, Any]:
    """The settings that were written down in `node`, with the one at `path` replaced."""
    from crystalign.config import Config
    from crystalign.errors import ConfigError

    name, rest = path[0], path[1:]
    if isinstance(node, Config):
        known = type(node).model_fields
        if name not in known:
            raise ConfigError(f"{origin}: {type(node).__name__} has no field {name!r}{nearest(name, known)}")
        plain: dict[str, Any] = {key: getattr(node, key) for key in node.model_fields_set | {name}}
    elif isinstance(node, dict):
        plain = dict(node)
    else:
        raise ConfigError(f"{origin}: there is nothing to set within {node!r}")
    if rest:
        plain[name] = _replaced(plain.get(name, {}), rest, value, origin)
    elif value is None and isinstance(node, dict):
        plain.pop(name, None)
    else:
        plain[name] = value
    return plain


def _checked(name: str, field: Any, value: Any, origin: str) -> Any:
    """One field's value, converted and held to the field's bounds."""
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
    """What was perhaps meant, as the end of a message; empty where nothing is near."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; perhaps you meant {close[0]!r}" if close else ""
