"""`crystalign encoders`: list the networks with modality, size and paper, or the options of one of them."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Sequence
from typing import Any

from crystalign.config import Config
from crystalign.encoders import ENCODERS, encoder_class, encoder_entry, encoder_settings
from crystalign.errors import ConfigError


class Encoders(Config):
    """List the networks available as encoders, at their default settings, or the options of one of them.

    Example: crystalign encoders --modality crystal
    """

    name: str | None = None
    """Print the options of this network instead, with their meaning and default."""
    modality: str | None = None
    """List only networks that read this modality."""
    json_lines: bool = False
    """One JSON object per line instead of a table."""


class Row(Config):
    """One network."""

    name: str
    """Name of the network in a model's configuration."""
    modality: str
    """The modality that it reads."""
    parameters: int
    """Trainable parameters at the default settings."""
    width: int
    """Length of its output vector."""
    source: str
    """Paper that describes it."""

    @property
    def cells(self) -> tuple[str, ...]:
        """Text of its row in the table."""
        return self.name, self.modality, f"{self.parameters:,}", str(self.width), self.source


class Option(Config):
    """One option of a network."""

    option: str
    """Name of the option under `options` in a model's configuration."""
    default: Any
    """Default value."""
    meaning: str
    """Meaning of the option."""

    @property
    def cells(self) -> tuple[str, ...]:
        """Text of its row in the table."""
        return self.option, json.dumps(self.default), self.meaning


def main(config: Encoders) -> None:
    """Print the table.

    Raises:
        ConfigError: there is no such network, or none reads that modality.
    """
    if config.name is not None and config.modality is not None:
        raise ConfigError(f"--name {config.name} and --modality {config.modality} cannot be combined: give one of them")
    table_rows: Sequence[Row | Option] = rows(config.modality) if config.name is None else options(config.name)
    if config.json_lines:
        for row in table_rows:
            print(json.dumps(row.model_dump()))
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console, table = Console(width=None if sys.stdout.isatty() else 140), Table(box=SIMPLE_HEAD)
    if config.name is not None:
        about = f"{config.name}: {encoder_entry(config.name).source}\n\n{inspect.getdoc(encoder_class(config.name))}"
        console.print(Text(about))
        columns: dict[str, dict[str, Any]] = {"option": {"no_wrap": True}, "default": {}, "meaning": {}}
    else:
        columns = {"encoder": {"no_wrap": True}, "modality": {"no_wrap": True}}
        columns |= {"parameters": {"justify": "right", "no_wrap": True}, "width": {"justify": "right"}, "source": {}}
    for title, style in columns.items():
        table.add_column(title, overflow="fold", **style)
    for row in table_rows:
        table.add_row(*map(Text, row.cells))
    console.print(table)


def options(name: str) -> list[Option]:
    """The options of a network with their defaults.

    Raises:
        ConfigError: there is no such network.
    """
    defaults = encoder_settings(name).model_dump(mode="json")
    fields = encoder_class(name).Settings.model_fields
    return [Option(option=key, default=defaults[key], meaning=fields[key].description or "") for key in defaults]


def rows(modality: str | None = None) -> list[Row]:
    """All networks, or those that read `modality`.

    Raises:
        ConfigError: no network reads it.
    """
    modalities = sorted({entry.modality for _, entry in ENCODERS.items()})
    if modality is not None and modality not in modalities:
        raise ConfigError(f"no encoder reads {modality!r}; there are encoders of {', '.join(modalities)}")
    return [_row(name) for name, entry in ENCODERS.items() if modality in (None, entry.modality)]


def _row(name: str) -> Row:
    entry, cls = ENCODERS[name], encoder_class(name)
    settings = encoder_settings(name)
    encoder = cls.build(settings, cls.prepare(settings, _many_words()))
    size = sum(p.numel() for p in encoder.parameters() if p.requires_grad)
    return Row(name=name, modality=entry.modality, parameters=size, width=encoder.width, source=entry.source)


def _many_words() -> list[str]:
    """Texts with enough words to fill a tokenizer's vocabulary, because the size of a text encoder depends on it."""
    syllables = [a + b for a in "bcdfghjklmnprstvz" for b in "aeiou"]
    return [" ".join(f"{first}{second}" for second in syllables) for first in syllables]
