"""Parts of Ray that are not public are where they are used; a release that moves one fails here, by its name."""

from __future__ import annotations

import logging

import pytest

from crystalign.errors import Error, InputError
from crystalign_ray import internals
from crystalign_ray.errors import unwrap_error


def test_the_constant_that_keeps_loopback_addresses_is_there_and_restored():
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    with internals.loopback_clusters():
        assert ray_constants.ENABLE_RAY_CLUSTER is False
    assert before == ray_constants.ENABLE_RAY_CLUSTER


def test_ray_data_calls_the_callback_in_each_turn_of_its_scheduler():
    assert callable(internals.data_execution_callback().on_execution_step)


def test_rays_torch_backend_has_the_hook_before_training():
    assert callable(internals.torch_backend().on_training_start)


def test_the_loggers_of_uploads_exist():
    names = internals.upload_loggers()
    assert set(names) <= set(logging.root.manager.loggerDict)


@pytest.mark.parametrize("name", ["ray.no_such_module", "ray._private.no_such_module"])
def test_what_ray_no_longer_has_is_named_with_what_to_do(name):
    with pytest.raises(Error, match=rf"{name}.*constraints\.txt"):
        internals._module(name)
    with pytest.raises(Error, match="no_such_attribute"):
        internals._attribute(internals, "no_such_attribute")


class Wrapper(Exception):  # noqa: N818 (it stands for a wrapper of Ray)
    def __init__(self, **held: object) -> None:
        super().__init__("wrapped")
        self.__dict__.update(held)


def raised_from(outer: BaseException, inner: BaseException) -> BaseException:
    try:
        raise outer from inner
    except type(outer) as error:
        return error


OURS = InputError("the message", reason="some-reason")


@pytest.mark.parametrize(
    "error",
    [
        OURS,
        Wrapper(cause=OURS),
        Wrapper(cause=Wrapper(cause=OURS)),
        Wrapper(_base_exc=Wrapper(cause=OURS)),
        Wrapper(worker_failures={1: Wrapper(cause=ValueError("of the partner")), 0: Wrapper(_base_exc=OURS)}),
        raised_from(RuntimeError("outer"), Wrapper(cause=OURS)),
        raised_from(Wrapper(cause=ValueError("inner")), OURS),
    ],
)
def test_an_exception_of_ours_is_found_at_any_depth(error):
    assert unwrap_error(error) is OURS


def test_an_exception_without_one_of_ours_has_none():
    error = Wrapper(cause=ValueError("inner"))
    error.cause.__cause__ = error  # a circle ends
    assert unwrap_error(error) is None
    assert unwrap_error(None) is None


def test_what_the_core_writes_while_it_connects_stays_off_the_terminal(capfd):
    import os

    with internals.silent_core():
        os.write(2, b"a note of the core\n")
    os.write(2, b"an error of ours\n")
    assert capfd.readouterr().err == "an error of ours\n"


def test_errors_of_the_cluster_stay_off_the_terminal_while_it_shuts_down(capsys):
    from ray._private import worker

    message = {"lines": ["Task ServeController failed"], "pid": "raylet", "is_err": False}
    with internals.silent_shutdown():
        worker.print_to_stdstream(message, ignore_prefix=False)
    assert capsys.readouterr().out == ""
    worker.print_to_stdstream(message, ignore_prefix=False)
    assert "Task ServeController failed" in capsys.readouterr().out
