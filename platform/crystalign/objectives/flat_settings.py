"""Flat layout of earlier releases (formats 1 and 2): the objective's settings among those of the model.

    objective: cosface                    objective:
    pairs: all                              kind: cosface
    initial_temperature: 0.07       →       pairs: all
    cosface_scale: 3.0                      scale: 3.0

Such a file contains the settings of all objectives; those that its own objective does not use are dropped.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field

from crystalign.config import Config
from crystalign.objectives.objective import Pair

FormerKind = Literal["clip", "siglip", "cosface", "tensorclip", "barlow"]


class FlatSettings(Config):
    """The flat settings with their original bounds."""

    pairs: tuple[Pair, ...] | Annotated[str, Field(pattern=r"^(all|anchored\([a-z_]+\))$")] = ()
    """Pairs of `clip`, `siglip` and `cosface`."""
    pair_weights: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(default_factory=dict)
    """Pair → weight of its loss, for `clip`, `siglip` and `cosface`."""
    objective: FormerKind = "clip"
    """Kind of objective."""
    initial_temperature: float = Field(default=0.07, gt=0.01, le=1.0)
    """Initial temperature of `clip`, `siglip` and `tensorclip`."""
    learn_temperature: bool = True
    """Whether the temperature of `clip`, `siglip` and `tensorclip` is learned."""
    cosface_scale: float = Field(default=3.0, gt=0, allow_inf_nan=False)
    """Logit scale of `cosface`."""
    cosface_margin: float = Field(default=0.5, ge=0, lt=2)
    """Margin of `cosface`."""
    barlow_off_diagonal: float = Field(default=0.0051, ge=0, allow_inf_nan=False)
    """Setting of `barlow`."""


class Place(NamedTuple):
    """New position of a flat setting."""

    name: str
    """Name of the setting in the objective."""
    kinds: tuple[str, ...]
    """Objectives that have the setting."""


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
"""Flat setting → its new position."""
_ORDER = ("modalities", "pairs", "pair_weights", "embedding_dim", "objective", *list(PLACES)[2:])


def without_flat_settings(values: dict[str, Any], kind: str = "clip") -> dict[str, Any]:
    """Move the objective's settings into their own section of a model's settings.

    Args:
        values: a model's settings in either layout; not modified.
        kind: the objective if the settings do not name one.

    Raises:
        ValueError: flat settings are given together with a section, or contradict the objective.
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
    """Return the objective's settings of a flat file as plain data, on which the identity of its model depends.

    Raises:
        ValueError: a setting is out of bounds.
    """
    flat = {name: values[name] for name in FlatSettings.model_fields if name in values}
    return FlatSettings.model_validate(flat).model_dump(mode="json", exclude_unset=True)


def flat_layout(settings: dict[str, Any], flat: dict[str, Any]) -> dict[str, Any]:
    """Convert a model's settings to the flat layout.

    Args:
        settings: in the current layout, as plain data.
        flat: the result of `flat_settings_of` for the file.
    """
    merged = {name: value for name, value in settings.items() if name != "objective"} | flat
    return {name: merged[name] for name in _ORDER if name in merged}
