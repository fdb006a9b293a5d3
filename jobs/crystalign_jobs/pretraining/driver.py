"""The driver of a pre-training run: start the workers, show progress, stop them gracefully, explain failures."""

from __future__ import annotations

import contextlib
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from crystalign.errors import ConfigError, Error, StorageError
from crystalign_jobs.pretraining.config import Pretrain
from crystalign_jobs.pretraining.job import Job
from crystalign_jobs.pretraining.mailbox import open_mailbox
from crystalign_jobs.pretraining.status import WRITE_SECONDS, RunStatus, write_status
from crystalign_jobs.pretraining.worker import train_worker
from crystalign_jobs.pretraining.worker_count import (
    ScaleUpMonitor,
    alive_nodes,
    is_elastic,
    least_workers,
    lost_a_node,
    wait_for_workers,
)
from crystalign_jobs.runtime.background import asked_to_stop, run_in_background
from crystalign_ray.errors import last_line, of_workers
from crystalign_ray.progress import Meter

_CONTROLLER_RETRIES = 3
_FOREVER = -1
MAILBOX_SECONDS = 30.0
"""Seconds after which an actor that does not answer is considered dead."""


class Stopped(Error):  # noqa: N818 (not an error)
    """The run was stopped by Ctrl-C or SIGTERM before its last step."""

    signum: int = signal.SIGINT
    """The signal that stopped it."""


def fit(config: Pretrain, job: Job) -> None:
    """Run the workers to the end of the run, and restart them after failures.

    Args:
        config: settings of the run.
        job: what its workers need, without the mailbox.

    Raises:
        Stopped: Ctrl-C or SIGTERM arrived; a checkpoint was written first.
        Error: the run failed; its checkpoints are kept.
    """
    run = job.run
    mailbox = open_mailbox(60 * config.timeout_minutes)
    with _shown(config.name, run, mailbox) as display, asked_to_stop() as signals:
        try:
            failure = _run(config, replace(job, mailbox=mailbox), signals)
            display.end(_outcome(failure, mailbox, run))
        except KeyboardInterrupt:
            display.end(
                Stopped(f"stopped at once, without a last checkpoint. To continue: crystalign pretrain --resume {run}")
            )
            raise
    if isinstance(display.error, Stopped) and signals:
        display.error.signum = signals[0]
    if display.error is not None:
        raise display.error


def _run(config: Pretrain, job: Job, signals: list[int]) -> Exception | None:
    """Run trainers until the run ends, each with as many workers as fit when it starts; return the last failure."""
    import ray

    mailbox, failures, last_workers, max_workers = job.mailbox, 0, least_workers(config), config.num_workers
    while True:
        try:
            workers = wait_for_workers(config, max_workers, signals)
        except ConfigError as error:
            return error
        if not workers:
            return Stopped(f"stopped while waiting for nodes. To continue: crystalign pretrain --resume {job.run}")
        nodes = alive_nodes()
        grows, failure = _run_trainer(config, workers, max_workers, job, signals)
        if signals or not is_elastic(config):
            return failure
        over, failure = _is_over(failure, mailbox, job.run, grows=grows)
        if over:
            return failure
        if ray.get(mailbox.resume.remote()):
            last_workers = workers
        elif failure is not None:
            max_workers = max(last_workers, least_workers(config))  # there was no room for this many workers
        if failure is not None:
            failures += not lost_a_node(nodes)
            if failures > config.max_failures:
                return failure
            print(f"continuing from the newest checkpoint after a failure: {last_line(failure)}", flush=True)


def _is_over(failure: Exception | None, mailbox: Any, run: str, *, grows: bool) -> tuple[bool, Exception | None]:
    """Whether the run ends with the trainer that has just ended, and the failure, if any."""
    outcome = _read_outcome(mailbox)
    if outcome is None:
        return True, failure or Error(f"the cluster is gone. To continue: crystalign pretrain --resume {run}")
    fatal, stopped_at = outcome
    return fatal is not None or (failure is None and not (grows and stopped_at is not None)), failure


def _read_outcome(mailbox: Any) -> tuple[Exception | None, int | None] | None:
    """From the mailbox: an error that would recur, and the step of a stop as asked; None if the mailbox is gone."""
    import ray

    try:
        outcome: tuple[Exception | None, int | None] = ray.get(mailbox.outcome.remote(), timeout=MAILBOX_SECONDS)
    except ray.exceptions.RayError:  # the mailbox is lost with the cluster
        return None
    return outcome


def _run_trainer(
    config: Pretrain, workers: int, max_workers: int, job: Job, signals: list[int]
) -> tuple[bool, Exception | None]:
    """Run one trainer to its end.

    Returns:
        Whether it was stopped because more workers fit, and the exception that it raised, if any.
    """
    grows, monitor = False, ScaleUpMonitor(config, workers, max_workers)

    def work() -> None:
        with tempfile.TemporaryDirectory(prefix="crystalign-train-") as folder:
            _trainer(config, workers, job, folder).fit()

    def on_stop() -> None:
        print("stopping after this step, with a checkpoint; press Ctrl-C again to stop at once", flush=True)
        job.mailbox.ask_stop.remote()

    def on_tick() -> None:
        nonlocal grows
        if not grows and monitor.due():
            job.mailbox.ask_stop.remote()
            grows = True

    failure = run_in_background(work, signals, name="fit", on_stop=on_stop, on_tick=on_tick)
    return grows, failure


def _trainer(config: Pretrain, workers: int, job: Job, folder: str) -> Any:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from crystalign_jobs.pretraining.interruption import GracefulTorchConfig

    failures = FailureConfig(
        max_failures=0 if is_elastic(config) else config.max_failures,  # a restart by Ray would wait for the lost node
        controller_failure_limit=0 if is_elastic(config) else _CONTROLLER_RETRIES,
        # A preempted node is not a failure.
        max_preemption_failures=0 if is_elastic(config) else _FOREVER,
    )
    per_worker = {"CPU": 1.0} | ({"GPU": 1.0} if config.use_gpu else {})
    return TorchTrainer(
        train_worker,
        train_loop_config={"job": job},
        torch_config=GracefulTorchConfig(
            backend="nccl" if config.use_gpu else "gloo", timeout_s=round(60 * config.timeout_minutes)
        ),
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=config.use_gpu, resources_per_worker=per_worker),
        # The folder with Ray's own records is temporary: a run resumes from the checkpoints in its own folder.
        run_config=RunConfig(name=config.name, storage_path=folder, failure_config=failures),
    )


def _outcome(failure: Exception | None, mailbox: Any, run: str) -> Error | None:
    """Why the run ended before its last step; None if it finished."""
    fatal, stopped_at = _read_outcome(mailbox) or (None, None)
    if fatal is not None:
        return fatal if isinstance(fatal, Error) else Error(str(fatal))
    if stopped_at is not None:
        return Stopped(
            f"stopped at step {stopped_at}, with a checkpoint. To continue: crystalign pretrain --resume {run}"
        )
    if isinstance(failure, Error):
        return failure
    return None if failure is None else explained(failure, run, _behind(mailbox))


def explained(error: Exception, run: str, behind: list[str]) -> Error:
    """The Crystalign exception that a worker raised, else one that names the failed ranks and how to resume.

    Args:
        error: the exception that Ray raised.
        run: URI of the run.
        behind: descriptions of the ranks that the others waited for.
    """
    failures = of_workers(error)
    for cause in failures.values():
        if isinstance(cause, Error):
            return cause
    ranks = ", ".join(str(rank) for rank in sorted(failures)) or "none"
    waited = f"; the others waited for {' and '.join(behind)}" if behind else ""
    return Error(
        f"training failed (failed ranks: {ranks}): {last_line(error)}{waited}. The checkpoints in {run} are kept. "
        f"To continue: crystalign pretrain --resume {run}"
    )


def _behind(mailbox: Any) -> list[str]:
    import ray

    try:
        ranks: list[str] = ray.get(mailbox.behind.remote(), timeout=30)
    except ray.exceptions.RayError:
        return []
    return ranks


# --- what a user sees -----------------------------------------------------------------------------------------------


class RunDisplay:
    """The progress line in the terminal, and the status file in the run's folder."""

    def __init__(self, run: str, meter: Meter) -> None:
        self.error: Error | None = None
        """Why the run ended before its last step."""
        self._run, self._meter = run, meter
        self._status = RunStatus(state="running")
        self._written = 0.0

    def show(self, record: dict[str, float]) -> None:
        """Show one record of metrics from rank 0."""
        if "start" in record:
            self._meter.start_from(int(record["start"]))
            self._status = self._status.model_copy(update={"step": int(record["start"])})
            return
        step, progress = int(record["step"]), max(record["progress"], 1e-9)
        total = max(step, round(step / progress))
        self._meter.reach(step, total=total, note=progress_note(record))
        numbers = {key: value for key, value in record.items() if key.split("/")[0] in {"loss", "retrieval"}}
        metrics = numbers | {"progress": record["progress"]}
        self._status = self._status.model_copy(update={"step": step, "total": total, "metrics": metrics})

    def tell(self) -> None:
        """Write the status file, at most every `WRITE_SECONDS`."""
        if time.monotonic() - self._written < WRITE_SECONDS:
            return
        self._written = time.monotonic()
        # Resuming does not need the status. Failing storage also fails the next checkpoint, which stops the run.
        with contextlib.suppress(StorageError):
            write_status(self._run, self._status)

    def end(self, error: Error | None) -> None:
        """Record how the run ended; `tell` then writes it at once."""
        self.error, self._written = error, -WRITE_SECONDS
        state = "finished" if error is None else "stopped" if isinstance(error, Stopped) else "failed"
        message = str(error) if state == "failed" else ""
        self._status = self._status.model_copy(update={"state": state, "message": message})


@contextmanager
def _shown(name: str, run: str, mailbox: Any) -> Iterator[RunDisplay]:
    """Show what arrives in the mailbox, from a thread."""
    import ray

    stop = threading.Event()
    with Meter(f"pretrain {name}", total=0, unit="steps") as meter:
        display = RunDisplay(run, meter)
        thread = threading.Thread(target=_show, args=(mailbox, display, stop), daemon=True)
        thread.start()
        try:
            yield display
        finally:
            stop.set()
            thread.join(timeout=30)
            display.tell()
            ray.kill(mailbox)


def _show(mailbox: Any, display: RunDisplay, stop: threading.Event) -> None:
    import ray

    last = False
    while not last:
        last = stop.wait(0.5)
        try:
            records = ray.get(mailbox.take.remote(), timeout=60)
        except ray.exceptions.GetTimeoutError:
            continue  # the machine is very busy
        except ray.exceptions.RayError:
            return  # the cluster is shutting down
        for record in records:
            display.show(record)
        if not last:
            display.tell()


def progress_note(record: dict[str, float]) -> str:
    """Loss by pair, retrieval, speed and waiting time in one line."""
    pairs = "  ".join(f"{key[5:]} {value:.3f}" for key, value in record.items() if key.startswith("loss/"))
    recall = f"  R@1 {100 * record['retrieval']:.1f} %" if "retrieval" in record else ""
    speed, waiting = record["samples_per_second"], record.get("data_wait", 0.0)
    return (
        f"loss {record['loss']:.3f} ({pairs}){recall}  {speed:,.0f} samples/s  {100 * waiting:.0f} % waiting for data"
    )
