"""`crystalign pretrain`: a dataset in, a model directory out, on any number of workers, and resumable.

The truth about a run is the newest checkpoint of ours that verifies. Ray restarts workers that
die; what they go on from, they read from the run's own folder.
"""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pydantic import Field

from crystalign import storage
from crystalign.errors import ConfigError, DatasetError, Error
from crystalign.training.config import PretrainConfig
from crystalign_jobs.pretrain_worker import MODEL, Watch, train_worker
from crystalign_jobs.progress import Meter

if TYPE_CHECKING:
    from crystalign.model_config import ModelCard
    from crystalign.shards.dataset import Dataset
    from crystalign.shards.selection import Selection
    from crystalign.training.feed import FeedPlan

CONFIG, PREPARED = "config.yaml", "prepared"
CAPTIONS_FOR_TOKENIZER = 50_000
_MAY_CHANGE = {"out", "name", "max_minutes", "num_workers", "use_gpu", "compute_dtype", "loggers"} | {
    "checkpoint_every_steps",
    "log_every_steps",
}
_CONTROLLER_RETRIES = 3


class Pretrain(PretrainConfig):
    """Align the modalities of a dataset in one space, contrastively.

    `--config tiny` and `--config default` are presets; `--config FILE.yaml` sets any field.

    Example: crystalign pretrain --config default --data s3://bucket/mp --out s3://bucket/runs --name first
    """

    resume: bool = False
    """Go on from the newest checkpoint of this run; the same step, the same order of samples."""
    address: str | None = None
    """Ray cluster; default: RAY_ADDRESS, else this machine."""
    max_failures: int = Field(default=2, ge=0)
    """How often workers that died are started again before the run gives up."""
    keep_checkpoints: int = Field(default=3, ge=1)
    """Older checkpoints are deleted."""


def main(config: Pretrain) -> None:
    """Train, and print what was made."""
    run = run_uri(config)
    print(f"pre-training on {config.data}\nwriting to {run}/")
    print("├─ config.yaml       every setting\n├─ checkpoints/      step-…, each a model directory")
    print("├─ metrics.csv       and tensorboard/\n└─ model/            the final model")
    model = pretrain(config)
    print(f"trained {model}\nnext: crystalign evaluate {model} --data {config.data}")


def pretrain(config: Pretrain, *, watch: Watch | None = None) -> str:
    """Run, or go on with, one pre-training.

    Args:
        config: what to train, on what, where to.
        watch: called on each rank before each step.

    Returns:
        URI of the final model directory.

    Raises:
        ConfigError: the run exists and is not resumed, or is resumed with settings that change what it computes,
            or the cluster is too small.
        DatasetError: no row to train on.
    """
    from crystalign.shards.dataset import Dataset
    from crystalign_jobs.session import session

    run = run_uri(config)
    _claim(config, run)
    dataset = Dataset.open(config.data)
    selection = _select(config, dataset)
    files = _prepared(config, dataset, selection, run)
    with session(config.address):
        _check_resources(config)
        job = {
            "config": config,
            "plan": _plan(config, dataset, selection),
            "card": _card(config, dataset, selection),
            "files": files,
            "run": run,
            "watch": watch,
        }
        _fit(config, job)
    return storage.join(run, MODEL)


def run_uri(config: PretrainConfig) -> str:
    """Where a run writes."""
    return storage.join(config.out, config.name)


# --- before the workers ---------------------------------------------------------------------------------------------


def _claim(config: Pretrain, run: str) -> None:
    """Write the configuration of a new run, or compare with that of the run to go on with."""
    place = storage.join(run, CONFIG)
    settings = PretrainConfig.model_validate(config.model_dump(include=set(PretrainConfig.model_fields)))
    if not storage.exists(place):
        if config.resume:
            raise ConfigError(f"there is no run at {run} to resume; leave out --resume to start it")
        storage.write_bytes(place, settings.to_yaml().encode())
        return
    if not config.resume:
        raise ConfigError(f"{run} already holds a run; go on with it by --resume, or choose another --name")
    import yaml

    known = yaml.safe_load(storage.read_bytes(place))
    asked = settings.model_dump(mode="json")
    different = [key for key in asked if key not in _MAY_CHANGE and asked[key] != known.get(key)]
    if different:
        raise ConfigError(
            f"{run} was started with other settings: "
            + ", ".join(f"{key}={known.get(key)!r} rather than {asked[key]!r}" for key in different)
            + "; resume with the same ones, or choose another --name"
        )


def _select(config: PretrainConfig, dataset: Dataset) -> Selection:
    from crystalign.modalities import make_modality
    from crystalign.shards.selection import Selection

    missing = [m for m in config.model.modalities if m != "crystal" and not dataset.manifest.modalities.get(m, 0)]
    if missing:
        raise DatasetError(
            f"{config.data} holds no {', '.join(missing)}, which the model aligns; add them with `crystalign derive`, "
            "or choose a model without"
        )
    modalities = [make_modality(name, spec.features) for name, spec in config.model.modalities.items()]
    selection = Selection.build(dataset, config.split, "train", fits=modalities)
    left_out = Selection.build(dataset, config.split, "train").n - selection.n
    if left_out:
        print(f"{left_out} materials of the training split are larger than the model takes and are left out")
    if selection.n < config.batch_size:
        raise DatasetError(
            f"the training split of {config.data} holds {selection.n} materials, fewer than one batch of "
            f"{config.batch_size}; lower batch_size"
        )
    return selection


def _prepared(config: PretrainConfig, dataset: Dataset, selection: Selection, run: str) -> dict[str, bytes]:
    """The files that encoders need before the first step, made once per run and read again by a resumed one."""
    from crystalign.model import prepare

    folder = storage.join(run, PREPARED)
    listing = storage.join(folder, "files.json")
    if storage.exists(listing):
        return {
            path: storage.read_bytes(storage.join(folder, path)) for path in json.loads(storage.read_bytes(listing))
        }
    values = {"text": _captions(dataset, selection)} if "text" in config.model.modalities else {}
    files = prepare(config.model, values)
    for path, data in files.items():
        storage.write_bytes(storage.join(folder, path), data)
    storage.write_bytes(listing, json.dumps(sorted(files)).encode())
    return files


def _captions(dataset: Dataset, selection: Selection) -> list[Any]:
    """Texts of the training split alone: a tokenizer, too, must not have seen what it is tested on."""
    from crystalign.modalities import modality_class

    text = modality_class("text")
    found: list[Any] = []
    for place, (shard, group) in enumerate(zip(selection.shards, selection.groups, strict=True)):
        cells = dataset.read(int(shard), int(group), columns=["text"]).column("text")
        found += [text.from_column(cells[row]) for row in selection.rows(place)[:, 2].tolist() if cells[row].is_valid]
        if len(found) >= CAPTIONS_FOR_TOKENIZER:
            break
    return found


def _plan(config: PretrainConfig, dataset: Dataset, selection: Selection) -> FeedPlan:
    """For one rank; the workers put in how many they are."""
    from crystalign.training.feed import FeedPlan

    return FeedPlan(
        data=config.data,
        data_sha256=dataset.manifest.sha256,
        selection=selection.save(run_uri(config)),
        modalities={name: spec.features for name, spec in config.model.modalities.items()},
        seed=config.seed,
        augment=config.augment,
        batch_size=config.batch_size,
        window_rows=config.rows_per_window,
        world_size=1,
        epochs=config.epochs,
    )


def _card(config: PretrainConfig, dataset: Dataset, selection: Selection) -> ModelCard:
    from crystalign.model_config import ModelCard

    sources = dataset.manifest.sources
    return ModelCard(
        name=config.name,
        dataset_uri=config.data,
        dataset_sha256=dataset.manifest.sha256,
        selection_sha256=selection.sha256,
        split=config.split.model_dump(mode="json"),
        sources=tuple(sorted({source.name for source in sources})),
        licences=tuple(sorted({source.licence for source in sources})),
    )


def _check_resources(config: PretrainConfig) -> None:
    import ray

    from crystalign.resources import Demand, check_fits

    gpus = 1.0 if config.use_gpu else 0.0
    workers = Demand(name="training workers", count=config.num_workers, gpus=gpus)
    check_fits([workers], ray.cluster_resources(), free_cpus=1.5)


# --- around the workers ---------------------------------------------------------------------------------------------


def _fit(config: Pretrain, job: dict[str, Any]) -> None:
    """Start the workers, show their progress, and leave nothing of Ray's own state behind."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchConfig, TorchTrainer

    failures = FailureConfig(max_failures=config.max_failures, controller_failure_limit=_CONTROLLER_RETRIES)
    per_worker = {"CPU": 1.0} | ({"GPU": 1.0} if config.use_gpu else {})
    with tempfile.TemporaryDirectory(prefix="crystalign-train-") as folder, _mailbox(config.name) as mailbox:
        trainer = TorchTrainer(
            train_worker,
            train_loop_config=job | {"mailbox": mailbox},
            torch_config=TorchConfig(backend="nccl" if config.use_gpu else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=config.num_workers, use_gpu=config.use_gpu, resources_per_worker=per_worker
            ),
            run_config=RunConfig(name=config.name, storage_path=folder, failure_config=failures),
        )
        try:
            trainer.fit()
        except TrainingFailedError as error:
            raise _explained(error, job["run"]) from error


def _explained(error: Exception, run: str) -> Error:
    """Our own exception if a worker raised one, else what failed and how to go on."""
    failures = getattr(error, "worker_failures", {})
    for failure in failures.values():
        cause = getattr(failure, "_base_exc", failure)
        cause = getattr(cause, "cause", cause)  # of a task, wrapped once more
        if isinstance(cause, Error):
            return cause
    ranks = ", ".join(str(rank) for rank in sorted(failures)) or "none"
    last = str(error).strip().splitlines()[-1]
    return Error(f"training stopped (ranks that failed: {ranks}): {last}; {run} keeps its checkpoints: use --resume")


class Mailbox:
    """An actor through which rank 0 tells the terminal how it goes."""

    def __init__(self) -> None:
        self._records: list[dict[str, float]] = []

    def put(self, record: dict[str, float]) -> None:
        """From rank 0."""
        self._records.append(record)

    def take(self) -> list[dict[str, float]]:
        """What came since the last call."""
        taken, self._records = self._records, []
        return taken


@contextmanager
def _mailbox(name: str) -> Iterator[Any]:
    """A mailbox, and a thread that shows what arrives in it."""
    import ray

    mailbox = ray.remote(num_cpus=0)(Mailbox).remote()
    stop = threading.Event()
    with Meter(f"pretrain {name}", total=0, unit="steps") as meter:
        thread = threading.Thread(target=_show, args=(mailbox, meter, stop), daemon=True)
        thread.start()
        try:
            yield mailbox
        finally:
            stop.set()
            thread.join(timeout=10)
            ray.kill(mailbox)


def _show(mailbox: Any, meter: Meter, stop: threading.Event) -> None:
    import ray

    last = False
    while not last:
        last = stop.wait(0.5)
        try:
            records = ray.get(mailbox.take.remote(), timeout=10)
        except ray.exceptions.RayError:
            return  # the cluster is going down, and with it what there was to show
        for record in records:
            if "start" in record:
                meter.start_from(int(record["start"]))
                continue
            step, progress = int(record["step"]), max(record["progress"], 1e-9)
            meter.reach(step, total=max(step, round(step / progress)), note=progress_note(record))


def progress_note(record: dict[str, float]) -> str:
    """Loss by pair, speed and waiting, on one line."""
    pairs = "  ".join(f"{key[5:]} {value:.3f}" for key, value in record.items() if key.startswith("loss/"))
    speed, waiting = record["samples_per_second"], record.get("data_wait", 0.0)
    return f"loss {record['loss']:.3f} ({pairs})  {speed:,.0f} samples/s  {100 * waiting:.0f} % waiting for data"
