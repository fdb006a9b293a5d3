from __future__ import annotations

import gc
import os
import re
from pathlib import Path

import numpy as np
import pytest

from crystalign.errors import StorageError, VerificationError
from crystalign.index import search
from crystalign.index.build import build_index
from crystalign.index.local_cache import FOLDER_VARIABLE, LIMIT_VARIABLE, LocalCache
from crystalign.index.search import Segment

FILTER = 'elements HAS "O" AND _crystalign_energy_above_hull<0.5 AND id>"m-2"'


@pytest.fixture
def index(rows, tmp_path, write):
    out = str(tmp_path / "index")
    return out, build_index(write(str(tmp_path / "embeddings"), rows), out, rows_per_segment=1000)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def answers(segment, rows):
    query = rows.vectors[7].astype(np.float32)
    found = segment.search(query[None], 25, FILTER)[0]
    return found.ids, found.scores.tolist(), found.allowed, segment.facets(FILTER), segment.row_of(rows.ids[5])


def counted(monkeypatch):
    """Count how often segment files are read."""
    read, calls = search.read_segments, []
    monkeypatch.setattr(search, "read_segments", lambda *args: calls.append(1) or read(*args))
    return calls


def test_a_mapped_segment_answers_as_one_in_memory(index, rows, cache, monkeypatch):
    monkeypatch.delenv(FOLDER_VARIABLE)
    expected = answers(Segment.load(*index), rows)
    monkeypatch.setenv(FOLDER_VARIABLE, str(cache))
    calls = counted(monkeypatch)
    segments = [Segment.load(*index) for _ in range(2)]
    assert [answers(segment, rows) for segment in segments] == [expected, expected]
    assert len(calls) == 1
    maps = Path("/proc/self/maps").read_text()
    for name in ("vectors.npy", "table.arrow", "elements.npy", "codes-", "values-"):
        assert re.search(rf"{cache}/\w+/{name}", maps), f"{name} is mapped"


def test_parts_of_an_index_have_entries_of_their_own(index, cache):
    uri, manifest = index
    parts = [Segment.load(uri, manifest, [entry]) for entry in manifest.segments]
    assert [len(part) for part in parts] == [1000, 1000, 1000]
    assert len(list(cache.iterdir())) == 3


@pytest.mark.parametrize("name", ["vectors.npy", "table.arrow", "by_id.npy", "manifest.json"])
@pytest.mark.parametrize("damage", ["altered", "truncated", "missing"])
def test_a_damaged_entry_is_made_again(index, rows, cache, monkeypatch, name, damage):
    expected = answers(Segment.load(*index), rows)
    (path,) = cache.glob(f"*/{name}")
    data = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(data[:-9] if damage == "truncated" else data[:-1] + bytes([data[-1] ^ 1]))
    calls = counted(monkeypatch)
    assert answers(Segment.load(*index), rows) == expected
    assert len(calls) == 1


def test_a_changed_segment_file_does_not_enter_the_cache(index, cache):
    uri, manifest = index
    path = Path(uri) / manifest.segments[1].path
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(VerificationError):
        Segment.load(uri, manifest)
    assert not list(cache.iterdir())


def test_the_least_recently_used_entry_is_deleted_unless_it_is_open(index, rows, cache, monkeypatch):
    uri, manifest = index
    first = Segment.load(uri, manifest, manifest.segments[:1])
    (one,) = cache.iterdir()
    os.utime(one / "manifest.json", (1, 1))
    size = sum(path.stat().st_size for path in one.iterdir())
    monkeypatch.setenv(LIMIT_VARIABLE, str(2.5 * size / 1e9))
    second = Segment.load(uri, manifest, manifest.segments[1:2])
    (two,) = set(cache.iterdir()) - {one}
    os.utime(two / "manifest.json", (2, 2))
    del second
    gc.collect()
    Segment.load(uri, manifest, manifest.segments[2:])
    assert one.exists(), "it is open"
    assert not two.exists()
    assert len(list(cache.iterdir())) == 2
    assert first.row_of(rows.ids[0]) == 0


def test_a_folder_of_another_user_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: os.stat(tmp_path).st_uid + 1)
    with pytest.raises(StorageError, match=FOLDER_VARIABLE):
        LocalCache(tmp_path, 1)


def test_without_the_variable_there_is_no_cache(monkeypatch):
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    assert LocalCache.from_environment() is None
