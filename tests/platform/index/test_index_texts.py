"""Texts in an index: words, keywords and density beside the vectors; embeddings without texts, and with and without."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from crystalign import storage
from crystalign.derivation import text_of
from crystalign.errors import QueryError, VerificationError
from crystalign.index.build import build_index
from crystalign.index.embeddings import (
    TEXT_COLUMNS,
    read_embeddings,
)
from crystalign.index.filter_fields import KEYWORDS
from crystalign.index.manifest import IndexManifest
from crystalign.index.search import Found, Segment, merge
from crystalign.material import Material, Provenance
from crystalign.modalities.text import Text
from crystalign.physics.facts import CrystalFacts
from crystalign.text.keywords import keywords

N = 600
PERSON = "Synthesis of a layered superconductor"


@pytest.fixture(scope="module")
def few(make):
    return make(N, 16, seed=4)


@pytest.fixture(scope="module")
def texts(textbook) -> list[Text | None]:
    """Captions of the textbook crystals in turn, of which a third has no facts; some by a person, some missing."""
    captions = [text_of(Material(name, crystal, Provenance("test", "CC0-1.0"))) for name, crystal in textbook.items()]
    made: list[Text | None] = []
    for number in range(N):
        caption = captions[number % len(captions)]
        kinds = [caption, caption, Text(caption.description, generated=True), Text(PERSON), None]
        made.append(kinds[number % 5])
    return made


def facts_of(text: Text | None) -> CrystalFacts | None:
    return None if text is None else text.facts


@pytest.fixture(scope="module")
def embeddings(few, write, texts, tmp_path_factory) -> str:
    return write(str(tmp_path_factory.mktemp("embeddings") / "e"), few, texts=texts, with_texts=[True] * 3)


def test_each_vector_has_the_words_and_what_follows_from_the_facts(embeddings, texts):
    table, _ = read_embeddings(embeddings)
    assert table["words"].to_pylist() == [None if text is None else text.description for text in texts]
    for row, text in zip(table.to_pylist(), texts, strict=True):
        facts = facts_of(text)
        if facts is None:
            assert (row["keywords"], row["density"]) == (None, None)
        else:
            assert row["keywords"].strip(";").split(";") == list(keywords(facts))
            assert row["density"] == facts.density


def test_an_index_with_texts_names_its_lexicon_and_filters_by_facts(embeddings, few, texts, tmp_path):
    out = str(tmp_path / "index")
    manifest = build_index(embeddings, out, rows_per_segment=150)
    assert manifest == IndexManifest.read(out)
    assert manifest.has_facts
    lexicon = manifest.read_lexicon(out)
    assert lexicon.texts == sum(text is not None for text in texts)
    assert lexicon.holding["superconductor"] == sum(text is not None and text.description == PERSON for text in texts)
    segment = Segment.load(out, manifest)
    for word in ("class:oxide", "type:rock salt", "mineral:halite", "dimensionality:framework"):
        expected = {few.ids[i] for i, text in enumerate(texts) if (facts := facts_of(text)) and word in keywords(facts)}
        assert expected
        assert found_ids(segment, f'{KEYWORDS} HAS "{word}"') == expected
    dense = {few.ids[i] for i, text in enumerate(texts) if (facts := facts_of(text)) and facts.density > 5}
    assert found_ids(segment, "_crystalign_density > 5") == dense
    assert "words" not in segment.table.column_names, "the texts themselves are not kept"


def found_ids(segment: Segment, filter_text: str) -> set[str]:
    query = np.ones((1, segment.dimension), np.float32) / np.sqrt(segment.dimension)
    return set(segment.search(query, N, filter_text)[0].ids)


def answers(out: str, manifest: IndexManifest, typed: str, k: int, filter_text: str | None) -> Found:
    weights = manifest.read_lexicon(out).weights(typed)
    query = np.eye(manifest.dimension, dtype=np.float32)[3]
    segments = [Segment.load(out, manifest, [entry]) for entry in manifest.segments]
    return merge([segment.search_words(weights, query, k, filter_text) for segment in segments], k)


@pytest.mark.parametrize("typed", ["layered superconductor", "rutile oxide", "sodium chloride rock salt", "nowhere"])
def test_the_number_of_segments_does_not_change_what_is_found(embeddings, tmp_path, typed):
    found = {}
    for rows_per_segment in (N, 250, 47):
        out = str(tmp_path / str(rows_per_segment))
        manifest = build_index(embeddings, out, rows_per_segment=rows_per_segment)
        assert len(manifest.segments) == -(-N // rows_per_segment)
        for filter_text in (None, f'{KEYWORDS} HAS "class:oxide"', "_crystalign_density < 3"):
            result = answers(out, manifest, typed, 25, filter_text)
            found.setdefault(filter_text, []).append((result.ids, result.scores.tolist(), result.allowed))
    for results in found.values():
        assert results[0] == results[1] == results[2]
    assert (len(found[None][0][0]) == 25) is (typed != "nowhere")


def test_the_same_embeddings_give_the_same_index_and_it_is_recognised(embeddings, tmp_path):
    first = build_index(embeddings, str(tmp_path / "one"), rows_per_segment=200)
    second = build_index(embeddings, str(tmp_path / "two"), rows_per_segment=200)
    assert first.version == second.version
    files = sorted(storage.list_files(str(tmp_path / "one")))
    assert build_index(embeddings, str(tmp_path / "one"), rows_per_segment=200) == first
    assert sorted(storage.list_files(str(tmp_path / "one"))) == files
    assert len([name for name in files if "lexicon" in name]) == 1


def test_a_changed_lexicon_is_not_read(embeddings, tmp_path):
    out = str(tmp_path / "index")
    manifest = build_index(embeddings, out)
    path = Path(out, manifest.lexicon.path)
    path.write_text(path.read_text().replace("superconductor", "semiconductors"))
    with pytest.raises(VerificationError):
        manifest.read_lexicon(out)


def test_embeddings_without_texts_give_the_index_of_the_release_before(few, write, texts, tmp_path):
    old = write(str(tmp_path / "old"), few, texts=texts, with_texts=[False] * 3)
    assert not set(TEXT_COLUMNS) & set(read_embeddings(old)[0].column_names)
    out = str(tmp_path / "index")
    manifest = build_index(old, out, rows_per_segment=200)
    assert (manifest.lexicon, manifest.has_facts) == (None, False)
    assert [entry.words for entry in manifest.segments] == [None] * 3
    for entry in manifest.segments:
        assert not set(TEXT_COLUMNS) & set(pq.read_schema(Path(out, entry.path)).names)
    content = json.loads(Path(out, "manifest.json").read_text())
    for name in ("lexicon", "has_facts"):  # as the release before wrote the manifest
        del content[name]
    for entry in content["segments"]:
        del entry["words"]
    assert IndexManifest.model_validate(content).version == manifest.version
    empty = write(str(tmp_path / "empty"), few, texts=[None] * N, with_texts=[True] * 3)
    again = build_index(empty, str(tmp_path / "again"), rows_per_segment=200)
    assert again.version == manifest.version, "a dataset whose texts are all missing"
    segment = Segment.load(out, manifest)
    assert segment.search_words({"oxide": 1.0}, np.ones(16, np.float32), 5).ids == []
    with pytest.raises(QueryError, match="no field"):
        segment.search(np.ones((1, 16), np.float32), 3, f'{KEYWORDS} HAS "class:oxide"')


@pytest.mark.parametrize("with_texts", [[True, False, True], [False, True, False]])
def test_files_with_and_without_texts_make_one_index(few, write, texts, tmp_path, with_texts):
    mixed = write(str(tmp_path / "mixed"), few, texts=texts, with_texts=with_texts)
    table, vectors = read_embeddings(mixed)
    assert (len(table), len(vectors)) == (N, N)
    third = N // 3
    kept = [text if with_texts[number // third] else None for number, text in enumerate(texts)]
    assert table["words"].to_pylist() == [None if text is None else text.description for text in kept]
    for rows_per_segment in (N, third, 90):
        out = str(tmp_path / f"index-{rows_per_segment}")
        manifest = build_index(mixed, out, rows_per_segment=rows_per_segment)
        assert manifest.read_lexicon(out).texts == sum(text is not None for text in kept)
        segment = Segment.load(out, manifest)
        expected = {few.ids[i] for i, text in enumerate(kept) if (f := facts_of(text)) and "class:oxide" in keywords(f)}
        assert found_ids(segment, f'{KEYWORDS} HAS "class:oxide"') == expected
        result = answers(out, manifest, "superconductor", N, None)
        assert set(result.ids) == {few.ids[i] for i, text in enumerate(kept) if text and text.description == PERSON}


def test_texts_without_facts_are_searched_but_not_filtered(few, write, texts, tmp_path):
    plain = [None if text is None else Text(text.description) for text in texts]
    out = str(tmp_path / "index")
    manifest = build_index(write(str(tmp_path / "e"), few, texts=plain, with_texts=[True]), out, rows_per_segment=200)
    assert not manifest.has_facts
    assert len(answers(out, manifest, "superconductor", 10, None).ids) == 10
    with pytest.raises(QueryError, match="no field"):
        Segment.load(out, manifest).allowed("_crystalign_density > 1")
