"""Shards of earlier releases lack the facts of generated texts; they open, train, and mix with new ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from crystalign.crystal import Crystal
from crystalign.derivation import text_of
from crystalign.material import Material, Provenance
from crystalign.modalities.composition import Composition
from crystalign.modalities.text import Text, TextModality, decode
from crystalign.shards.dataset import Dataset
from crystalign.shards.manifest import ShardEntry
from crystalign.shards.schema import with_added_fields
from crystalign.shards.selection import Selection
from crystalign.shards.splits import SplitRule
from crystalign.shards.writer import commit_manifest, write_shard
from crystalign.training.feed import FeedPlan, feed

OLD = pa.struct([("description", pa.string()), ("generated", pa.bool_())])
N = 12
"""Materials in each shard: every third without a text, every third with a person's, every third with a caption."""


def salt(number: int) -> Material:
    crystal = Crystal((3.6 + 0.05 * number) * np.eye(3), np.array([[0, 0, 0], [0.5] * 3]), np.array([19, 9 + number]))
    material = Material(f"salt-{number:02d}", crystal, Provenance("test", "CC0-1.0"))
    modalities: dict[str, object] = {"composition": Composition.of(crystal)}
    if number % 3 == 1:
        modalities["text"] = Text(f"a salt that somebody made, number {number}")
    if number % 3 == 2:
        modalities["text"] = text_of(material)
    return replace(material, modalities=modalities)


@pytest.fixture
def write_old(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str, list[Material]], ShardEntry]:
    """Write a shard as the release before did, which stored no facts."""

    def write(uri: str, name: str, materials: list[Material]) -> ShardEntry:
        with monkeypatch.context() as patch:
            patch.setattr(TextModality, "column_type", classmethod(lambda _: OLD))
            return write_shard(uri, name, materials, rows_per_group=5)

    return write


@pytest.fixture
def mixed(tmp_path: Path, write_old: Callable[[str, str, list[Material]], ShardEntry]) -> Dataset:
    """One old shard and one new one."""
    uri = str(tmp_path / "data")
    old = write_old(uri, "old", [salt(number) for number in range(N)])
    new = write_shard(uri, "new", [salt(number) for number in range(N, 2 * N)], rows_per_group=5)
    commit_manifest(uri, [old, new])
    stored = [pq.read_schema(Path(uri, entry.path)).field("text").type for entry in (old, new)]
    assert stored == [OLD, TextModality.column_type()]
    return Dataset.open(uri)


def test_texts_of_an_old_shard_are_those_that_were_written_without_facts(mixed: Dataset) -> None:
    mixed.verify()
    for number, material in enumerate(mixed.materials()):
        text, expected = material.value("text"), salt(number).value("text")
        if expected is None or not expected.generated or number >= N:
            assert text == expected
        else:
            assert text == Text(expected.description, generated=True)
            assert text.facts is None


def test_a_table_of_old_and_new_shards_has_one_type(mixed: Dataset) -> None:
    table = mixed.table(["text"])
    assert table.schema.field("text").type == TextModality.column_type()
    assert len(table) == 2 * N
    expected = [salt(number).value("text") for number in range(2 * N)]
    assert [cell.is_valid for cell in table["text"]] == [text is not None for text in expected]
    facts = [cell["facts"].as_py() for cell in table["text"] if cell.is_valid]
    assert [fact is not None for fact in facts] == [
        bool(text.facts_json) and number >= N for number, text in enumerate(expected) if text is not None
    ]


def test_what_an_old_shard_has_is_known_without_reading_it(mixed: Dataset) -> None:
    for shard in (0, 1):
        assert mixed.has(shard, "text").tolist() == [number % 3 != 0 for number in range(N)]
    assert mixed.gather([(0, 2), (1, 2)], "text")[0].facts is None
    assert mixed.gather([(0, 2), (1, 2)], "text")[1].facts.formula == salt(N + 2).value("text").facts.formula


@pytest.mark.parametrize("phrasing", [0.0, 1.0])
def test_old_and_new_shards_train_together(mixed: Dataset, tmp_path: Path, phrasing: float) -> None:
    selection = Selection.build(mixed, SplitRule(train=0.98, validation=0.01, by="material"), "train")
    plan = FeedPlan(
        data=mixed.uri,
        data_sha256=mixed.manifest.sha256,
        selection=selection.save(str(tmp_path / "selection")),
        modalities={"composition": {}, "text": {"phrasing": phrasing, "clause_dropout": 0.0}},
        seed=3,
        batch_size=8,
        window_rows=16,
        world_size=1,
        epochs=2,
    )
    fed = list(feed(plan))
    ids = {name for batch in fed for name in batch.ids}
    read = {words for batch in fed for words in decode(batch.batch.inputs["text"])}
    assert len(ids) > 2 * N - 6
    for number in (int(name.removeprefix("salt-")) for name in ids):
        text = salt(number).value("text")
        if text is not None:
            rephrased = phrasing == 1.0 and text.generated and number >= N
            assert (text.description in read) is not rephrased, number


# --- the columns alone ------------------------------------------------------------------------------------------------


def test_added_fields_are_null_and_nothing_else_changes() -> None:
    cells = [{"description": "a", "generated": True}, None, {"description": "b", "generated": None}]
    chunks = pa.chunked_array([pa.array(cells, OLD), pa.array(cells, OLD).slice(1, 2)])
    table = pa.table({"id": list("abcde"), "text": chunks, "other": range(5)})
    extended = with_added_fields(table)
    assert extended.column_names == table.column_names
    assert extended.schema.field("text").type == TextModality.column_type()
    expected = [None if cell is None else {**cell, "facts": None, "others": None} for cell in [*cells, *cells[1:]]]
    assert extended["text"].to_pylist() == expected
    assert extended.drop_columns(["text"]) == table.drop_columns(["text"])
    assert with_added_fields(extended) == extended
    empty = with_added_fields(table.slice(0, 0))
    assert empty.schema == extended.schema


@pytest.mark.parametrize(
    "kind",
    [
        pa.struct([("description", pa.binary()), ("generated", pa.bool_())]),
        pa.struct([("description", pa.string()), ("something", pa.bool_())]),
        pa.string(),
    ],
)
def test_a_column_that_differs_in_another_way_stays_as_it_is(kind: pa.DataType) -> None:
    table = pa.table({"text": pa.nulls(2, kind)})
    assert with_added_fields(table) == table
