"""Around the workers of a pre-training run: start them, show how it goes, stop them politely, explain what failed."""

from __future__ import annotations

import contextlib
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from crystalign.errors import ConfigError, Error, StorageError
from crystalign_jobs.elastic import Growth, alive_nodes, is_elastic, least_workers, lost_a_node, wait_for_workers
from crystalign_jobs.mailbox import open_mailbox
from crystalign_jobs.pretrain_worker import train_worker
from crystalign_jobs.progress import Meter
from crystalign_jobs.ray_errors import last_line, of_workers
from crystalign_jobs.run_status import WRITE_SECONDS, RunStatus, write_status
from crystalign_jobs.signals import asked_to_stop

if TYPE_CHECKING:
    from crystalign_jobs.pretrain import Pretrain

_CONTROLLER_RETRIES = 3
_FOREVER = -1
MAILBOX_SECONDS = 30.0
"""An actor that does not answer within this time is taken for dead."""


class Stopped(Error):  # noqa: N818 (it is no mistake)
    """The run ended before its end because it was asked to."""

    signum: int = signal.SIGINT
    """How it was asked."""


def fit(config: Pretrain, job: dict[str, Any]) -> None:
    """Run the workers to the end of the run, through restarts.

    Args:
        config: of the run.
        job: what `train_worker` takes, without the mailbox.

    Raises:
        Stopped: Ctrl-C or SIGTERM arrived; a checkpoint was written first.
        Error: what ended the run; its checkpoints stay.
    """
    run = job["run"]
    mailbox = open_mailbox(60 * config.timeout_minutes)
    with _shown(config.name, run, mailbox) as display, asked_to_stop() as asked:
        try:
            failure = _run(config, job | {"mailbox": mailbox}, asked)
            display.end(_outcome(failure, mailbox, run))
        except KeyboardInterrupt:
            display.end(Stopped(f"stopped at once, without a last checkpoint; crystalign pretrain --resume {run}"))
            raise
    if isinstance(display.error, Stopped) and asked:
        display.error.signum = asked[0]
    if display.error is not None:
        raise display.error


def _run(config: Pretrain, job: dict[str, Any], asked: list[int]) -> Exception | None:
    """Trainers until the end of the run, each with the workers that fit when it starts; what the last one raised."""
    import ray

    mailbox, failures, ran, most = job["mailbox"], 0, least_workers(config), config.num_workers
    while True:
        try:
            workers = wait_for_workers(config, most, asked)
        except ConfigError as error:
            return error
        if not workers:
            return Stopped(f"stopped while it waited for nodes; crystalign pretrain --resume {job['run']}")
        nodes = alive_nodes()
        grows, failure = _run_trainer(config, workers, most, job, asked)
        if asked or not is_elastic(config):
            return failure
        over, failure = _is_over(failure, mailbox, job["run"], grows=grows)
        if over:
            return failure
        if ray.get(mailbox.resume.remote()):
            ran = workers
        elif failure is not None:
            most = max(ran, least_workers(config))  # so many could not be had
        if failure is not None:
            failures += not lost_a_node(nodes)
            if failures > config.max_failures:
                return failure
            print(f"going on from the newest checkpoint: {last_line(failure)}", flush=True)


def _is_over(failure: Exception | None, mailbox: Any, run: str, *, grows: bool) -> tuple[bool, Exception | None]:
    """Whether no other trainer follows one that ended, and what it ended with."""
    left = _left_in(mailbox)
    if left is None:
        return True, failure or Error(f"the cluster is gone; crystalign pretrain --resume {run}")
    fatal, stopped_at = left
    return fatal is not None or (failure is None and not (grows and stopped_at is not None)), failure


def _left_in(mailbox: Any) -> tuple[Exception | None, int | None] | None:
    """What the workers left: an error that would recur, the step of their stop; None of a mailbox that is gone."""
    import ray

    try:
        found: tuple[Exception | None, int | None] = ray.get(mailbox.outcome.remote(), timeout=MAILBOX_SECONDS)
    except ray.exceptions.RayError:  # a cluster that is gone has taken the mailbox along
        return None
    return found


def _run_trainer(
    config: Pretrain, workers: int, most: int, job: dict[str, Any], asked: list[int]
) -> tuple[bool, Exception | None]:
    """Fit in a thread of its own, for Ray would take Ctrl-C for itself.

    Returns:
        Whether it was asked to stop because more workers fit, and what it raised.
    """
    raised: list[Exception] = []

    def work() -> None:
        try:
            with tempfile.TemporaryDirectory(prefix="crystalign-train-") as folder:
                _trainer(config, workers, job, folder).fit()
        except Exception as error:  # noqa: BLE001 (told by the caller, in the main thread)
            raised.append(error)

    thread = threading.Thread(target=work, daemon=True, name="fit")
    thread.start()
    told = grows = False
    growth = Growth(config, workers, most)
    while thread.is_alive():
        thread.join(0.2)
        if asked and not told:
            print("stopping after this step, with a checkpoint; once more to stop at once", flush=True)
            job["mailbox"].ask_stop.remote()
            told = True
        if len(asked) > 1:
            raise KeyboardInterrupt
        if not (told or grows) and growth.due():
            job["mailbox"].ask_stop.remote()
            grows = True
    return grows, raised[0] if raised else None


def _trainer(config: Pretrain, workers: int, job: dict[str, Any], folder: str) -> Any:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from crystalign_jobs.interruption import PoliteTorchConfig

    failures = FailureConfig(
        max_failures=0 if is_elastic(config) else config.max_failures,  # nobody waits for a node that may not return
        controller_failure_limit=0 if is_elastic(config) else _CONTROLLER_RETRIES,
        # A node that is taken away is nobody's mistake.
        max_preemption_failures=0 if is_elastic(config) else _FOREVER,
    )
    per_worker = {"CPU": 1.0} | ({"GPU": 1.0} if config.use_gpu else {})
    return TorchTrainer(
        train_worker,
        train_loop_config=job,
        torch_config=PoliteTorchConfig(
            backend="nccl" if config.use_gpu else "gloo", timeout_s=round(60 * config.timeout_minutes)
        ),
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=config.use_gpu, resources_per_worker=per_worker),
        # Ray's own records are thrown away with the folder: what a run goes on from is in its own.
        run_config=RunConfig(name=config.name, storage_path=folder, failure_config=failures),
    )


def _outcome(failure: Exception | None, mailbox: Any, run: str) -> Error | None:
    """What the run ended with; None at its end."""
    fatal, stopped_at = _left_in(mailbox) or (None, None)
    if fatal is not None:
        return fatal if isinstance(fatal, Error) else Error(str(fatal))
    if stopped_at is not None:
        return Stopped(f"stopped at step {stopped_at}, its checkpoint stored; crystalign pretrain --resume {run}")
    if isinstance(failure, Error):
        return failure
    return None if failure is None else explained(failure, run, _behind(mailbox))


def explained(error: Exception, run: str, behind: list[str]) -> Error:
    """Our own exception if a worker raised one, else what failed, whom the others waited for, and how to go on.

    Args:
        error: as Ray raised it.
        run: URI of the run.
        behind: the ranks that others were waiting for, in words.
    """
    failures = of_workers(error)
    for cause in failures.values():
        if isinstance(cause, Error):
            return cause
    ranks = ", ".join(str(rank) for rank in sorted(failures)) or "none"
    waited = f"; the others waited for {' and '.join(behind)}" if behind else ""
    return Error(
        f"training stopped (ranks that failed: {ranks}): {last_line(error)}{waited}; {run} keeps its checkpoints: "
        f"crystalign pretrain --resume {run}"
    )


def _behind(mailbox: Any) -> list[str]:
    import ray

    try:
        found: list[str] = ray.get(mailbox.behind.remote(), timeout=30)
    except ray.exceptions.RayError:
        return []
    return found


# --- what a user sees -----------------------------------------------------------------------------------------------


class Display:
    """The live line, and the status in the run's folder."""

    def __init__(self, run: str, meter: Meter) -> None:
        self.error: Error | None = None
        """What the run ended with."""
        self._run, self._meter = run, meter
        self._status = RunStatus(state="running")
        self._written = 0.0

    def show(self, record: dict[str, float]) -> None:
        """One record of rank 0."""
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
        """Write the status, if it is time to."""
        if time.monotonic() - self._written < WRITE_SECONDS:
            return
        self._written = time.monotonic()
        # Nobody needs it to go on: a store that fails here fails the next checkpoint, and that stops the run.
        with contextlib.suppress(StorageError):
            write_status(self._run, self._status)

    def end(self, error: Error | None) -> None:
        """Take what the run ended with, and write it down."""
        self.error, self._written = error, -WRITE_SECONDS
        state = "finished" if error is None else "stopped" if isinstance(error, Stopped) else "failed"
        told = str(error) if state == "failed" else ""
        self._status = self._status.model_copy(update={"state": state, "message": told})


@contextmanager
def _shown(name: str, run: str, mailbox: Any) -> Iterator[Display]:
    """A thread that shows what arrives in the mailbox."""
    import ray

    stop = threading.Event()
    with Meter(f"pretrain {name}", total=0, unit="steps") as meter:
        display = Display(run, meter)
        thread = threading.Thread(target=_show, args=(mailbox, display, stop), daemon=True)
        thread.start()
        try:
            yield display
        finally:
            stop.set()
            thread.join(timeout=30)
            display.tell()
            ray.kill(mailbox)


def _show(mailbox: Any, display: Display, stop: threading.Event) -> None:
    import ray

    last = False
    while not last:
        last = stop.wait(0.5)
        try:
            records = ray.get(mailbox.take.remote(), timeout=60)
        except ray.exceptions.GetTimeoutError:
            continue  # a machine that is very busy
        except ray.exceptions.RayError:
            return  # the cluster is going down, and with it what there was to show
        for record in records:
            display.show(record)
        if not last:
            display.tell()


def progress_note(record: dict[str, float]) -> str:
    """Loss by pair, retrieval, speed and waiting, on one line."""
    pairs = "  ".join(f"{key[5:]} {value:.3f}" for key, value in record.items() if key.startswith("loss/"))
    found = f"  R@1 {100 * record['retrieval']:.1f} %" if "retrieval" in record else ""
    speed, waiting = record["samples_per_second"], record.get("data_wait", 0.0)
    return f"loss {record['loss']:.3f} ({pairs}){found}  {speed:,.0f} samples/s  {100 * waiting:.0f} % waiting for data"
