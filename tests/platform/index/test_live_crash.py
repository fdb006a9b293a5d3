"""What ends a change at any write leaves the version before it whole; of two writers at a time, one wins."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from crystalign import storage
from crystalign.errors import ConflictError
from crystalign.index.build import build_index
from crystalign.index.compaction import compact
from crystalign.index.live import add, remove, rollback
from crystalign.index.manifest import IndexManifest
from crystalign.index.versions import history
from live_index import Held, opened, part_of, require_same

N, FIRST = 60, 40
WRITES = ("write_bytes", "replace_bytes", "upload", "delete")


@pytest.fixture(scope="module")
def few(make):
    return make(N, 8, seed=3)


@pytest.fixture
def place(few, write, tmp_path):
    """An index of which a row was removed and some were added, and embeddings of further rows."""
    uri = str(tmp_path / "index")
    build_index(write(str(tmp_path / "first"), part_of(few, range(FIRST))), uri, rows_per_segment=16)
    add(uri, write(str(tmp_path / "second"), part_of(few, range(FIRST, FIRST + 10))))
    remove(uri, ids=[few.ids[0]])
    write(str(tmp_path / "third"), part_of(few, range(FIRST + 8, N)))
    return tmp_path


def before(few):
    held = Held(few, range(FIRST + 10))
    del held.at[few.ids[0]]
    return held


def added(few):
    held = before(few)
    held.at |= {few.ids[place]: place for place in range(FIRST + 8, N)}
    return held


def removed(few):
    held = before(few)
    for place in (1, 2, FIRST + 1):
        del held.at[few.ids[place]]
    return held


def first(few):
    return Held(few, range(FIRST))


OPERATIONS = {
    "add": (lambda place, few: add(str(place / "index"), str(place / "third"), replace=True), added),
    "remove": (lambda place, few: remove(str(place / "index"), ids=[few.ids[i] for i in (1, 2, FIRST + 1)]), removed),
    "compact": (lambda place, few: compact(str(place / "index")), before),
    "rollback": (lambda place, few: rollback(str(place / "index"), 1), first),
}


class StoppedError(Exception):
    """The job ends here."""


def stop_at(patch, number, moment):
    """Let the n-th write fail, before or after it is done; returns the list of writes."""
    done = []

    def wrapped(goes_on):
        def write(*values, **options):
            done.append(values[0])
            mine = len(done)
            if mine == number and moment == "before":
                raise StoppedError
            result = goes_on(*values, **options)
            if mine == number and moment == "after":
                raise StoppedError
            return result

        return write

    for name in WRITES:
        patch.setattr(storage, name, wrapped(getattr(storage, name)))
    return done


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_change_that_is_interrupted_anywhere_leaves_a_whole_version(few, place, name, moment):
    operation, expected = OPERATIONS[name]
    uri, rng = str(place / "index"), np.random.default_rng(1)
    start = storage.read_bytes(f"{uri}/manifest.json")
    number, interrupted = 1, True
    while interrupted:
        (place / "index" / "manifest.json").write_bytes(start)
        with pytest.MonkeyPatch.context() as patch:
            stop_at(patch, number, moment)
            try:
                operation(place, few)
                interrupted = False
            except StoppedError:
                pass
        manifest = IndexManifest.read(uri)
        was_made = manifest.number == 4
        assert (storage.read_bytes(f"{uri}/manifest.json") == start) == (not was_made)
        require_same(opened(uri, manifest, 1), expected(few) if was_made else before(few), rng)
        number += 1
    assert number > 4, "there are several writes"
    (place / "index" / "manifest.json").write_bytes(start)
    operation(place, few)  # beside all that the interrupted ones have left
    manifest = IndexManifest.read(uri)
    assert [version.number for version in history(uri)] == [4, 3, 2, 1]
    require_same(opened(uri, manifest, 2), expected(few), rng)
    operation(place, few)  # and again: it is recognised as done
    require_same(opened(uri, IndexManifest.read(uri), 2), expected(few), rng)


KILLED = """
import os, signal, sys
from crystalign import storage
from crystalign.index.compaction import compact
goes_on = storage.replace_bytes
def killed(uri, *values, **options):
    if uri.endswith("manifest.json"):
        os.kill(os.getpid(), signal.SIGKILL)
    return goes_on(uri, *values, **options)
storage.replace_bytes = killed
compact(sys.argv[1])
"""


def test_a_job_that_is_killed_before_its_last_write_has_changed_nothing(few, place):
    uri = str(place / "index")
    start = storage.read_bytes(f"{uri}/manifest.json")
    environment = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", KILLED, uri], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    assert storage.read_bytes(f"{uri}/manifest.json") == start
    assert len(list(Path(uri, "versions").iterdir())) == 4, "its version was written, and is not in the history"
    assert [version.number for version in history(uri)] == [3, 2, 1]
    compact(uri)
    require_same(opened(uri, IndexManifest.read(uri), 1), before(few), np.random.default_rng(2))


@pytest.mark.parametrize("name", OPERATIONS)
def test_of_two_writers_the_second_fails_and_nothing_of_it_is_visible(few, place, name, monkeypatch):
    operation, _ = OPERATIONS[name]
    uri, replace, waiting = str(place / "index"), storage.replace_bytes, ["once"]

    def overtaken(target, *values, **options):
        if target.endswith("manifest.json") and waiting:
            waiting.pop()
            remove(uri, ids=[few.ids[7]])
        return replace(target, *values, **options)

    monkeypatch.setattr(storage, "replace_bytes", overtaken)
    with pytest.raises(ConflictError, match=r"changed by another job.*version 4: removed 1 rows.*repeat the command"):
        operation(place, few)
    held = before(few)
    del held.at[few.ids[7]]
    assert [version.number for version in history(uri)] == [4, 3, 2, 1]
    require_same(opened(uri, IndexManifest.read(uri), 2), held, np.random.default_rng(4))
    operation(place, few)
    assert IndexManifest.read(uri).number == 5


@pytest.mark.parametrize("kept", ["local", "moto"])
def test_of_many_writers_at_once_each_version_has_one(few, place, kept, request, monkeypatch):
    uri = str(place / "index")
    if kept == "moto":
        uri = request.getfixturevalue("s3") + "/index"
        for name in storage.list_names(str(place / "index")):
            storage.upload(place / "index" / name, storage.join(uri, *name.split("/")))
    gate, replace, results = threading.Barrier(4), storage.replace_bytes, {}

    def together(target, *values, **options):
        if target.endswith("manifest.json"):
            gate.wait(60)
        return replace(target, *values, **options)

    monkeypatch.setattr(storage, "replace_bytes", together)

    def work(number):
        try:
            results[number] = remove(uri, ids=[few.ids[number]]).manifest
        except ConflictError as error:
            results[number] = error

    threads = [threading.Thread(target=work, args=(number,)) for number in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (won,) = [number for number, result in results.items() if isinstance(result, IndexManifest)]
    assert IndexManifest.read(uri) == results[won]
    held = before(few)
    del held.at[few.ids[won]]
    require_same(opened(uri, results[won], 1), held, np.random.default_rng(5))
