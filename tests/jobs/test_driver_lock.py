"""A run has one driver at a time; one that died is no obstacle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from crystalign.errors import ConfigError
from crystalign_jobs.runtime.background import asked_to_stop
from crystalign_ray import driver_lock
from crystalign_ray.driver_lock import FILE, Driver, driving


def left(run: Path, **changes) -> Path:
    """The sign of another driver."""
    values = {"machine": driver_lock._machine(), "host": "elsewhere", "pid": os.getpid(), "token": "other"}
    values["began"] = psutil.Process().create_time()
    run.mkdir(exist_ok=True)
    place = run / FILE
    place.write_text(Driver(**values | changes).model_dump_json())
    return place


def test_a_second_driver_is_refused_and_the_first_leaves_nothing(tmp_path):
    run = tmp_path / "run"
    with driving(str(run)):
        with (
            pytest.raises(ConfigError, match=rf"locked by process {os.getpid()} on .* last heartbeat"),
            driving(str(run)),
        ):
            pass
        assert (run / FILE).exists()
    assert not (run / FILE).exists()
    with driving(str(run)):
        pass


def test_a_driver_of_this_machine_that_was_killed_is_no_obstacle(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    left(tmp_path / "run", pid=gone.pid)
    with driving(str(tmp_path / "run")):
        assert "elsewhere" not in (tmp_path / "run" / FILE).read_text()


def test_a_process_that_has_the_number_of_a_dead_driver_is_not_taken_for_it(tmp_path):
    place = left(tmp_path / "run", began=1.0)
    with driving(str(tmp_path / "run")):
        assert "elsewhere" not in place.read_text()


def test_a_driver_that_was_replaced_is_told_to_stop_and_leaves_its_successor_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(driver_lock, "BEAT_SECONDS", 0.05)
    with asked_to_stop() as asked, driving(str(tmp_path / "run")):
        place = left(tmp_path / "run", machine="another")
        until = time.monotonic() + 20
        while not asked and time.monotonic() < until:
            time.sleep(0.02)
        assert asked == [signal.SIGTERM]
    assert "another" in place.read_text()


def test_a_driver_on_another_machine_is_forgotten_when_it_is_silent(tmp_path):
    place = left(tmp_path / "run", machine="another", pid=1)
    with pytest.raises(ConfigError, match="elsewhere"), driving(str(tmp_path / "run")):
        pass
    old = time.time() - driver_lock.SILENT_SECONDS - 1
    os.utime(place, (old, old))
    with driving(str(tmp_path / "run")):
        pass


def test_who_was_taken_for_dead_does_not_take_the_place_of_its_successor_away(tmp_path):
    with driving(str(tmp_path / "run")):
        place = left(tmp_path / "run")
    assert place.exists()


def test_signs_of_life_are_given(tmp_path, monkeypatch):
    monkeypatch.setattr(driver_lock, "BEAT_SECONDS", 0.05)
    with driving(str(tmp_path / "run")):
        place = tmp_path / "run" / FILE
        os.utime(place, (0, 0))
        until = time.monotonic() + 20
        while place.stat().st_mtime == 0 and time.monotonic() < until:
            time.sleep(0.02)
        assert place.stat().st_mtime > 0


def driver(token: str, **changes) -> Driver:
    values = {"machine": driver_lock._machine(), "host": "here", "pid": os.getpid(), "token": token}
    return Driver(**values | {"began": psutil.Process().create_time()} | changes)


def test_of_two_that_find_a_driver_dead_the_slower_one_is_refused(tmp_path, monkeypatch):
    place = str(left(tmp_path / "run", began=1.0))
    lives, looked = driver_lock._is_alive, []

    def slow(other: Driver, age: float) -> bool:
        dead = not lives(other, age)
        if dead and not looked:
            looked.append(other)
            driver_lock._claim(place, driver("quick"))
        return not dead

    monkeypatch.setattr(driver_lock, "_is_alive", slow)
    with pytest.raises(ConfigError, match="locked by process"):
        driver_lock._claim(place, driver("slow"))
    assert driver_lock._read(place).token == "quick"


def test_of_many_that_find_a_driver_dead_one_takes_its_place(tmp_path):
    for number in range(20):
        place = str(left(tmp_path / f"run{number}", began=1.0))
        start = threading.Barrier(3)

        def claim(token: str, place=place, start=start) -> bool:
            start.wait()
            try:
                driver_lock._claim(place, driver(token))
            except ConfigError:
                return False
            return True

        with ThreadPoolExecutor(3) as pool:
            won = list(pool.map(claim, "abc"))
        assert won.count(True) == 1
        assert driver_lock._read(place).token == "abc"[won.index(True)]


def test_a_sign_of_life_never_takes_the_place_of_a_successor(tmp_path, monkeypatch):
    place, stop = str(tmp_path / "driver.json"), threading.Event()
    driver_lock._claim(place, driver("first"))
    monkeypatch.setattr(driver_lock, "BEAT_SECONDS", 0.02)
    monkeypatch.setattr(driver_lock, "_give_way", lambda place, other: stop.set())
    replace = driver_lock.storage.replace_bytes

    def overtaken(uri: str, data: bytes, *, expected: str | None) -> object:
        Path(uri).write_text(driver("second").model_dump_json())  # at the last moment
        return replace(uri, data, expected=expected)

    monkeypatch.setattr(driver_lock.storage, "replace_bytes", overtaken)
    driver_lock._beat(place, driver("first"), stop)
    assert driver_lock._read(place).token == "second"
