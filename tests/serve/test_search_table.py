"""What `crystalign search` prints beside its rows."""

from __future__ import annotations

from typing import Any

import pytest

from crystalign_serve.client import Answer
from crystalign_serve.search import show


def answer(scores: list[float], **query: Any) -> Answer:
    facts = {"formula": "NaCl", "spacegroup_number": 225, "n_sites": 8, "source": "made", "properties": []}
    results = [{"rank": i, "id": f"m-{i}", "score": s, "remarks": None, **facts} for i, s in enumerate(scores, 1)]
    state = {"shards_ok": 1, "shards_total": 1, "allowed": 9, "exhausted": False, "elapsed_ms": 1.0}
    return Answer({"results": results, "query": {"ordered_by": "embeddings", **query}, **state})


def printed(found: Answer, capsys: pytest.CaptureFixture[str]) -> str:
    show(found, "http://127.0.0.1:8000")
    return " ".join(capsys.readouterr().out.split())


def test_scores_out_of_rank_order_say_why(capsys: pytest.CaptureFixture[str]) -> None:
    said = printed(answer([0.5, 0.9], ordered_by="embeddings and patterns"), capsys)
    assert "ordered by embeddings and patterns. The scores are those of the patterns alone" in said
    assert "may not decrease" not in printed(answer([0.9, 0.5], ordered_by="embeddings and patterns"), capsys)


def test_notices_and_remarks_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    found = answer([0.9, 0.5], notices=["[the charge 3+] is left out"])
    found[1].raw["remarks"] = "hydrogen is missing"
    said = printed(found, capsys)
    assert "note: [the charge 3+] is left out" in said
    assert "m-2: hydrogen is missing" in said


def test_an_answer_of_an_older_service_is_printed_as_before(capsys: pytest.CaptureFixture[str]) -> None:
    found = answer([0.9])
    del found.raw["query"]["ordered_by"], found[0].raw["remarks"]
    assert "1 of 9 rows" in printed(found, capsys)


@pytest.mark.parametrize(("level", "is_said"), [("low", True), ("medium", True), ("high", False)])
def test_doubts_are_printed_above_the_table(level: str, is_said: bool, capsys: pytest.CaptureFixture[str]) -> None:
    doubt = {"probability": 0.1, "level": level, "text": "Nothing seems to match.", "unknown_words": []}
    said = printed(answer([0.9], confidence=doubt), capsys)
    assert said.startswith("Nothing seems to match.") is is_said
    assert printed(answer([0.9], confidence=None), capsys) == printed(answer([0.9]), capsys)
