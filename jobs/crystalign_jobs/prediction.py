"""Predict all rows of a dataset with fine-tuned models, in parallel and restartable."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from crystalign import storage
from crystalign.config import Config
from crystalign.errors import ConfigError, ConflictError
from crystalign.index.embeddings import existing_embeddings, write_embeddings
from crystalign.index.predictions import (
    PROBLEM,
    PredictionFile,
    PredictionManifest,
    PredictionProvenance,
    distinct_columns,
    prediction_table,
)
from crystalign.index.stored_manifest import MANIFEST
from crystalign.properties import PredictedProperty
from crystalign.storage import Uri

if TYPE_CHECKING:
    import pyarrow as pa

    from crystalign.finetuning.prediction.predictor import Predictor
    from crystalign.shards.dataset import Dataset

BYTES_OF_ROW, SECONDS = 80, 0.03
"""Rough size of a row with one predicted property, and rough time to predict one, for the estimate."""


class DatasetPrediction(Config):
    """What is predicted, and how."""

    models: dict[str, Uri]
    """Name → model directory."""
    data: Uri
    """URI of the dataset."""
    out: Uri
    """URI of the predictions."""
    level: float
    """Coverage of the intervals."""
    batch_size: int
    """Crystals per batch in the encoders."""
    max_seconds: float
    """Time limit for each modality that is computed from a crystal."""
    rows_per_file: int
    """Materials per task."""
    num_actors: int
    """Number of processes that load the models; 0 means as many as the cluster can run."""
    use_gpu: bool
    """One GPU per process."""


def predict_dataset(config: DatasetPrediction, address: str | None) -> PredictionManifest:
    """Predict, print what was made, and return the manifest.

    Raises:
        ConfigError: two models predict the same property, a level is not calibrated, there are other predictions at
            `out`, or another job writes there.
        ModelError: a model is missing or broken.
    """
    from crystalign.shards.dataset import Dataset
    from crystalign_ray.driver_lock import driving
    from crystalign_ray.estimates import Estimate, announce
    from crystalign_ray.session import session

    dataset = Dataset.open(config.data)
    specs = predicted_properties(config.models, config.level)
    provenance = PredictionProvenance(
        model_sha256=_together(specs, config.max_seconds), dataset_sha256=dataset.manifest.sha256
    )
    print(f"predicting {', '.join(spec.column for spec in specs)} of {len(dataset):,} crystals\nwriting {config.out}/")
    manifest = _existing(config.out, specs, provenance)
    if manifest is None:
        size = len(dataset) * BYTES_OF_ROW * len(specs)
        announce(Estimate(len(dataset), size, SECONDS * len(config.models)), config.out)
        with driving(config.out):
            with session(address):
                files, problems = _run(config, dataset, specs, provenance)
            manifest = _commit(config, specs, provenance, files)
        for reason, count in problems.most_common():
            print(f"  {count:>7,}  {reason}")
    failed = sum(entry.failed for entry in manifest.files)
    print(f"{manifest.rows - failed:,} crystals predicted at {config.out}; {failed:,} without a value of some model")
    print(f"next: crystalign index EMBEDDINGS --predictions {config.out} --out URI")
    return manifest


def predicted_properties(models: Mapping[str, str], level: float) -> list[PredictedProperty]:
    """What some models predict.

    Raises:
        ConfigError: two models predict the same property, or the level is not calibrated.
        ModelError: a model is missing or broken.
    """
    from crystalign.finetuning.network.config import LEVELS
    from crystalign.finetuning.trials.ensemble import describe_predictor, predictor_sha256

    if not models:
        raise ConfigError("give a model: --model DIR")
    if level not in LEVELS:
        raise ConfigError(f"level {level:g} is not calibrated; available: {', '.join(map(str, LEVELS))}")
    specs = []
    for name, uri in models.items():
        described, identity = describe_predictor(uri).config, predictor_sha256(uri)
        classes = described.task.classes if described.task.kind == "classification" else ()
        specs += [
            PredictedProperty(target=target, model=name, model_sha256=identity, level=level, classes=tuple(classes))
            for target in described.targets
        ]
    distinct_columns(specs)
    return specs


class DatasetPredictor:
    """An actor that loads the models once, and writes a verified file per task."""

    def __init__(self, config: DatasetPrediction, specs: list[PredictedProperty]) -> None:
        import torch

        from crystalign.finetuning.prediction.predictor import PredictorGroup
        from crystalign.finetuning.trials.ensemble import load_predictor
        from crystalign.shards.dataset import Dataset

        predictors = {name: load_predictor(uri) for name, uri in config.models.items()}
        if config.use_gpu:
            _move(predictors)
        else:
            torch.set_num_threads(1)
        self.config, self.specs = config, specs
        self.group = PredictorGroup(predictors)
        self.group.share_encoders()
        self.dataset = Dataset.open(config.data)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Write the file of a task, unless an earlier run has completed it."""
        provenances = [PredictionProvenance.model_validate_json(text) for text in batch["making"].tolist()]
        made = [self._one(provenance) for provenance in provenances]
        return {
            "entry": np.array([entry.model_dump_json() for entry, _, _ in made]),
            "found": np.array([found for _, found, _ in made]),
            "problems": np.array([json.dumps(problems) for _, _, problems in made]),
        }

    def _one(self, provenance: PredictionProvenance) -> tuple[PredictionFile, bool, dict[str, int]]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        name = f"shard-{provenance.shard:05d}-{provenance.row_groups[0]:05d}"
        start = sum(self.dataset.manifest.shards[provenance.shard].row_groups[: provenance.row_groups[0]])
        existing = existing_embeddings(self.config.out, name, provenance)
        written = existing or write_embeddings(self.config.out, name, self._predicted(provenance, start), provenance)
        data = storage.read_verified(self.config.out, written)
        names = [spec.column for spec in self.specs]
        rows = pq.read_table(pa.BufferReader(data), columns=[*names, PROBLEM]).to_pylist()
        failed = sum(any(row[name] is None for name in names) for row in rows)
        problems = Counter(_reason(row[PROBLEM]) for row in rows if row[PROBLEM])
        entry = PredictionFile(**written.model_dump(), shard=provenance.shard, start=start, failed=failed)
        return entry, existing is not None, dict(problems)

    def _predicted(self, provenance: PredictionProvenance, start: int) -> pa.Table:
        """Values, intervals and scores of the rows of a task."""
        import pyarrow as pa

        from crystalign.derivation import extended
        from crystalign.finetuning.prediction.records import answers_of
        from crystalign.rejects import Reject
        from crystalign.shards.schema import table_to_materials

        modalities, config = self.group.modalities, self.config
        tables = [
            self.dataset.read(provenance.shard, row_group=group, modalities=modalities)
            for group in provenance.row_groups
        ]
        rejects: list[Reject] = []
        materials = [
            extended(material, modalities, config.max_seconds, rejects)
            for material in table_to_materials(pa.concat_tables(tables), modalities=modalities)
        ]
        records, failures = answers_of(self.group, materials, level=config.level, batch_size=config.batch_size)
        reasons: dict[str, list[str]] = defaultdict(list)
        for reject in rejects:
            reasons[reject.id].append(f"{reject.stage}: {reject.message}")
        for number, reason in failures:
            reasons[materials[number].id].append(reason)
        return prediction_table(
            [material.id for material in materials],
            provenance.shard,
            start,
            self.specs,
            [{(said["model"], said["target"]): said for said in record["predictions"]} for record in records],
            ["; ".join(reasons[material.id]) or None for material in materials],
        )


def _reason(problem: str) -> str:
    """What failed, without details of the material, so that equal failures are counted together."""
    return "; ".join(part.partition(": ")[0] for part in problem.split("; ")) + " failed, see the column `problem`"


def _move(predictors: Mapping[str, Predictor]) -> None:
    for predictor in predictors.values():
        for member in predictor.members:
            member.to("cuda")  # type: ignore[attr-defined] # every network is a module


def _together(specs: list[PredictedProperty], max_seconds: float) -> str:
    """One hash for all models, their names and the settings."""
    content = [[spec.model_dump(mode="json") for spec in specs], max_seconds]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _run(
    config: DatasetPrediction, dataset: Dataset, specs: list[PredictedProperty], provenance: PredictionProvenance
) -> tuple[list[PredictionFile], Counter[str]]:
    """Predict all rows with one set of actors."""
    from crystalign_ray.progress import Meter
    from crystalign_ray.tasks import map_actors

    tasks = [
        provenance.model_copy(update={"shard": shard, "row_groups": groups})
        for shard, groups in dataset.parts(config.rows_per_file)
    ]
    results = map_actors(
        [{"making": task.model_dump_json()} for task in tasks],
        DatasetPredictor,
        {"config": config, "specs": specs},
        name="predicting processes",
        count=config.num_actors,
        use_gpu=config.use_gpu,
    )
    files: list[PredictionFile] = []
    problems: Counter[str] = Counter()
    with Meter("predict", total=len(dataset), unit="crystals") as meter:
        for row in results:
            files.append(PredictionFile.model_validate_json(str(row["entry"])))
            problems.update(json.loads(str(row["problems"])))
            meter.advance(files[-1].rows, counted=not row["found"])
    return sorted(files, key=lambda entry: (entry.shard, entry.start)), problems


def _existing(out: str, specs: list[PredictedProperty], provenance: PredictionProvenance) -> PredictionManifest | None:
    if not storage.exists(storage.join(out, MANIFEST)):
        return None
    stored = PredictionManifest.read(out)
    if (stored.predictions, stored.dataset_sha256, stored.made_by or provenance.model_sha256) != (
        tuple(specs),
        provenance.dataset_sha256,
        provenance.model_sha256,
    ):
        raise ConfigError(
            f"{out} already holds predictions by other models, of another dataset, or with another --level or "
            "--max-seconds; choose another --out or delete it"
        )
    return stored


def _commit(
    config: DatasetPrediction,
    specs: list[PredictedProperty],
    provenance: PredictionProvenance,
    files: list[PredictionFile],
) -> PredictionManifest:
    """Write the manifest, as the last file."""
    manifest = PredictionManifest(
        predictions=tuple(specs),
        dataset_uri=config.data,
        dataset_sha256=provenance.dataset_sha256,
        made_by=provenance.model_sha256,
        rows=sum(entry.rows for entry in files),
        files=tuple(files),
    )
    try:
        manifest.write(config.out)
    except ConflictError:
        # Another job wrote predictions meanwhile: the same ones are used, others are refused.
        return _existing(config.out, specs, provenance) or manifest
    return manifest
