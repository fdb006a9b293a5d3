"""Loggers of metrics: CSV, TensorBoard, MLflow, Weights & Biases. Only rank 0 writes."""

from __future__ import annotations

import csv
import io
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from crystalign import storage
from crystalign.errors import ConfigError
from crystalign.training.config import PretrainConfig

Record = dict[str, float]
"""Flat metrics of one step, including `step`."""


class Writer(Protocol):
    """A destination of metrics."""

    def write(self, record: Record) -> None:
        """Add the metrics of a step."""

    def publish(self) -> None:
        """Store all metrics so far under the run's URI."""

    def close(self) -> None:
        """Publish and release resources."""


class MetricLog:
    """Writes metrics to all writers of a run."""

    def __init__(self, config: PretrainConfig, run_uri: str, *, start_step: int = 0) -> None:
        """Open the writers that `config.loggers` names.

        Args:
            config: names the loggers; trackers record it.
            run_uri: URI of the run; `metrics.csv` and `tensorboard/` are below it.
            start_step: the step from which the run resumes; metrics of later steps, logged before an interruption,
                are removed from the CSV and hidden in TensorBoard.

        Raises:
            ConfigError: the package of a logger is not installed.
        """
        check_loggers(config)
        self.writers: list[Writer] = []
        for name in config.loggers:
            if name == "csv":
                self.writers.append(CsvWriter(storage.join(run_uri, "metrics.csv"), start_step))
            elif name == "tensorboard":
                self.writers.append(TensorBoardWriter(storage.join(run_uri, "tensorboard"), start_step))
            else:
                self.writers.append(TrackerWriter(name, config))

    def write(self, record: Record) -> None:
        """Write to every writer; later metrics of the same step are added to the earlier ones."""
        for writer in self.writers:
            writer.write(record)

    def publish(self) -> None:
        """Store all metrics so far; call it with each checkpoint, from any thread."""
        for writer in self.writers:
            writer.publish()

    def close(self) -> None:
        """Publish and release resources."""
        for writer in self.writers:
            writer.close()


class CsvWriter:
    """A CSV file with one row per logged step; columns are added when a metric first appears."""

    def __init__(self, uri: str, start_step: int) -> None:
        self.uri = uri
        self.rows: list[dict[str, str]] = []
        if start_step and storage.exists(uri):
            old = csv.DictReader(io.StringIO(storage.read_bytes(uri).decode()))
            self.rows = [row for row in old if float(row["step"]) <= start_step]

    def write(self, record: Record) -> None:
        """Add a row, or add to the row of the same step."""
        row = {key: f"{value:.8g}" for key, value in record.items()}
        if self.rows and self.rows[-1]["step"] == row["step"]:
            self.rows[-1] = self.rows[-1] | row
        else:
            self.rows.append(row)

    def publish(self) -> None:
        """Write the whole table, which is small."""
        rows = list(self.rows)  # training may add rows meanwhile
        columns = list(dict.fromkeys(key for row in rows for key in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        storage.write_bytes(self.uri, text.getvalue().encode())

    def close(self) -> None:
        """Publish."""
        self.publish()


class TensorBoardWriter:
    """Event files, written locally and copied to the run."""

    def __init__(self, uri: str, start_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.uri = uri
        self.folder = tempfile.TemporaryDirectory(prefix="crystalign-tensorboard-")
        self.events: Any = SummaryWriter(self.folder.name, purge_step=start_step + 1 if start_step else None)

    def write(self, record: Record) -> None:
        """Add one point per metric."""
        for key, value in record.items():
            if key != "step":
                self.events.add_scalar(key, value, int(record["step"]))

    def publish(self) -> None:
        """Copy the event files."""
        self.events.flush()
        for path in sorted(Path(self.folder.name).iterdir()):
            storage.write_bytes(storage.join(self.uri, path.name), path.read_bytes())

    def close(self) -> None:
        """Publish and delete the local copy."""
        self.publish()
        self.events.close()
        self.folder.cleanup()


class TrackerWriter:
    """MLflow or Weights & Biases, configured by their own environment variables."""

    def __init__(self, name: str, config: PretrainConfig) -> None:
        self.name = name
        settings = config.model_dump(mode="json")
        if name == "mlflow":
            import mlflow  # type: ignore[import-not-found]

            self.tracker: Any = mlflow
            mlflow.start_run(run_name=config.name)
            mlflow.log_dict(settings, "config.json")
        else:
            import wandb  # type: ignore[import-not-found]

            self.tracker = wandb.init(project="crystalign", name=config.name, config=settings)

    def write(self, record: Record) -> None:
        """Log all metrics of the step."""
        if self.name == "mlflow":
            # MLflow stores names as paths, and `loss` cannot be both a file and the folder of `loss/…`
            named = {key.replace("/", "."): value for key, value in record.items() if key != "step"}
            self.tracker.log_metrics(named, step=int(record["step"]))
        else:
            self.tracker.log(record, step=int(record["step"]))

    def publish(self) -> None:
        """Trackers publish by themselves."""

    def close(self) -> None:
        """End the tracker's run."""
        if self.name == "mlflow":
            self.tracker.end_run()
        else:
            self.tracker.finish()


def check_loggers(config: PretrainConfig) -> None:
    """Check that the packages of all loggers are installed, without importing them.

    Raises:
        ConfigError: a package is not installed.
    """
    for name in config.loggers:
        if name == "csv":
            continue
        try:
            installed = find_spec(name) is not None
        except ValueError:  # the module was replaced by one without a spec
            installed = False
        if not installed:
            raise ConfigError(
                f"loggers: {name!r} is not installed: pip install 'crystalign[{name}]', or leave it out of `loggers`"
            )
