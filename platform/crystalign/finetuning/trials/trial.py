"""Run a fine-tuning trial from its settings to a verified result.

<folder>/
├── model/                config.json, model.safetensors, …: what the service loads; none of a constant
├── predictions.parquet   id, formula, part, and of each target its label, prediction and interval
├── result.json           settings, metrics, checksums; written last
└── state/                checkpoint from which a killed fit resumes; deleted once the result is written
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import nn

from crystalign import storage
from crystalign.encoders import encoder_class, encoder_settings
from crystalign.encoders.encoder import Encoder, Files
from crystalign.errors import ConfigError, StorageError, VerificationError
from crystalign.finetuning.data.features import FeatureStore
from crystalign.finetuning.data.scaling import TargetScaler
from crystalign.finetuning.data.splits import Part
from crystalign.finetuning.fitting import fit_state
from crystalign.finetuning.fitting.fit import Fitted, OnEpoch, fit
from crystalign.finetuning.fitting.ranks import Ranks
from crystalign.finetuning.fitting.rows import LabelledRows
from crystalign.finetuning.model.building import fresh_encoders, fresh_projection, taken_from
from crystalign.finetuning.model.property_model import PropertyModel
from crystalign.finetuning.network.config import NetworkConfig, PropertyCard
from crystalign.finetuning.prediction.domain import Domain
from crystalign.finetuning.prediction.intervals import calibrate, coverage, interval
from crystalign.finetuning.results.metrics import classification_metrics, constants, regression_metrics
from crystalign.finetuning.trials.config import TrialConfig, TrialResult
from crystalign.finetuning.trials.plan import Plan, plan
from crystalign.modalities import stable_hash
from crystalign.model import Model
from crystalign.storage import FileEntry

FORMAT = 3
LOOK_SECONDS = 1.0
"""Seconds between checks of the other ranks for the result that rank 0 writes."""
RESULT, PREDICTIONS, MODEL = "result.json", "predictions.parquet", "model"

Array = NDArray[np.float64]


def run_trial(
    config: TrialConfig,
    folder: str,
    on_epoch: OnEpoch | None = None,
    *,
    store: FeatureStore | None = None,
    device: torch.device | str = "cpu",
) -> TrialResult:
    """Fit, test once and write the result; or return the complete result of an earlier run.

    On several ranks of a process group all fit (`fit`), and rank 0 tests and writes.

    Args:
        config: the trial.
        folder: URI of its own folder.
        on_epoch: called with the metrics of each epoch; True ends the fit, and the best weights so far are tested.
        store: features of the dataset, shared by the trials of a process.
        device: device of the computation.

    Raises:
        ConfigError: the trial cannot start; the message names the field.
        ModelError: the model it starts from is broken.
        FloatingPointError: the fit diverged.
    """
    done = finished(config, folder)
    if done is not None:
        return done
    planned = plan(config)
    if config.constant:
        return _constant(planned, folder)
    store = FeatureStore(planned.dataset) if store is None else store
    if store.dataset.manifest.sha256 != planned.dataset.manifest.sha256:
        raise ConfigError(f"data: the feature store holds {store.dataset.uri}, the trial reads {planned.dataset.uri}")
    model = build_model(planned).to(device)
    state = storage.join(folder, fit_state.FOLDER)
    key = f"{FORMAT} {config.id} {' '.join(planned.checksums)}"
    fitted = fit(
        model,
        planned.split,
        store,
        config.recipe,
        lr=config.lr,
        seed=config.seed,
        folder=state,
        key=key,
        on_epoch=on_epoch,
    )
    if Ranks().first:
        result = _tested(planned, model, LabelledRows(model, store, planned.labels), fitted, folder)
        storage.delete(state)
        return result
    while (done := finished(config, folder)) is None:  # no collective: a test may take longer than ranks wait
        time.sleep(LOOK_SECONDS)
    return done


def finished(config: TrialConfig, folder: str) -> TrialResult | None:
    """Return the result of a trial if it is complete and belongs to this dataset and model.

    Raises:
        ConfigError: the trial is not valid, so an existing result is not trusted.
    """
    result_uri = storage.join(folder, RESULT)
    if not storage.exists(result_uri):
        return None
    try:
        values: dict[str, Any] = json.loads(storage.read_bytes(result_uri))
        result = TrialResult.from_mapping(values, origin=result_uri)
        for entry in result.files:
            storage.verify(storage.join(folder, *entry.path.split("/")), entry)
    except (StorageError, VerificationError, ConfigError, ValueError):
        return None
    planned = plan(config)
    checksums = (result.dataset_sha256, result.model_sha256, result.split_sha256)
    return result if (result.format, result.id, checksums) == (FORMAT, config.id, planned.checksums) else None


def build_model(planned: Plan) -> PropertyModel:
    """Build the network of a trial before its fit: encoders copied or fresh, the rest fresh from the seed.

    Raises:
        ModelError: the model it starts from is broken.
    """
    config, split = planned.config, planned.split
    torch.manual_seed(stable_hash(f"{config.seed}/weights"))
    base = None if config.origin is None else Model.from_pretrained(config.origin)
    dim = base.config.embedding_dim if base is not None and config.vectors == "embedding" else None
    encoders: Mapping[str, Encoder]
    projections: Mapping[str, nn.Module] = {}
    if base is not None and config.pretrained:
        encoders, projections = taken_from(base, config.chosen)
    else:
        encoders = fresh_encoders(planned.specs, _files(planned, base))
        if dim is not None:
            projections = {name: fresh_projection(encoder.width, dim) for name, encoder in encoders.items()}
    network = NetworkConfig(
        modalities=planned.specs,
        vectors=config.vectors,
        embedding_dim=dim,
        fusion=config.fusion,
        head=config.head,
        task=config.task,
        targets=planned.labels.specs,
        scaler=TargetScaler.fit(split.train),
    )
    model = PropertyModel(network, encoders, projections if dim is not None else None)
    manifest, card = planned.dataset.manifest, None if base is None or not config.pretrained else base.card
    model.card = PropertyCard(
        name=config.id,
        initialisation=config.initialisation,
        base_sha256=planned.origin.identity if planned.origin is not None and config.pretrained else "",
        dataset_uri=config.data,
        dataset_sha256=manifest.sha256,
        split=config.split.model_dump(mode="json"),
        sizes=split.sizes,
        sources=tuple(sorted({*(s.name for s in manifest.sources), *(card.sources if card else ())})),
        licences=tuple(sorted({*manifest.licences, *(card.licences if card else ())})),
    )
    return model


def _files(planned: Plan, base: Model | None) -> Files:
    """Files of fresh encoders: those of the model that is rebuilt, or made from the training part only."""
    files: Files = {}
    for name, spec in planned.specs.items():
        cls, own = encoder_class(spec.encoder), dict[str, bytes]()
        if base is not None:
            own = base.encoders[name].files()  # type: ignore[operator]
        elif cls.prepare.__func__ is not Encoder.prepare.__func__:  # type: ignore[attr-defined]
            values = planned.dataset.gather([(int(s), int(r)) for s, r in planned.split.train.places], name)
            present = [value for value in values if value is not None]
            own = cls.prepare(encoder_settings(spec.encoder, spec.options), present)
        files |= {f"{name}/{path}": data for path, data in own.items()}
    return files


# --- results ---------------------------------------------------------------------------------------------------------


def _tested(planned: Plan, model: PropertyModel, rows: LabelledRows, fitted: Fitted, folder: str) -> TrialResult:
    """Calibrate on the calibration part, evaluate the test part once, and write the result."""
    split, scaler = planned.split, model.config.scaler
    predictions = {part.name: rows.tell(part.rows) for part in split.parts}
    vectors: dict[str, NDArray[np.float32]] = {name: embedded for name, (_, embedded) in predictions.items()}
    scaled: dict[str, Array] = {name: predictions[name][0].double().numpy() for name in predictions if name != "train"}
    if planned.config.task.kind == "regression":
        model.calibration = calibrate(scaled["calibration"], scaler.scaled(split.calibration.values))
    model.domain = Domain.fit(vectors["train"], np.concatenate([vectors[part.name] for part in split.held_out]))
    predicted = {name: scaler.restored(values) for name, values in scaled.items()}
    test = _metrics(planned, split.test, predicted["test"])
    model.card = model.card.model_copy(update={"metrics": test})
    entries = [
        entry.model_copy(update={"path": f"{MODEL}/{entry.path}"}) for entry in model.write(storage.join(folder, MODEL))
    ]
    columns: dict[str, dict[str, Array]] = {}
    for name, values in scaled.items():
        columns[name] = {"out_of_domain": model.domain.score(vectors[name])}
        for end, bound in zip(("lower", "upper"), interval(model.calibration, values), strict=True):
            restored = scaler.restored(bound)
            columns[name] |= {f"{target}_{end}": restored[:, t] for t, target in enumerate(model.targets)}
    entries.append(_write_predictions(planned, predicted, columns, folder))
    return _write(
        planned,
        folder,
        parameters=sum(p.numel() for p in model.parameters()),
        trained=sum(p.numel() for p in model.parameters() if p.requires_grad),
        metrics=test,
        validation=_metrics(planned, split.validation, predicted["validation"]),
        coverage=_covered(model, scaled["test"], split.test),
        score=fitted.kept_score,
        kept_epoch=fitted.kept_epoch,
        epochs=fitted.epochs,
        ended=fitted.ended,
        seconds=fitted.seconds,
        files=tuple(entries),
    )


def _covered(model: PropertyModel, scaled: Array, part: Part) -> dict[str, dict[str, float]]:
    """Target → level → coverage: share of the labels of a part within their intervals."""
    coverages: dict[str, dict[str, float]] = {target: {} for target in model.targets}
    for level, radii in model.calibration.radii.items() if model.calibration else ():
        lower, upper = interval(model.calibration, scaled, level=float(level))
        shares = coverage(model.config.scaler.restored(lower), model.config.scaler.restored(upper), part.values)
        for target, share, radius in zip(model.targets, shares.tolist(), radii, strict=True):
            if radius is not None:
                coverages[target][level] = share
    return coverages


def _constant(planned: Plan, folder: str) -> TrialResult:
    """Run a trial that predicts a constant."""
    value = constants(planned.split.train)[planned.config.initialisation]
    predicted: dict[str, Array] = {part.name: np.tile(value, (len(part), 1)) for part in planned.split.parts[1:]}
    return _write(
        planned,
        folder,
        metrics=_metrics(planned, planned.split.test, predicted["test"]),
        validation=_metrics(planned, planned.split.validation, predicted["validation"]),
        ended="constant",
        files=(_write_predictions(planned, predicted, {}, folder),),
    )


def _metrics(planned: Plan, part: Part, predicted: Array) -> dict[str, dict[str, float]]:
    """Target → metric → value, without undefined metrics."""
    task, baselines = planned.config.task, constants(planned.split.train)
    by_target = {}
    for t, spec in enumerate(planned.labels.specs):
        values, answers = part.values[:, t], predicted[:, t]
        mean, median = float(baselines["mean"][t]), float(baselines["median"][t])
        if not np.isfinite(values).any():
            continue
        if task.kind == "classification":
            metrics = classification_metrics(values, answers, mean)
        else:
            metrics = regression_metrics(values, answers, mean, median, log10=task.transform == "log10")
        by_target[spec.column] = {name: value for name, value in metrics.items() if np.isfinite(value)}
    return by_target


def _write_predictions(
    planned: Plan, predicted: Mapping[str, Array], more: Mapping[str, Mapping[str, Array]], folder: str
) -> FileEntry:
    """Write `predictions.parquet`: one row per material of every part except training."""
    pieces = []
    for part in planned.split.parts[1:]:
        columns: dict[str, Any] = {"id": part.ids, "formula": part.groups("formula"), "part": [part.name] * len(part)}
        for t, spec in enumerate(planned.labels.specs):
            columns |= {spec.column: part.values[:, t], f"{spec.column}_predicted": predicted[part.name][:, t]}
        pieces.append(pa.table(columns | dict(more.get(part.name, {}))))
    sink = io.BytesIO()
    pq.write_table(pa.concat_tables(pieces), sink, compression="zstd")
    return storage.write_bytes(storage.join(folder, PREDICTIONS), sink.getvalue())


def _write(planned: Plan, folder: str, **fields: Any) -> TrialResult:
    """Write `result.json`, last."""
    dataset, model, split = planned.checksums
    result = TrialResult(
        format=FORMAT,
        id=planned.config.id,
        config=planned.config,
        dataset_sha256=dataset,
        model_sha256=model,
        split_sha256=split,
        sizes=planned.split.sizes,
        left_out=dict(planned.labels.left_out),
        seen=planned.seen,
        **fields,
    )
    storage.write_bytes(storage.join(folder, RESULT), (result.model_dump_json(indent=2) + "\n").encode())
    return result
