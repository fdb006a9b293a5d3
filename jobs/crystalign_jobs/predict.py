"""`crystalign predict`: predict properties of crystals with fine-tuned models, intervals and out-of-domain scores.

Further modalities that the models read (powder pattern, caption, descriptors, image) are computed from the structure,
as by `crystalign derive`.
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
    """Predict properties of crystals with fine-tuned models or ensembles of them: of files, or of a whole dataset.

    An interval contains the value with probability `level` for materials like those of the calibration part. An
    out-of-domain score above 1 means that the material is unlike the training data: then neither value nor interval is
    reliable. Models with the same frozen encoders share one encoder pass.

    For example:

      crystalign predict --model campaigns/first/best/gap NaCl.cif MgO.cif
      crystalign predict --model best/gap --model best/bulk-modulus --json-lines *.cif
      crystalign predict --model best/gap --data s3://bucket/mp --out s3://bucket/predictions

    The predictions of a dataset become filter fields of an index: `crystalign index --predictions`.
    """

    files: Positional[tuple[Uri, ...]] = ()
    """Paths or URIs of CIF or POSCAR files, gzipped or not."""
    model: Annotated[tuple[Uri, ...], UseAppendAction, Field(min_length=1)]
    """Model directory, such as `best/<task>` of a campaign or `model` of a trial; repeat the flag for more models."""
    level: float = 0.9
    """Coverage of the intervals: 0.5, 0.8, 0.9 or 0.95."""
    json_lines: bool = False
    """One JSON object per crystal instead of a table."""
    batch_size: int = Field(default=64, ge=1)
    """Crystals per batch in the encoders."""
    max_seconds: float = Field(default=60.0, gt=0)
    """Time limit for each modality that is computed from a crystal."""
    data: Uri | None = None
    """URI of a dataset, whose rows are all predicted; instead of files."""
    out: Uri | None = None
    """URI of the predictions of the dataset; an interrupted job continues there."""
    rows_per_file: int = Field(default=4096, ge=1)
    """For a dataset: materials per task and output file, rounded up to whole row groups."""
    num_actors: int = Field(default=0, ge=0)
    """For a dataset: number of processes that load the models; 0 means as many as the cluster can run."""
    use_gpu: bool = False
    """For a dataset: one GPU per process."""
    address: str | None = None
    """For a dataset: Ray cluster; default: RAY_ADDRESS, else this machine."""


def main(config: Predict) -> None:
    """Print values, intervals and scores; the exit code is 1 if a file could not be used.

    Raises:
        ConfigError: no file or no model is given, or both files and a dataset.
        ModelError: a model is missing or broken.
        InputError: none of the files could be used.
    """
    from crystalign.finetuning.prediction.predictor import PredictorGroup
    from crystalign.finetuning.prediction.records import answers_of
    from crystalign.finetuning.trials.ensemble import load_predictor

    if config.data is not None or config.out is not None:
        _predict_dataset(config)
        return
    if not config.files or not config.model:
        raise ConfigError("give a model and at least one file: crystalign predict --model DIR FILE.cif")
    group = PredictorGroup({name: load_predictor(uri) for name, uri in _names(config.model).items()})
    materials, problems = read(config.files, group.modalities, config.max_seconds)
    answers, prediction_problems = answers_of(group, materials, level=config.level, batch_size=config.batch_size)
    problems += [(materials[number].id, reason) for number, reason in prediction_problems]
    records = [record for record in answers if record["predictions"]]
    if config.json_lines:
        for record in records:
            print(json.dumps(record))
    elif records:
        show(records, config.level)
    for name, reason in problems:
        print(f"{name}: {reason}", file=sys.stderr)
    if not records:
        raise InputError(f"none of the {len(config.files)} files could be used")
    if problems:
        raise SystemExit(1)


def _predict_dataset(config: Predict) -> None:
    """Predict the rows of a dataset.

    Raises:
        ConfigError: files are given, too, or the dataset or the place of the result is missing.
    """
    from crystalign_jobs.prediction import DatasetPrediction, predict_dataset

    if config.files or config.data is None or config.out is None:
        raise ConfigError(
            "give either files, or a dataset and a place: crystalign predict --model DIR --data DATASET --out URI"
        )
    request = DatasetPrediction(
        models=_names(config.model),
        data=config.data,
        out=config.out,
        level=config.level,
        batch_size=config.batch_size,
        max_seconds=config.max_seconds,
        rows_per_file=config.rows_per_file,
        num_actors=config.num_actors,
        use_gpu=config.use_gpu,
    )
    predict_dataset(request, config.address)


def _names(models: Sequence[str]) -> dict[str, str]:
    """Short name → URI of each model: the folder name, or the whole URI if two folders have the same name."""
    short = [uri.rstrip("/").rpartition("/")[2] for uri in models]
    ambiguous = len(set(short)) < len(short)
    return {uri if ambiguous else name: uri for name, uri in zip(short, models, strict=True)}


def read(
    files: Sequence[str], modalities: Sequence[str], max_seconds: float
) -> tuple[list[Material], list[tuple[str, str]]]:
    """The materials in some files, with derived modalities; and (name, reason) of each that could not be read.

    Args:
        files: structure files of any supported format.
        modalities: modalities to derive from the structure.
        max_seconds: time limit for one modality of one crystal.
    """
    from crystalign.derivation import extended
    from crystalign.errors import InputError, StorageError
    from crystalign.limits import Limits
    from crystalign.material import Material, Provenance
    from crystalign.readers.structures.structure_file import file_kind, read_structures
    from crystalign.rejects import Reject

    limits, materials, problems = Limits(), list[Material](), list[tuple[str, str]]()
    for uri in files:
        name = uri.rpartition("/")[2]
        try:
            data = storage.read_bytes(uri, limit=limits.bytes_of(file_kind(name)))
            structures = list(read_structures(data, name, limits=limits))
        except (InputError, StorageError) as error:
            problems.append((name, str(error)))
            continue
        for suffix, reading in structures:
            try:
                if isinstance(reading, InputError):
                    raise reading
                crystal = reading.accepted().crystal
            except InputError as error:
                problems.append((name + suffix, str(error)))
                continue
            rejects: list[Reject] = []
            material = Material(name + suffix, crystal, Provenance("file", ""))
            materials.append(extended(material, modalities, max_seconds, rejects))
            problems += [(name + suffix, f"{reject.stage}: {reject.message}") for reject in rejects]
    return materials, problems


def show(records: Sequence[Mapping[str, Any]], level: float) -> None:
    """Print a table with one row per crystal and target."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    several = len({answer["model"] for record in records for answer in record["predictions"]}) > 1
    table = Table(box=SIMPLE_HEAD)
    for name in ("file", "formula", *(["model"] if several else []), "property"):
        table.add_column(name, no_wrap=True)
    for name in ("value", f"{100 * level:g} % interval", "out of domain"):
        table.add_column(name, justify="right", no_wrap=True)
    any_out_of_domain = False
    for record in records:
        for answer in record["predictions"]:
            distance = answer["out_of_domain"]
            any_out_of_domain = any_out_of_domain or (distance is not None and distance > 1)
            bounds = [answer["lower"], answer["upper"]]
            interval = "–" if None in bounds else f"{bounds[0]:.4g} … {bounds[1]:.4g}"
            score = "–" if distance is None else f"{distance:.2f}" + (" !" if distance > 1 else "")
            first = [record["id"], record["formula"], *([answer["model"]] if several else []), answer["label"]]
            table.add_row(*first, f"{answer['value']:.4g}", interval, score)
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table)
    if any_out_of_domain:
        console.print("! out of domain: unlike the training data; neither value nor interval is reliable")
