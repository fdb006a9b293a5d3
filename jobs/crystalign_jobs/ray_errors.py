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


def raised_by_a_worker(error: BaseException) -> Exception | None:
    """What a worker of Ray Train raised by itself, and would again; None where a process died.

    The partners of either raise, too, of their connection to it.
    """
    import torch.distributed as dist

    causes = list(of_workers(error).values())
    if any(type(cause).__module__.partition(".")[0] == "ray" for cause in causes):  # of a process that is gone
        return None
    for cause in causes:
        lost = isinstance(cause, dist.DistBackendError) or "gloo/transport" in str(cause)
        if isinstance(cause, Exception) and not lost:
            return cause
    return None


def last_line(error: BaseException) -> str:
    """Of its message; its kind where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
