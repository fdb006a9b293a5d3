"""What Ray's exceptions are about: it wraps what a task or a worker raised."""

from __future__ import annotations

from crystalign.errors import Error


def ours(error: BaseException | None) -> Error | None:
    """The error of ours inside whatever Ray has wrapped around it."""
    while error is not None and not isinstance(error, Error):
        error = getattr(error, "cause", None) or error.__cause__
    return error


def of_workers(error: BaseException) -> dict[int, BaseException]:
    """Rank → what it raised, of an error of Ray Train; empty where no worker did."""
    found = {}
    for rank, failure in getattr(error, "worker_failures", {}).items():
        cause = getattr(failure, "_base_exc", failure)
        found[rank] = getattr(cause, "cause", cause)  # of a task, wrapped once more
    return found


def lost_a_worker(error: BaseException) -> bool:
    """Whether a process of Ray Train died rather than raised; its partners then raise of their connection to it."""
    import torch.distributed as dist

    failures = getattr(error, "worker_failures", {})
    causes = of_workers(error).values()
    disconnected = any(isinstance(cause, dist.DistBackendError) or "gloo/transport" in str(cause) for cause in causes)
    return disconnected or any(not hasattr(failure, "_base_exc") for failure in failures.values())


def last_line(error: BaseException) -> str:
    """Of its message; its kind where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
