"""Random sequences of changes, against a full sort over the rows that the index should hold; every kind."""

from __future__ import annotations

import numpy as np
import pytest

from crystalign.errors import ConfigError
from crystalign.index.build import build_index
from crystalign.index.compaction import compact
from crystalign.index.live import add, remove, rollback
from crystalign.index.local_cache import FOLDER_VARIABLE
from crystalign.index.manifest import IndexManifest
from crystalign.index.vector_store import VECTOR_STORES
from crystalign.index.versions import history
from live_index import FILTERS, Held, opened, part_of, require_same

POOL, FIRST, STEPS = 420, 150, 9


class Sequence:
    """An index, and what each of its versions should hold."""

    def __init__(self, folder, rows, write, kind, seed):
        self.rng, self.rows, self.write, self.folder = np.random.default_rng(seed), rows, write, folder
        self.uri, self.made = str(folder / "index"), 0
        self.held = {1: Held(rows, range(FIRST))}
        build_index(self.embed(range(FIRST)), self.uri, rows_per_segment=64, kind=kind)

    @property
    def manifest(self):
        return IndexManifest.read(self.uri)

    @property
    def now(self):
        return self.held[self.manifest.number]

    def embed(self, places):
        self.made += 1
        return self.write(str(self.folder / f"embeddings-{self.made}"), part_of(self.rows, places))

    def some(self, names, most):
        names = sorted(names)
        return [names[i] for i in self.rng.permutation(len(names))[: int(self.rng.integers(1, most))].tolist()]

    def step(self, what):
        held = self.now.copy()
        getattr(self, what)(held)
        self.held[self.manifest.number] = held

    def add(self, held):
        free = [place for place, name in enumerate(self.rows.ids) if name not in held.at]
        places = self.rng.permutation(free)[:40].tolist()
        add(self.uri, self.embed(places), rows_per_segment=int(self.rng.integers(9, 50)))
        held.at |= {self.rows.ids[place]: place for place in places}

    def replace(self, held):
        names = [*self.some(held.at, 12), *self.some(set(self.rows.ids) - held.at.keys(), 12)]
        places = [self.rows.ids.index(name) for name in names]
        uri = self.embed([*places, *range(3)] if len(places) < 3 else places)
        with pytest.raises(ConfigError, match="--replace"):
            add(self.uri, uri)
        add(self.uri, uri, replace=True)
        extra = range(3) if len(places) < 3 else ()
        held.at |= {self.rows.ids[place]: place for place in (*places, *extra)}

    def remove(self, held):
        names = self.some(held.at, 30)
        remove(self.uri, ids=names)
        for name in names:
            del held.at[name]

    def remove_by_filter(self, held):
        text = FILTERS[int(self.rng.integers(1, 4))]
        gone = held.allowed(text)
        if len(gone) in {0, len(held.at)}:
            return
        remove(self.uri, filter_text=text)
        for name in gone:
            del held.at[name]

    def compact(self, held):
        compact(self.uri, everything=bool(self.rng.integers(2)))

    def rollback(self, held):
        number = int(self.rng.integers(1, self.manifest.number + 1))
        rollback(self.uri, number)
        held.at = dict(self.held[number].at)


CHANGES = ("add", "add", "replace", "remove", "remove", "remove_by_filter", "compact", "compact", "rollback")


@pytest.fixture(scope="module")
def pool(make):
    return make(POOL, 16, seed=21)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kind", sorted(VECTOR_STORES))
def test_a_changed_index_finds_what_a_full_sort_finds(pool, write, tmp_path, kind, seed, monkeypatch):
    if seed == 1:  # prepared segments are shared by all versions that have them
        monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "cache"))
    sequence = Sequence(tmp_path, pool, write, kind, seed)
    early = opened(sequence.uri, sequence.manifest, 2)
    for what in sequence.rng.permutation(CHANGES)[:STEPS].tolist():
        sequence.step(what)
        manifest = sequence.manifest
        assert manifest.rows == len(sequence.now.at)
        require_same(opened(sequence.uri, manifest, int(sequence.rng.integers(1, 4))), sequence.now, sequence.rng)
    require_same(early, sequence.held[1], sequence.rng)  # a reader keeps the version that it opened
    for version in history(sequence.uri):
        require_same(opened(sequence.uri, version, 2), sequence.held[version.number], sequence.rng)
