"""Settings of objectives as earlier releases wrote them: flat among those of the model, in formats 1 and 2.

    objective: cosface                    objective:
    pairs: all                              kind: cosface
    initial_temperature: 0.07       →       pairs: all
    cosface_scale: 3.0                      scale: 3.0

A file of that layout held every setting of every objective; what its own objective did not read had no effect and is
left out.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field

from crystalign.config import Config
from crystalign.objectives.objective import Pair

FormerKind = Literal["clip", "siglip", "cosface", "tensorclip", "barlow"]


class FlatSettings(Config):
    """The settings with the bounds that they had."""

    pairs: tuple[Pair, ...] | Annotated[str, Field(pattern=r"^(all|anchored\([a-z_]+\))$")] = ()
    """Of `clip`, `siglip` and `cosface`."""
    pair_weights: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(default_factory=dict)
    """Of the same."""
    objective: FormerKind = "clip"
    """Which one."""
    initial_temperature: float = Field(default=0.07, gt=0.01, le=1.0)
    """Of `clip`, `siglip` and `tensorclip`."""
    learn_temperature: bool = True
    """Of the same."""
    cosface_scale: float = Field(default=3.0, gt=0, allow_inf_nan=False)
    """Of `cosface`."""
    cosface_margin: float = Field(default=0.5, ge=0, lt=2)
    """Of `cosface`."""
    barlow_off_diagonal: float = Field(default=0.0051, ge=0, allow_inf_nan=False)
    """Of `barlow`."""


class Place(NamedTuple):
    """Where a flat setting is today."""

    name: str
    """In the objective."""
    kinds: tuple[str, ...]
    """Objectives that have it."""


_PAIRWISE, _TEMPERED = ("clip", "siglip", "cosface"), ("clip", "siglip", "tensorclip")
PLACES = {
    "pairs": Place("pairs", _PAIRWISE),
    "pair_weights": Place("pair_weights", _PAIRWISE),
    "initial_temperature": Place("initial_temperature", _TEMPERED),
    "learn_temperature": Place("learn_temperature", _TEMPERED),
    "cosface_scale": Place("scale", ("cosface",)),
    "cosface_margin": Place("margin", ("cosface",)),
    "barlow_off_diagonal": Place("off_diagonal", ("barlow",)),
}
"""Flat setting → its place."""
_ORDER = ("modalities", "pairs", "pair_weights", "embedding_dim", "objective", *list(PLACES)[2:])


def without_flat_settings(values: dict[str, Any], kind: str = "clip") -> dict[str, Any]:
    """A model's settings with those of the objective in a section of their own.

    Args:
        values: in either layout; not changed.
        kind: the objective where none is named.

    Raises:
        ValueError: flat settings beside a section, or one that contradicts the objective.
    """
    flat = [name for name in PLACES if name in values]
    if not flat:
        return values
    kind = values.get("objective", kind)
    if not isinstance(kind, str):
        raise ValueError(f"{flat[0]} belongs to the objective: write it as objective.{PLACES[flat[0]].name}")  # noqa: TRY004
    checked = FlatSettings.model_validate({name: values[name] for name in (*flat, "objective") if name in values})
    if kind in ("tensorclip", "barlow") and (checked.pairs or checked.pair_weights):
        raise ValueError(f"{kind} aligns all modalities at once: leave out pairs and pair_weights")
    section = {PLACES[name].name: getattr(checked, name) for name in flat if kind in PLACES[name].kinds}
    return {k: v for k, v in values.items() if k not in PLACES} | {"objective": {"kind": kind} | section}


def flat_settings_of(values: dict[str, Any]) -> dict[str, Any]:
    """What a file of the earlier layout says of the objective, as plain data: the identity of its model depends on it.

    Raises:
        ValueError: a setting is out of bounds.
    """
    flat = {name: values[name] for name in FlatSettings.model_fields if name in values}
    return FlatSettings.model_validate(flat).model_dump(mode="json", exclude_unset=True)


def flat_layout(settings: dict[str, Any], flat: dict[str, Any]) -> dict[str, Any]:
    """A model's settings as they stood in a file of the earlier layout.

    Args:
        settings: in today's layout, as plain data.
        flat: what `flat_settings_of` found in the file.
    """
    known = {name: value for name, value in settings.items() if name != "objective"} | flat
    return {name: known[name] for name in _ORDER if name in known}
