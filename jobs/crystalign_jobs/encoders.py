"""`crystalign encoders`: the networks by name, what they read, their size and their source."""

from __future__ import annotations

import json
import sys

from crystalign.config import Config
from crystalign.encoders import ENCODERS, encoder_class, encoder_settings
from crystalign.errors import ConfigError


class Encoders(Config):
    """List the networks that a model can be made of, at their default settings.

    Example: crystalign encoders --modality crystal
    """

    modality: str | None = None
    """Only those that read this modality."""
    json_lines: bool = False
    """One JSON object per line instead of a table."""


class Row(Config):
    """One network."""

    name: str
    """As in a model's configuration."""
    modality: str
    """What it reads."""
    parameters: int
    """How many numbers it learns at its default settings."""
    width: int
    """Length of the vector it gives for each sample."""
    source: str
    """The paper."""


def main(config: Encoders) -> None:
    """Print the table.

    Raises:
        ConfigError: no network reads that modality.
    """
    found = rows(config.modality)
    if config.json_lines:
        for row in found:
            print(json.dumps(row.model_dump()))
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD)
    table.add_column("encoder", no_wrap=True)
    table.add_column("modality", no_wrap=True)
    table.add_column("parameters", justify="right", no_wrap=True)
    table.add_column("width", justify="right")
    table.add_column("source", overflow="fold")
    for row in found:
        table.add_row(row.name, row.modality, f"{row.parameters:,}", str(row.width), row.source)
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def rows(modality: str | None = None) -> list[Row]:
    """Every network that reads `modality`, or every network.

    Raises:
        ConfigError: there is none.
    """
    known = sorted({entry.modality for entry in ENCODERS.values()})
    if modality is not None and modality not in known:
        raise ConfigError(f"no encoder reads {modality!r}; there are encoders of {', '.join(known)}")
    return [_row(name) for name, entry in ENCODERS.items() if modality in (None, entry.modality)]


def _row(name: str) -> Row:
    entry, cls = ENCODERS[name], encoder_class(name)
    settings = encoder_settings(name)
    encoder = cls.build(settings, cls.prepare(settings, _many_words()))
    size = sum(p.numel() for p in encoder.parameters() if p.requires_grad)
    return Row(name=name, modality=entry.modality, parameters=size, width=encoder.width, source=entry.source)


def _many_words() -> list[str]:
    """Texts with enough different words to fill a tokenizer's vocabulary, on which a text encoder's size depends."""
    syllables = [a + b for a in "bcdfghjklmnprstvz" for b in "aeiou"]
    return [" ".join(f"{first}{second}" for second in syllables) for first in syllables]
