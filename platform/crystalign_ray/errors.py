"""Find the original exception inside the exceptions of Ray, which wrap what a task, an actor or a worker raised."""

from __future__ import annotations

from collections.abc import Iterator

from crystalign.errors import Error

_ADVICE_OF_RAY_DATA = "\nFailed to apply "
"""Start of the text that Ray Data appends to a message: how often it tried, and how to allow more attempts."""


def unwrap_error(error: BaseException | None) -> Error | None:
    """The Crystalign exception that Ray or Python wrapped in another exception; None if there is none.

    Ray stores the wrapped exception in `cause`, Python in `__cause__` and `__context__`, Ray Train in
    `worker_failures`.
    """
    original = next(
        (candidate for candidate in _within(error) if isinstance(candidate, Error) and not _is_wrapper(candidate)), None
    )
    if original is not None and original.args and isinstance(original.args[0], str):
        original.args = (original.args[0].partition(_ADVICE_OF_RAY_DATA)[0], *original.args[1:])
    return original


def _is_wrapper(error: BaseException) -> bool:
    """Whether an exception wraps another one. Some wrappers of Ray are subclasses of the class that they wrap."""
    return isinstance(getattr(error, "cause", None), BaseException)


def _within(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and all exceptions that it wraps, the outermost first."""
    waiting, visited = [error], set()
    while waiting:
        current = waiting.pop(0)
        if not isinstance(current, BaseException) or id(current) in visited:
            continue
        visited.add(id(current))
        yield current
        failures = getattr(current, "worker_failures", None)
        inner = [failures[rank] for rank in sorted(failures)] if isinstance(failures, dict) else []
        wrapped = [getattr(current, name, None) for name in ("cause", "_base_exc")]
        waiting += [*wrapped, *inner, current.__cause__, current.__context__]


def of_workers(error: BaseException) -> dict[int, BaseException]:
    """Rank → exception that it raised, from an error of Ray Train; empty if no worker raised one."""
    causes = {}
    for rank, failure in getattr(error, "worker_failures", {}).items():
        cause = getattr(failure, "_base_exc", failure)
        causes[rank] = getattr(cause, "cause", cause)  # an error of a task is wrapped twice
    return causes


def raised_by_a_worker(error: BaseException) -> Exception | None:
    """The exception with which a worker of Ray Train failed by itself; None if a process died.

    In both cases the other workers raise errors about their lost connection, which are ignored.
    """
    import torch.distributed as dist

    causes = list(of_workers(error).values())
    if any(type(cause).__module__.partition(".")[0] == "ray" for cause in causes):  # its process died
        return None
    for cause in causes:
        connection_lost = isinstance(cause, dist.DistBackendError) or "gloo/transport" in str(cause)
        if isinstance(cause, Exception) and not connection_lost:
            return cause
    return None


def last_line(error: BaseException) -> str:
    """The last line of the message of an exception; the name of its class if the message is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
