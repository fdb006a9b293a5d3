from __future__ import annotations

import re

import numpy as np
import pytest

from clustered_vectors import NOISE, Corpus, write_corpus, write_queries
from crystalign.errors import ConfigError, VerificationError
from crystalign.index import approximate, recall_measurement
from crystalign.index.build import build_index
from crystalign.index.kinds import EXACT_ROWS, choose_kind
from crystalign.index.manifest import IndexManifest
from crystalign.index.recall import RecallPoint, effort_for
from crystalign.index.search import Search, Segment
from crystalign.index.vector_store import VECTOR_STORES
from crystalign_jobs import cli

CORPUS = Corpus(6_000, 48)
KINDS = [kind for kind in VECTOR_STORES if not VECTOR_STORES[kind].is_exact]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Embeddings of a corpus, and of its queries by modality."""
    root = tmp_path_factory.mktemp("corpus")
    write_corpus(str(root / "embeddings"), CORPUS)
    ((_, vectors),) = CORPUS.pieces()
    for modality in NOISE:
        write_queries(str(root / modality), modality, CORPUS.queries(modality, vectors, 60))
    with pytest.MonkeyPatch.context() as patch:  # fewer queries than usual, so that the test is quick
        patch.setattr(recall_measurement, "QUERIES", 60)
        patch.setattr(approximate, "QUERIES", 60)
        patch.setattr(recall_measurement, "KS", (10, 100))
        yield root


@pytest.fixture(scope="module", params=KINDS)
def built(request, places):
    out = str(places / request.param)
    args = [
        "--kind",
        request.param,
        "--rows-per-segment",
        "2048",
        "--target-recall",
        "0.9",
        "--queries",
        *(str(places / m) for m in ("xrd", "text")),
    ]
    assert cli.main(["index", str(places / "embeddings"), "--out", out, *args]) == 0
    return out, IndexManifest.read(out)


def test_recall_is_measured_for_every_modality_and_stored(built):
    _, manifest = built
    assert {point.modality for point in manifest.recall} == {"crystal", "xrd", "text"}
    assert {(point.k, point.selectivity) for point in manifest.recall} == {
        (k, selectivity) for k in (10, 100) for selectivity in (1.0, 0.5, 0.15)
    }
    for point in manifest.recall:
        assert 0 <= point.recall <= 1
        assert point.queries == 60
    assert max(point.recall for point in manifest.recall) > 0.9


def test_the_stored_recall_is_what_a_count_by_hand_finds(built):
    """At the effort that was chosen, against a full sort, for queries that were not measured."""
    out, manifest = built
    segment = Segment.load(out, manifest)
    ((_, vectors),) = CORPUS.pieces()
    for modality in ("xrd", "text"):
        queries = Corpus(6_000, 48, 0).queries(modality, vectors, 120)[60:]
        effort = effort_for(manifest.recall, 0.9, (modality,), 10, 1.0)
        assert effort < 3000
        planned = segment.plan(Search(queries[0], 10, None, (modality,)))
        assert planned.effort == effort
        found = segment.search_many([Search(query, 10, None, (modality,)) for query in queries])
        exact = np.argsort(-(vectors.astype(np.float64) @ queries.T.astype(np.float64)), axis=0)[:10].T
        share = np.mean([len(set(one.rows) & set(best)) / 10 for one, best in zip(found, exact, strict=True)])
        assert 0.85 < share < 1.0


def test_queries_of_a_modality_that_was_not_measured_are_exact(built):
    out, manifest = built
    segment = Segment.load(out, manifest)
    query = np.random.default_rng(0).normal(size=48).astype(np.float32)
    for modalities in ((), ("dos",), ("crystal", "dos")):
        assert segment.plan(Search(query, 10, None, modalities)).effort is None
    best = np.argsort(-(segment.vectors(np.arange(6000)).astype(np.float64) @ query))[:10]
    assert segment.search(query[None], 10)[0].rows.tolist() == best.tolist()


def test_a_shard_scores_its_part_of_the_rows(built):
    out, manifest = built
    effort = effort_for(manifest.recall, 0.9, ("crystal",), 10, 1.0)
    shard = Segment.load(out, manifest, manifest.segments[:1])
    query = np.random.default_rng(0).normal(size=48).astype(np.float32)
    assert shard.plan(Search(query, 10, None, ("crystal",))).effort == -(-effort * 2048 // 6000)


def test_an_index_is_described_and_verified(built, capsys):
    out, manifest = built
    assert cli.main(["index", "describe", out]) == 0
    text = capsys.readouterr().out
    assert f"kind {manifest.kind}" in text
    assert re.search(r"text +10 +100%", text)
    assert cli.main(["index", "verify", out]) == 0
    assert re.search(r"recall@10 of 100 stored rows: 0\.9", capsys.readouterr().out)


def test_verify_finds_a_changed_file_and_lists_that_lost_their_rows(built, tmp_path, capsys):
    import shutil

    out, manifest = built
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    lists = copy / manifest.segments[0].store[0].path
    whole = lists.read_bytes()
    lists.write_bytes(whole[::-1])
    assert cli.main(["index", "verify", str(copy)]) == 2
    assert "lists.i32" in capsys.readouterr().err
    with pytest.raises(VerificationError):
        Segment.load(str(copy), manifest)


def test_building_again_gives_the_same_index(built, places):
    out, manifest = built
    queries = [str(places / "xrd"), str(places / "text")]
    again = build_index(
        str(places / "embeddings"), out, rows_per_segment=2048, kind=manifest.kind, queries=queries, target_recall=0.9
    )
    assert again == manifest


def test_queries_of_another_model_are_refused(places, tmp_path):
    queries = np.random.default_rng(1).normal(size=(5, 48)).astype(np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    other = write_queries(str(tmp_path / "other"), "dos", queries, model="b" * 64)
    with pytest.raises(ConfigError, match="bbbbbbbbbbbb"):
        build_index(str(places / "embeddings"), str(tmp_path / "index"), kind=KINDS[0], queries=[other])


def point(modality, k, selectivity, effort, recall, error=0.0):
    return RecallPoint(
        modality=modality, k=k, selectivity=selectivity, effort=effort, recall=recall, error=error, queries=9
    )


POINTS = [
    point("xrd", 10, 1.0, 100, 0.9),
    point("xrd", 10, 1.0, 200, 0.995, 0.001),
    point("xrd", 10, 1.0, 400, 0.999),
    point("xrd", 10, 0.5, 300, 0.992, 0.005),
    point("xrd", 10, 0.5, 600, 0.999),
    point("xrd", 100, 1.0, 800, 0.999),
    point("text", 10, 1.0, 900, 0.995),
    point("text", 10, 0.5, 900, 0.5),
]


@pytest.mark.parametrize(
    ("modalities", "k", "fraction", "effort"),
    [
        (("xrd",), 10, 1.0, 200),
        (("xrd",), 1, 1.0, 200),
        (("xrd",), 10, 0.7, 600),  # the mean less its error counts
        (("xrd",), 10, 0.4, None),  # nothing so narrow was measured
        (("xrd",), 11, 1.0, 800),
        (("xrd",), 101, 1.0, None),
        (("text",), 10, 1.0, 900),
        (("text",), 10, 0.6, None),  # the target was not reached
        (("xrd", "text"), 10, 1.0, 900),
        (("xrd", "dos"), 10, 1.0, None),
        ((), 10, 1.0, None),
    ],
)
def test_effort_is_the_least_that_was_measured_to_reach_the_target(modalities, k, fraction, effort):
    assert effort_for(POINTS, 0.99, modalities, k, fraction) == effort


@pytest.mark.parametrize(
    ("rows", "gigabytes", "target", "kind"),
    [
        (2_200_000, 8, 0.99, "exact-fp16"),
        (EXACT_ROWS, 8, 0.99, "exact-fp16"),
        (EXACT_ROWS, 4, 0.99, "ivf-sq8"),
        (50_000_000, 64, 0.99, "ivf-fp16"),
        (100_000_000, 32, 0.99, "ivf-sq8"),
        (100_000_000, 8, 0.99, "ivf-rabitq"),
        (100_000_000, 8, 1.0, "exact-fp16"),
    ],
)
def test_the_kind_follows_from_rows_memory_and_recall(rows, gigabytes, target, kind):
    choice = choose_kind(rows, 192, int(gigabytes * 1e9), target)
    assert choice.kind == kind
    assert f"{rows:,} rows" in choice.reason


def test_auto_says_what_it_chose_and_why(places, tmp_path, capsys):
    assert cli.main(["index", str(places / "embeddings"), "--out", str(tmp_path / "index"), "--kind", "auto"]) == 0
    assert "--kind exact-fp16: 6,000 rows of 48 dimensions" in capsys.readouterr().out
    assert IndexManifest.read(str(tmp_path / "index")).kind == "exact-fp16"
