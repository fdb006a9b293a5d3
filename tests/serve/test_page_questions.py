"""The web page asks where a text or a file may mean several things, and says what it did."""

from __future__ import annotations

import base64
import gzip
import lzma
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import FastAPI, Form, Request, UploadFile
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse
from fastapi.staticfiles import StaticFiles

from crystalign.modalities import NAMES
from crystalign_serve.service import listed_modalities
from small_cif import CSCL

UI = Path(__file__).resolve().parents[2] / "serve" / "crystalign_serve" / "ui"
ID = "salt_Fe2O3"
LOST = "lost"
REMARK = "Hydrogen is missing: the file says H2O."
NOTICE = "The wavelength is inferred: Cu Kα."
CONFIDENCE = {
    "shiny stuff": {"level": "low", "text": "Nothing matches well."},
    "cubic salt": {"level": "good", "text": "These match well."},
}
TOO_MUCH = "a dense salt"


def answer(scores: list[float], **query: Any) -> dict[str, Any]:
    facts = {"spacegroup_number": 221, "spacegroup_symbol": "Pm-3m", "n_sites": 2, "source": "made", "properties": []}
    rows = [(f"made-{i}", REMARK if i == 2 else None, score) for i, score in enumerate(scores, 1)]
    results = [
        {"rank": i, "id": name, "score": score, "formula": "CsCl", "remarks": remarks, "match": None, **facts}
        for i, (name, remarks, score) in enumerate(rows, 1)
    ]
    state = {"shards_ok": 1, "shards_total": 1, "index_version": "v1", "allowed": 7, "exhausted": False}
    said = {"modalities": [], "curve": None, "notices": [], "ordered_by": "embeddings", **query}
    return {"results": results, "query": said, "elapsed_ms": 3, **state}


def refusal(body: dict[str, Any]) -> str | None:
    formula = body["query"].get("formula", "")
    if formula.islower():
        return f"{formula!r} is not a chemical formula"
    if body["query"].get("text") == TOO_MUCH and not body.get("literal"):
        return "the filter cannot be combined with the words; search with literal"
    return None


def application() -> FastAPI:
    app = FastAPI()
    app.state.asked = asked = []

    @app.get("/api/info")
    def info() -> dict[str, Any]:
        examples = [{"label": "Like CsCl", "request": {"query": {"formula": "CsCl"}}}]
        said = {"modalities": listed_modalities(NAMES, "crystal"), "example_queries": examples}
        return {"index": {"version": "v1", "rows": 7}, "model": {"name": "m"}, **said}

    @app.get("/api/health")
    def health() -> dict[str, Any]:
        return {"status": "ok", "shards_ok": 1, "shards_total": 1, "rows": 7}

    @app.post("/api/search")
    async def search(request: Request) -> Any:
        body = await request.json()
        asked.append(body)
        if detail := refusal(body):
            return JSONResponse({"errors": [{"status": "422", "title": "Refused", "detail": detail}]}, 422)
        return answer([0.9, 0.8, 0.7], confidence=CONFIDENCE.get(body["query"].get("text")))

    @app.post("/api/search/file")
    def search_file(file: list[UploadFile], kind: Annotated[list[str], Form()]) -> Any:
        asked.append(
            {"files": [one.filename for one in file], "kinds": kind, "bytes": [one.file.read() for one in file]}
        )
        return answer([0.5, 0.9], ordered_by="embeddings and patterns", notices=[NOTICE])

    @app.get("/api/materials/{name}")
    def material(name: str) -> dict[str, Any]:
        cell = {"a": 4.12, "b": 4.12, "c": 4.12, "alpha": 90, "beta": 90, "gamma": 90, "volume": 69.9}
        known = {**answer([1.0])["results"][0], "id": name, "lattice": cell, "remarks": REMARK, "text": None}
        return {**known, "provenance": {}, "modalities": ["dos"], "predicted_by": []}

    @app.get("/api/materials/{name}/cif")
    def cif(name: str) -> Any:
        if name == LOST:
            return JSONResponse({"errors": [{"title": "No structure", "detail": "The file is gone."}]}, 422)
        return PlainTextResponse(CSCL)

    @app.get("/api/materials/{name}/curve/{kind}")
    def curve(name: str, kind: str) -> dict[str, Any]:
        x = [-5.0 + i / 10 for i in range(100)]
        return {"kind": kind, "x": x, "y": [v**2 for v in x], "x_label": "E − E_F (eV)", "y_label": "DOS"}

    app.get("/")(lambda: FileResponse(UI / "index.html"))
    app.mount("/assets", StaticFiles(directory=UI / "assets"))
    return app


@pytest.fixture(scope="module")
def service(served: Any) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    app = application()
    with served(app) as url:
        yield url, app.state.asked


@pytest.fixture
def browser(page_at: Callable[[str], Any], service: Any) -> Iterator[Any]:
    service[1].clear()
    page = page_at(service[0])
    page.open()
    yield page
    assert page.errors() == []


def choices(browser: Any) -> dict[str, Any]:
    """The buttons of the question that is asked, by their words."""
    browser.until("#question")
    return {button.text: button for button in browser.all("#question button")}


FORMULAS = "CuSO4.5H2O CuSO4·5H2O Fe₂O₃ Fe3+ SO₄²⁻ [Fe(CN)6]4- Li0.5CoO2 LiNi1/3Mn1/3Co1/3O2 YBa2Cu3O7-x YBa2Cu3Ox"
KINDS = {
    "formula": [*FORMULAS.split(), "CuSO4 5H2O", "SO4 2-", "Fe2 O3", "Na2CO3.10H2O", "In"],
    "id": ["mp-149", "JVASP-1002", "cod/1000041", "1000041", "C-123"],
    "text": ["nacl", "Fe-O", "perovskite", "layered oxide", "iron", "In the dark", "Nothing"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_typed_is_guessed(browser: Any, kind: str) -> None:
    script = "return import('/assets/reading.js').then(({guess}) => arguments[0].map(guess))"
    assert browser.run(script, KINDS[kind]) == [kind] * len(KINDS[kind])


def test_small_letters_are_asked_back_and_the_answer_is_searched(browser: Any, service: Any) -> None:
    browser.search("nacl")
    assert list(choices(browser)) == ["The formula NaCl", "The words “nacl”"]
    assert service[1] == []
    choices(browser)["The formula NaCl"].click()
    browser.until(".card[data-id]")
    assert service[1][-1]["query"] == {"formula": "NaCl"}
    assert browser.run("return document.getElementById('kind').value") == "formula"


def test_words_that_are_chosen_are_searched_and_the_other_reading_stays_at_hand(browser: Any, service: Any) -> None:
    browser.search("nacl")
    choices(browser)["The words “nacl”"].click()
    browser.until(".card[data-id]")
    assert service[1][-1]["query"] == {"text": "nacl"}
    assert "Searched for the words “nacl”" in browser.until(".note").text
    browser.until(".note button").click()
    browser.wait(lambda: service[1][-1]["query"] == {"formula": "NaCl"})


@pytest.mark.parametrize(
    ("choice", "kept"),
    [
        ("Crystals of O and Fe alone", '_crystalign_chemsys="Fe-O"'),
        ("Crystals with O and Fe and perhaps others", 'elements HAS ALL "O","Fe"'),
    ],
)
def test_a_chemical_system_becomes_a_filter(browser: Any, service: Any, choice: str, kept: str) -> None:
    browser.until("#filter").send_keys("nsites<9")
    browser.search("O-Fe")
    choices(browser)[choice].click()
    browser.until(".card[data-id]")
    asked = service[1][-1]
    assert (asked["query"], asked["filter"]) == ({"formula": "OFe"}, f"(nsites<9) AND {kept}")
    assert browser.run("return document.getElementById('filter').value") == asked["filter"]


def test_an_everyday_word_is_searched_at_once_and_its_formula_offered(browser: Any, service: Any) -> None:
    browser.search("tin")
    browser.until(".card[data-id]")
    assert service[1][-1]["query"] == {"text": "tin"}
    assert "The formula TiN" in browser.until(".note").text


def test_a_refused_formula_comes_with_what_may_be_meant(browser: Any, service: Any) -> None:
    browser.open("/#formula=nacl")
    browser.until(".message.error button").click()
    browser.until(".card[data-id]")
    assert [asked["query"]["formula"] for asked in service[1]] == ["nacl", "NaCl"]


def test_a_doubtful_text_is_asked_about_before_it_is_combined(browser: Any) -> None:
    browser.until("#box").send_keys("nacl")
    browser.until("#add").click()
    choices(browser)["The formula NaCl"].click()
    assert "NaCl" in browser.until(".part").text


def test_a_second_structure_is_asked_about(browser: Any, service: Any) -> None:
    browser.drop("a.cif", CSCL)
    browser.until(".card[data-id]")
    browser.drop("b.cif", CSCL)
    words = ["Search with b.cif instead", "Search with both a.cif and b.cif", "Keep a.cif"]
    assert list(choices(browser)) == words
    choices(browser)[words[1]].click()
    browser.wait(lambda: service[1][-1]["files"] == ["a.cif", "b.cif"])
    assert len(browser.all(".part")) == 2
    browser.open(browser.driver.current_url.removeprefix(browser.url))
    browser.wait(lambda: len(browser.all(".part")) == 2)
    browser.drop("c.cif", CSCL)
    choices(browser)["Search with c.cif instead"].click()
    browser.wait(lambda: service[1][-1]["files"] == ["c.cif"])


def test_a_second_pattern_replaces_the_first_only_when_told_so(browser: Any, service: Any) -> None:
    pattern = "\n".join(f"{10 + i} {i % 7}" for i in range(60))
    browser.drop("a.xy", pattern)
    browser.until(".card[data-id]")
    browser.drop("b.xy", pattern)
    assert list(choices(browser)) == ["Search with b.xy instead", "Keep a.xy"]
    choices(browser)["Keep a.xy"].click()
    browser.until(".card[data-id]")
    assert [part.text.split("\n")[0] for part in browser.all(".part .value")] == ["a.xy"]
    assert all(asked["files"] == ["a.xy"] for asked in service[1])


def test_notices_remarks_and_an_order_unlike_the_scores_are_said(browser: Any) -> None:
    browser.drop("a.xy", "\n".join(f"{10 + i} {i % 7}" for i in range(60)))
    browser.until(".card[data-id]")
    notes = [note.text for note in browser.all(".note")]
    assert notes[0] == NOTICE
    assert "may not decrease with rank" in notes[-1]
    assert [card.text for card in browser.all(".card .remarks")] == [REMARK]


def test_an_order_like_the_scores_needs_no_word(browser: Any) -> None:
    browser.search("CsCl")
    browser.until(".card[data-id]")
    assert browser.all(".note") == []


@pytest.mark.parametrize("typed", CONFIDENCE)
def test_how_well_the_results_match_is_said_and_a_weak_answer_warns(browser: Any, typed: str) -> None:
    browser.search(typed)
    said = browser.until(".confidence")
    assert said.text == CONFIDENCE[typed]["text"]
    assert ("warning" in said.get_attribute("class")) == (CONFIDENCE[typed]["level"] == "low")


def test_conditions_that_are_refused_can_be_left_out(browser: Any, service: Any) -> None:
    browser.search(TOO_MUCH)
    assert "cannot be combined" in browser.until(".message.error").text
    browser.until("#understood button").click()
    browser.until(".card[data-id]")
    assert service[1][-1]["literal"] is True


def test_a_query_whose_words_are_not_interpreted_shows_no_conditions(browser: Any) -> None:
    browser.search("CsCl")
    browser.until(".card[data-id]")
    assert [section.is_displayed() for section in browser.all("#understood")] == [False]


def test_a_link_to_one_material_opens_it_alone(browser: Any, service: Any) -> None:
    browser.open(f"/#open={ID}")
    assert "CsCl" in browser.until("#detail h2").text
    assert REMARK in browser.until("#detail .remarks").text
    assert service[1] == []
    assert browser.driver.title.startswith(ID)
    browser.until("#detail .close").click()
    browser.wait(lambda: not browser.until("#detail").is_displayed())
    assert browser.until(".hero").is_displayed()
    browser.driver.back()
    browser.wait(lambda: browser.until("#detail").is_displayed())


def test_a_legend_holds_the_id_as_it_is(browser: Any) -> None:
    browser.open(f"/#open={ID}")
    browser.until(".curve .key")
    assert ID in [key.text for key in browser.all(".legend .key")]
    assert browser.all(".curve .legend sub") == []


PATTERN = "\n".join(f"{10 + i} {i % 7}" for i in range(60))
BYTES = {
    "a.cif.gz": (gzip.compress(CSCL.encode(), mtime=0), "cif"),
    "POSCAR.xz": (lzma.compress(b"NaCl\n1.0\n"), "poscar"),
    "scan.brml": (b"PK\x03\x04\xff\xfe\x00\x80", "xrd"),
    "scan.xy": (PATTERN.encode("utf-16"), "xrd"),
    "scan.raw": (b"RAW1.01\x00\x00", "xrd"),
    "latin.xy": ("# 25 \xb0C\n".encode("latin-1") + PATTERN.encode(), "xrd"),
    "vasprun.xml.bz2": (b"BZh9\xff\x00", "dos"),
    "upload.gz": (gzip.compress(b"what", mtime=0), "auto"),
}


def drop_bytes(browser: Any, name: str, content: bytes) -> None:
    script = """const bytes = Uint8Array.from(atob(arguments[1]), (c) => c.charCodeAt(0));
      const data = new DataTransfer();
      data.items.add(new File([bytes], arguments[0]));
      window.dispatchEvent(new DragEvent("drop", {dataTransfer: data, cancelable: true}));"""
    browser.run(script, name, base64.b64encode(content).decode())


@pytest.mark.parametrize("name", BYTES)
def test_a_file_that_is_no_text_is_sent_byte_by_byte(browser: Any, service: Any, name: str) -> None:
    content, kind = BYTES[name]
    drop_bytes(browser, name, content)
    browser.until(".card[data-id]")
    assert service[1] == [{"files": [name], "kinds": [kind], "bytes": [content]}]
    assert "The file cannot be put into a link" in browser.until(".share").text


def test_bytes_survive_a_reload_and_a_link_says_that_it_lacks_them(browser: Any, service: Any) -> None:
    first, second = gzip.compress(b"first", mtime=0), gzip.compress(b"other", mtime=0)
    drop_bytes(browser, "a.gz", first)
    browser.until(".card[data-id]")
    link = browser.driver.current_url.removeprefix(browser.url)
    browser.driver.refresh()
    browser.wait(lambda: [asked["bytes"] for asked in service[1]] == [[first], [first]])
    browser.until(".card[data-id]")
    drop_bytes(browser, "a.gz", second)  # of the same name and length
    choices(browser)["Search with a.gz instead"].click()
    browser.wait(lambda: service[1][-1]["bytes"] == [second])
    browser.open(link)
    assert "a.gz cannot be put into a link" in browser.until(".message.error").text


KINDS_OF_FILES = {
    "scan.txt": ("2theta I sigma\n10 50 7\n10.1 51 7\n10.2 52 7\n10.3 53 7\n", "xrd"),
    "scan.csv": ("Angle,Intensity\n10,5\n", "xrd"),
    "table.txt": ("\n".join(f"{10 + i} {i} 7" for i in range(60)), "xrd"),
    "pdos.txt": ("# E pdos\n-1 0 0\n", "dos"),
    "struct.txt": ("NaCl\n1.0\n4 0 0\n0 4 0\n0 0 4\nNa Cl\n6 6\nDirect\n" + "-0.1 0 0\n" * 12, "structure"),
    "old.txt": ("NaCl\n1.0\n4 0 0\n0 4 0\n0 0 4\n1 1\nDirect\n0 0 0\n.5 .5 .5\n", "structure"),
    "mp.json": ('{"lattice": {"angles": 90}}', "auto"),
}


def test_the_kind_of_a_text_file_is_told_by_its_content(browser: Any) -> None:
    script = "return import('/assets/query.js').then(({guessFile}) => arguments[0].map((file) => guessFile(...file)))"
    files = [[name, text] for name, (text, _) in KINDS_OF_FILES.items()]
    assert browser.run(script, files) == [kind for _, kind in KINDS_OF_FILES.values()]


LONG = [letter * 20_000 for letter in ("-", "1", " ", "a", "1.", "a-1", "^", "H2O", "+1")]


def test_a_very_long_text_is_told_at_once(browser: Any) -> None:
    script = """return import('/assets/reading.js').then(({guess, question}) =>
      arguments[0].map((text) => [guess(`Fe${text}!`), question(`Fe${text}!`)]))"""
    started = time.perf_counter()
    assert browser.run(script, LONG) == [["text", None]] * len(LONG)
    assert time.perf_counter() - started < 5


def test_a_download_that_fails_says_so(browser: Any) -> None:
    browser.run("sessionStorage.setItem('crystalign-api-key', 'k')")
    try:
        browser.open(f"/#open={LOST}")
        browser.wait(lambda: [link for link in browser.all("#detail a.button") if link.is_displayed()])
        browser.until("#detail a.button").click()
        browser.wait(lambda: "The file is gone" in browser.until("#detail .actions").text)
        assert "The file is gone" in browser.until("#detail .actions").text
    finally:
        browser.run("sessionStorage.clear()")
