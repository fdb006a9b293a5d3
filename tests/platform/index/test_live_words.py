"""The words of a changed index weigh and find what those of an index built from the remaining rows do."""

from __future__ import annotations

import numpy as np
import pytest

from crystalign.derivation import text_of
from crystalign.index.build import build_index
from crystalign.index.compaction import compact
from crystalign.index.filter_fields import KEYWORDS
from crystalign.index.index import Index
from crystalign.index.lexical import WordCounts
from crystalign.index.live import add, remove, rollback
from crystalign.index.manifest import IndexManifest
from crystalign.index.search import Segment, merge
from crystalign.modalities.text import Text
from live_index import part_of
from small_service import salts

N, FIRST = 120, 80
WORDS = ("layered", "cubic", "magnet", "superconductor", "oxide", "perovskite", "insulator", "nanowire", "glass")


@pytest.fixture(scope="module")
def few(make):
    return make(N, 8, seed=12)


@pytest.fixture(scope="module")
def texts(few):
    """Texts without facts for the first rows, captions with facts for the others; some rows have none."""
    rng, made = np.random.default_rng(0), []
    captions = [text_of(material) for material in salts()]
    for place in range(N):
        words = " ".join(rng.choice(WORDS, int(rng.integers(1, 7)), p=np.arange(9, 0, -1) / 45))
        text = Text(words) if place < FIRST else captions[place - FIRST]
        made.append(None if place % 7 == 3 else text)
    return made


@pytest.fixture
def embed(few, write, tmp_path):
    """Writes embeddings of some rows with their texts into a folder of a name."""

    def made(name, texts, places):
        own = [texts[place] for place in places]
        return write(str(tmp_path / name), part_of(few, places), texts=own, with_texts=[True])

    return made


def found_by(uri, text, few):
    manifest = IndexManifest.read(uri)
    weights = manifest.read_lexicon(uri).weights(text)
    segments = [Segment.load(uri, manifest, list(manifest.segments[n::2])) for n in range(2)]
    query = few.vectors[0].astype(np.float32)
    found = merge([segment.search_words(weights, query, 15) for segment in segments], 15)
    return list(zip(found.ids, found.scores.tolist(), found.similarities.tolist(), strict=True))


def test_words_are_those_of_an_index_of_the_remaining_rows(few, texts, embed, tmp_path):
    uri = str(tmp_path / "index")
    build_index(embed("first", texts, range(FIRST)), uri, rows_per_segment=30)
    gone = [0, 1, 2, *range(30, 60), FIRST + 1]
    left = [place for place in range(N) if place not in gone]
    add(uri, embed("more", texts, range(FIRST, N)), rows_per_segment=25)
    remove(uri, ids=[few.ids[place] for place in gone[:20]])
    remove(uri, ids=[few.ids[place] for place in gone[20:]])
    fresh = str(tmp_path / "fresh")
    build_index(embed("left", texts, left), fresh, rows_per_segment=30)
    for change in (lambda: None, lambda: compact(uri), lambda: compact(uri, everything=True)):
        change()
        assert IndexManifest.read(uri).read_lexicon(uri) == IndexManifest.read(fresh).read_lexicon(fresh)
        for text in (*WORDS, "layered oxide glass", "rock salt structure with an oxide"):
            assert found_by(uri, text, few) == found_by(fresh, text, few)
        for word in ("class:halide", "class:oxide"):
            counts = {Index.open(place).count(f'{KEYWORDS} HAS "{word}"') for place in (uri, fresh)}
            assert len(counts) == 1
    rollback(uri, 1)
    assert not IndexManifest.read(uri).has_facts


def test_the_same_rows_with_other_texts_do_not_replace_the_words_of_an_older_version(few, texts, embed, tmp_path):
    uri = str(tmp_path / "index")
    build_index(embed("first", texts, range(FIRST)), uri)
    other = [Text("quasicrystal") for _ in texts]
    plain = [Text("layered") for _ in texts]
    add(uri, embed("one", plain, range(FIRST, N)))
    first = found_by(uri, "layered", few)
    rollback(uri, 1)
    add(uri, embed("two", other, range(FIRST, N)))
    assert len(found_by(uri, "quasicrystal", few)) == 15
    rollback(uri, 2)
    assert found_by(uri, "layered", few) == first


def test_counts_of_some_rows_are_those_of_their_texts():
    rng = np.random.default_rng(1)
    texts = [" ".join(rng.choice(WORDS, int(rng.integers(1, 9)))) if i % 4 else None for i in range(60)]
    for share in (0.0, 0.3, 1.0):
        keep = rng.random(60) < share
        expected = WordCounts.of([text for text, kept in zip(texts, keep, strict=True) if kept])
        assert WordCounts.of(texts).kept(keep).save() == expected.save()
    parts = [texts[:7], [], texts[7:40], texts[40:]]
    joined = WordCounts.joined([(WordCounts.of(part), len(part)) for part in parts])
    assert joined.save() == WordCounts.of(texts).save()
