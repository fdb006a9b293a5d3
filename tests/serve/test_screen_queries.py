"""The queries of a screening: pinned, bounded, and each bad one refused by itself."""

from __future__ import annotations

import asyncio

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from crystalign import storage
from crystalign.errors import ConfigError, FileFormatError, InputError, StorageError, VerificationError
from crystalign_serve.sandbox.answers import raise_refusal
from crystalign_serve.sandbox.wire import Message
from crystalign_serve.screening import table as tables
from crystalign_serve.screening.source import Question, open_queries
from crystalign_serve.screening.steps import Encode
from crystalign_serve.screening.stored import encoded_table


def asked(path, size=128):
    queries, blocks = open_queries(str(path), size)
    return [question for block in blocks for question in queries.questions(block)]


def reasons(questions):
    return [None if one.refusal is None else one.refusal.reason for one in questions]


def write(path, **columns):
    pq.write_table(pa.table(columns), path)
    return path


def not_utf8(*values):
    return pa.Array.from_buffers(pa.string(), len(values), pa.array(values, pa.binary()).buffers())


@pytest.mark.parametrize("group", [7, 100, 1000])
@pytest.mark.parametrize("size", [13, 128, 500])
def test_rows_keep_their_order_in_any_division(tmp_path, group, size):
    texts = [None if number % 50 == 3 else f"text {number}" for number in range(300)]
    path = tmp_path / "queries.parquet"
    pq.write_table(pa.table({"text": pa.array(texts).dictionary_encode()}), path, row_group_size=group)
    found = asked(path, size)
    assert [one.name for one in found] == [f"row {number}" for number in range(300)]
    assert [None if one.query is None else one.query.text for one in found] == texts


def test_a_table_that_was_replaced_is_not_read(tmp_path):
    path = write(tmp_path / "queries.parquet", text=["a", "b"])
    queries, blocks = open_queries(str(path), 128)
    write(path, text=["c", "d"])
    with pytest.raises(VerificationError, match="has changed since the screening began"):
        list(queries.questions(blocks[0]))


def test_a_table_that_is_replaced_in_between_stays_the_same(tmp_path):
    path = write(tmp_path / "queries.parquet", text=["a", "b"], id=["x", None])
    queries, blocks = open_queries(str(path), 1)
    first = next(queries.questions(blocks[0]))
    write(path, text=["c", "d"], id=["y", "z"])
    assert (first.query.text, next(queries.questions(blocks[1])).query.text) == ("a", "b")
    assert list(queries.ids(blocks)) == ["x"]


def test_a_table_that_ends_early_is_refused(tmp_path):
    table = tables.Table(str(write(tmp_path / "queries.parquet", text=["a", "b"])))
    with pytest.raises(StorageError, match="ends at row 2, before 3"):
        list(table.rows(0, 3))


def test_only_the_row_that_is_too_large_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "MAX_BODY_BYTES", 1000)
    column = pa.DictionaryArray.from_arrays(pa.array([0, 1, None, 0]), pa.array(["x" * 1001, "ok"]))
    path = write(tmp_path / "queries.parquet", text=column, formula=["NaCl"] * 4)
    assert reasons(asked(path)) == ["too-large", None, None, "too-large"]
    path = write(tmp_path / "plain.parquet", text=["x" * 990, "ok"], formula=["NaCl" * 5, "NaCl"])
    assert reasons(asked(path)) == ["too-large", None]


def test_a_small_file_of_large_rows_is_decoded_a_few_rows_at_a_time(tmp_path):
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 3_000, pa.int32()), pa.array(["x" * 100_000]))
    path = tmp_path / "queries.parquet"
    pq.write_table(pa.table({"text": column}), path, store_schema=False)  # so that it is read as plain text
    assert path.stat().st_size < 2**20
    table, before = tables.Table(str(path)), pa.total_allocated_bytes()
    largest = max(pa.total_allocated_bytes() - before for _ in table.rows(0, 300))
    assert largest < 64 * 2**20  # all rows at once: 300 MB


def test_only_the_row_that_is_not_utf8_is_refused(tmp_path):
    path = write(tmp_path / "queries.parquet", text=not_utf8(b"gr\xf6sse", b"ok", b"ok"), name=["a", "b", "c"])
    found = asked(path)
    assert (reasons(found), [one.name for one in found]) == (["bad-text", None, None], ["a", "b", "c"])
    path = write(tmp_path / "names.parquet", text=["ok", "ok"], name=not_utf8(b"ok", b"gr\xf6sse"))
    assert reasons(asked(path)) == [None, "bad-text"]


def test_columns_that_are_there_twice_are_refused(tmp_path):
    path = tmp_path / "queries.parquet"
    pq.write_table(pa.table([pa.array(["a"]), pa.array(["b"])], names=["text", "text"]), path)
    with pytest.raises(ConfigError, match="once"):
        open_queries(str(path), 128)


def test_hidden_files_and_folders_are_left_out(tmp_path):
    for name in ("a.xy", ".b.xy", ".git/c", "more/.ipynb_checkpoints/d.xy", "more/e.xy"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1 2\n")
    assert [one.name for one in asked(tmp_path)] == ["a.xy", "more/e.xy"]


def test_a_file_name_that_is_not_utf8_is_named(tmp_path):
    (tmp_path / "ok.xy").write_text("1 2\n")
    with open(bytes(tmp_path) + b"/gr\xf6sse.xy", "w") as file:
        file.write("1 2\n")
    with pytest.raises(StorageError, match=r"gr\\\\xf6sse.xy.*rename it") as refused:
        storage.list_names(str(tmp_path))
    assert str(tmp_path) in str(refused.value)


def test_the_answer_of_a_sandbox_holds_no_lone_surrogate():
    said = {"refused": "FileFormatError", "message": "no key '\ud800x', grün", "reason": "bad\udfff"}
    with pytest.raises(FileFormatError) as refused:
        raise_refusal(Message(said, {}), "c.json")
    assert str(refused.value) == "no key '\\ud800x', grün"
    assert refused.value.reason == "bad\\udfff"


def test_a_refusal_with_a_lone_surrogate_does_not_stop_the_others():
    bad = InputError("no '\ud800'", reason="bad\ud800")
    step = Encode.__new__(Encode)
    step.plan = type("Options", (), {"options": None})
    one = asyncio.run(step._one(None, Question("c.json", refusal=bad)))
    (row,) = encoded_table([one]).select(["name", "reason", "problem"]).to_pylist()
    assert row == {"name": "c.json", "reason": "bad\\ud800", "problem": "no '\\ud800'"}
