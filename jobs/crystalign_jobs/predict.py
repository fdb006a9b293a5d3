"""`crystalign predict`: properties of crystals by fine-tuned models, with intervals and out-of-domain scores.

What the models read besides the structure and follows from it (powder pattern, caption, descriptors, picture) is
computed as `crystalign derive` does.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field
from tyro.conf import Positional, UseAppendAction

from crystalign import storage
from crystalign.config import Config
from crystalign.errors import ConfigError, InputError
from crystalign.storage import Uri

if TYPE_CHECKING:
    from crystalign.material import Material


class Predict(Config):
    """Predict properties of crystals by fine-tuned models or ensembles of them.

    An interval holds the value with the probability `level` for materials like those of the calibration part. A score
    out of domain above 1 says that the material is unlike what the model learnt from: then neither value nor interval
    can be relied on. Models that share frozen encoders share their pass.

    For example:

      crystalign predict --model campaigns/first/best/gap NaCl.cif MgO.cif
      crystalign predict --model best/gap --model best/bulk-modulus --json-lines *.cif
    """

    files: Positional[tuple[Uri, ...]]
    """CIF or POSCAR files, gzipped or not, any URI."""
    model: Annotated[tuple[Uri, ...], UseAppendAction, Field(min_length=1)]
    """Model directory, such as `best/<task>` of a campaign or `model` of a trial; give it several times for several."""
    level: float = 0.9
    """Of the intervals: 0.5, 0.8, 0.9 or 0.95."""
    json_lines: bool = False
    """One JSON object per crystal instead of a table."""
    batch_size: int = Field(default=64, ge=1)
    """Crystals that pass the encoders together."""
    max_seconds: float = Field(default=60.0, gt=0)
    """For what follows from one crystal."""


def main(config: Predict) -> None:
    """Print values, intervals and scores; the exit code is 1 where a file could not be used.

    Raises:
        ConfigError: no file or no model.
        ModelError: a model is missing or broken.
        InputError: none of the files could be used.
    """
    from crystalign.finetuning.answers import answers_of
    from crystalign.finetuning.ensemble import load_predictor
    from crystalign.finetuning.prediction import PredictorGroup

    if not config.files or not config.model:
        raise ConfigError("name a model and at least one file: crystalign predict --model DIR FILE.cif")
    group = PredictorGroup({name: load_predictor(uri) for name, uri in _names(config.model).items()})
    materials, wrong = read(config.files, group.modalities, config.max_seconds)
    answers, more = answers_of(group, materials, level=config.level, batch_size=config.batch_size)
    wrong += [(materials[number].id, why) for number, why in more]
    records = [record for record in answers if record["predictions"]]
    if config.json_lines:
        for record in records:
            print(json.dumps(record))
    elif records:
        show(records, config.level)
    for name, why in wrong:
        print(f"{name}: {why}", file=sys.stderr)
    if not records:
        raise InputError(f"none of the {len(config.files)} files could be used")
    if wrong:
        raise SystemExit(1)


def _names(models: Sequence[str]) -> dict[str, str]:
    """A short name for each model: its folder, or its whole place where two folders are called alike."""
    short = [uri.rstrip("/").rpartition("/")[2] for uri in models]
    alike = len(set(short)) < len(short)
    return {uri if alike else name: uri for name, uri in zip(short, models, strict=True)}


def read(
    files: Sequence[str], modalities: Sequence[str], max_seconds: float
) -> tuple[list[Material], list[tuple[str, str]]]:
    """The crystals of some files, with what follows from them; and what could not be read, and why.

    Args:
        files: with structures, of any kind that is known.
        modalities: what is wanted besides the structure.
        max_seconds: for one modality of one crystal.
    """
    from crystalign.derivation import extended
    from crystalign.errors import InputError, StorageError
    from crystalign.material import Material, Provenance
    from crystalign.shards.writer import Reject
    from crystalign.sources.limits import Limits
    from crystalign.sources.structures import file_kind, read_structures

    limits, materials, wrong = Limits(), list[Material](), list[tuple[str, str]]()
    for place in files:
        name = place.rpartition("/")[2]
        try:
            data = storage.read_bytes(place, limit=limits.bytes_of(file_kind(name)))
            found = list(read_structures(data, name, limits=limits))
        except (InputError, StorageError) as error:
            wrong.append((name, str(error)))
            continue
        for suffix, reading in found:
            try:
                if isinstance(reading, InputError):
                    raise reading
                crystal = reading.accepted().crystal
            except InputError as error:
                wrong.append((name + suffix, str(error)))
                continue
            rejects: list[Reject] = []
            material = Material(name + suffix, crystal, Provenance("file", ""))
            materials.append(extended(material, modalities, max_seconds, rejects))
            wrong += [(name + suffix, f"{reject.stage}: {reject.message}") for reject in rejects]
    return materials, wrong


def show(found: Sequence[Mapping[str, Any]], level: float) -> None:
    """A table: one line per crystal and target."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    several = len({answer["model"] for record in found for answer in record["predictions"]}) > 1
    table = Table(box=SIMPLE_HEAD)
    for name in ("file", "formula", *(["model"] if several else []), "property"):
        table.add_column(name, no_wrap=True)
    for name in ("value", f"{100 * level:g} % interval", "out of domain"):
        table.add_column(name, justify="right", no_wrap=True)
    strange = False
    for record in found:
        for answer in record["predictions"]:
            far = answer["out_of_domain"]
            strange = strange or (far is not None and far > 1)
            ends = [answer["lower"], answer["upper"]]
            interval = "–" if None in ends else f"{ends[0]:.4g} … {ends[1]:.4g}"
            score = "–" if far is None else f"{far:.2f}" + (" !" if far > 1 else "")
            first = [record["id"], record["formula"], *([answer["model"]] if several else []), answer["label"]]
            table.add_row(*first, f"{answer['value']:.4g}", interval, score)
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table)
    if strange:
        console.print("! unlike what the model learnt from: neither value nor interval can be relied on")
