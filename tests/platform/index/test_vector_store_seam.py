"""A vector store from outside the package: registered in one line, then built by the CLI and searched like ours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Self

import numpy as np
import pytest

from crystalign.errors import ConfigError, VerificationError
from crystalign.index.manifest import IndexManifest
from crystalign.index.search import Segment
from crystalign.index.vector_store import VECTOR_STORES, Ask, Candidates
from crystalign_jobs import cli


class Coarse:
    """Eight-bit numbers that say which rows to look at; the search computes the scores from the exact vectors."""

    is_exact = True

    def __init__(self, codes: np.ndarray) -> None:
        self._codes = codes

    @classmethod
    def train(cls, sample: np.ndarray, rows: int) -> Mapping[str, bytes]:
        return {}

    @classmethod
    def encode(cls, vectors: np.ndarray, trained: Mapping[str, bytes]) -> Mapping[str, bytes]:
        return {"codes.i8": np.round(127 * vectors.astype(np.float32)).astype(np.int8).tobytes()}

    @classmethod
    def load(cls, vectors: np.ndarray, trained: Mapping[str, bytes], encoded: Sequence[Mapping[str, bytes]]) -> Self:
        codes = [np.frombuffer(files["codes.i8"], np.int8).reshape(-1, vectors.shape[1]) for files in encoded]
        store = cls(np.concatenate(codes))
        assert len(store._codes) == len(vectors)
        return store

    def candidates(self, asks: Sequence[Ask]) -> list[Candidates]:
        return [self._search(ask) for ask in asks]

    def _search(self, ask: Ask) -> Candidates:
        rough = self._codes.astype(np.float32) @ ask.query / 127
        if ask.allowed is not None:
            rough[~np.isin(np.arange(len(rough)), ask.allowed.rows)] = -np.inf
        rows = np.argsort(-rough, kind="stable")[: ask.fetch]
        margin = float(np.abs(ask.query).sum()) * 0.5 / 127 + 1e-5  # each number is off by at most half a step
        return Candidates(rough[rows], rows, margin)


@pytest.fixture
def coarse() -> Iterator[str]:
    VECTOR_STORES.register("coarse", Coarse)
    yield "coarse"
    VECTOR_STORES.unregister("coarse")


@pytest.fixture
def embeddings(tmp_path, make, write) -> str:
    return write(str(tmp_path / "embeddings"), make(300))


def build(embeddings: str, out: str, *args: str) -> IndexManifest:
    assert cli.main(["index", embeddings, "--out", out, "--rows-per-segment", "128", *args]) == 0
    return IndexManifest.read(out)


@pytest.mark.parametrize("filter_text", [None, 'elements HAS "O"', "_crystalign_energy_above_hull_pbe_mp_2026<0.3"])
def test_a_store_from_outside_answers_as_the_exact_one(coarse, embeddings, tmp_path, filter_text):
    ours = build(embeddings, str(tmp_path / "ours"))
    theirs = build(embeddings, str(tmp_path / "theirs"), "--kind", coarse)
    assert (ours.kind, theirs.kind) == ("exact-fp16", "coarse")
    assert [len(entry.store) for entry in theirs.segments] == [1, 1, 1]
    queries = np.random.default_rng(3).normal(size=(5, ours.dimension)).astype(np.float32)
    one = Segment.load(str(tmp_path / "ours"), ours).search(queries, 7, filter_text)
    other = Segment.load(str(tmp_path / "theirs"), theirs).search(queries, 7, filter_text)
    for a, b in zip(one, other, strict=True):
        assert a.ids == b.ids
        assert np.array_equal(a.scores, b.scores)


def test_what_a_store_saved_is_checked_before_it_is_used(coarse, embeddings, tmp_path):
    manifest = build(embeddings, str(tmp_path / "index"), "--kind", coarse)
    place = tmp_path / "index" / manifest.segments[1].store[0].path
    place.write_bytes(bytes(len(place.read_bytes())))
    with pytest.raises(VerificationError, match=r"codes\.i8"):
        Segment.load(str(tmp_path / "index"), manifest)


def test_an_unknown_kind_is_refused_before_anything_is_built(embeddings, tmp_path, capsys):
    assert cli.main(["index", embeddings, "--out", str(tmp_path / "index"), "--kind", "exact-fp61"]) == 2
    assert "did you mean 'exact-fp16'" in capsys.readouterr().err
    assert not (tmp_path / "index" / "manifest.json").exists()


def test_an_index_of_a_kind_that_is_not_installed_is_refused_by_name(coarse, embeddings, tmp_path):
    manifest = build(embeddings, str(tmp_path / "index"), "--kind", coarse)
    with pytest.raises(ConfigError, match="no vector store 'absent'"):
        Segment.load(str(tmp_path / "index"), manifest.model_copy(update={"kind": "absent"}))
