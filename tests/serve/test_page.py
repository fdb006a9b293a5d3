"""The web page: what is shipped is complete and safe, and a browser can search with it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import FastAPI, Form, Request, UploadFile
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse
from fastapi.staticfiles import StaticFiles

from crystalign.modalities import NAMES
from crystalign_serve.service import listed_modalities

UI = Path(__file__).resolve().parents[2] / "serve" / "crystalign_serve" / "ui"
ASSETS = UI / "assets"
VENDORED = {"3Dmol-min.js", "3Dmol-LICENSE.txt"}
OWN = sorted(path for path in [UI / "index.html", *ASSETS.iterdir()] if path.name not in VENDORED)
Served = Callable[[Any], AbstractContextManager[str]]
NAMESPACE = "http://www.w3.org/2000/svg"  # a name that every SVG element carries; nothing is fetched from it
HOSTILE = "<img src=x onerror=document.title='broken'>"
CIF = """data_CsCl
_cell_length_a 4.12
_cell_length_b 4.12
_cell_length_c 4.12
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'P 1'
loop_
 _symmetry_equiv_pos_site_id
 _symmetry_equiv_pos_as_xyz
  1 'x, y, z'
loop_
 _atom_site_type_symbol
 _atom_site_label
 _atom_site_fract_x
 _atom_site_fract_y
 _atom_site_fract_z
 Cs Cs0 0.0 0.0 0.0
 Cl Cl1 0.5 0.5 0.5
"""


# --- what is shipped --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.name)
def test_nothing_is_fetched_from_elsewhere(path: Path) -> None:
    text = path.read_text(encoding="utf-8").replace(NAMESPACE, "")
    assert not re.findall(r"""(?:https?:)?//[a-z0-9-]+\.[a-z]""", text)


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.name)
def test_no_text_becomes_markup_or_code(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|srcdoc", text)


def test_the_page_holds_no_inline_code_and_forbids_it() -> None:
    html = (UI / "index.html").read_text(encoding="utf-8")
    assert not re.findall(r"<style|\sstyle=|\son[a-z]+=|<script(?![^>]*\ssrc=)", html)
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', html)
    assert policy is not None
    assert "default-src 'none'" in policy[1]
    assert "unsafe" not in policy[1]


def test_every_reference_exists_and_every_asset_is_used() -> None:
    used = set()
    for path in OWN:
        text = path.read_text(encoding="utf-8")
        used |= set(re.findall(r"/assets/([\w.-]+)", text)) | set(re.findall(r'from "\./([\w.-]+)"', text))
    shipped = {path.name for path in ASSETS.iterdir()}
    assert used == shipped - {"3Dmol-LICENSE.txt"}


def test_the_vendored_viewer_comes_with_its_licence() -> None:
    assert "BSD-3-Clause" in (ASSETS / "3Dmol-LICENSE.txt").read_text(encoding="utf-8")


# --- a small service with the API's answers ---------------------------------------------------------------------------


def _result(rank: int, name: str, formula: str) -> dict[str, Any]:
    known = {"key": "gap", "label": "Band gap, PBE", "unit": "eV", "value": 1.25}
    facts = {"spacegroup_number": 221, "spacegroup_symbol": "Pm-3m", "n_sites": 2, "source": "made"}
    return {"rank": rank, "id": name, "score": 1.0 - rank / 10, "formula": formula, "properties": [known], **facts}


def _answer(rows: list[tuple[str, str]], curve: dict[str, Any] | None = None) -> dict[str, Any]:
    results = [_result(i, *row) for i, row in enumerate(rows, start=1)]
    state = {
        "shards_ok": 2,
        "shards_total": 2,
        "index_version": "v1",
        "allowed": 7,
        "exhausted": False,
        "elapsed_ms": 3,
    }
    return {"results": results, "query": {"modalities": [], "curve": curve}, **state}


def _curve(kind: str, shift: float) -> dict[str, Any]:
    labels = {
        "xrd": ("2θ (degrees, λ = 1.5406 Å)", "Intensity (relative)"),
        "dos": ("E − E_F (eV)", "DOS (states/eV/atom)"),
    }
    x = [10.0 + i for i in range(60)] if kind == "xrd" else [-5.0 + i / 10 for i in range(100)]
    x_label, y_label = labels[kind]
    return {"kind": kind, "x": x, "y": [abs(v - shift) % 3 for v in x], "x_label": x_label, "y_label": y_label}


def _problem(title: str, detail: str) -> JSONResponse:
    return JSONResponse({"errors": [{"status": "422", "title": title, "detail": detail}]}, status_code=422)


def _service() -> FastAPI:
    app = FastAPI()
    asked: list[dict[str, Any]] = []
    app.state.asked = asked

    @app.get("/api/info")
    def info() -> dict[str, Any]:
        fields = [{"name": "nsites", "label": "Sites", "unit": "", "type": "integer"}]
        examples = [{"label": "Like CsCl", "request": {"query": {"formula": "CsCl"}}}]
        index, notice = {"version": "v1", "rows": 7}, "Made-up data."
        said = {"fields": fields, "notice": notice, "example_queries": examples}
        return {"index": index, "model": {"name": "m"}, "modalities": listed_modalities(NAMES, "crystal"), **said}

    @app.get("/api/health")
    def health() -> dict[str, Any]:
        return {"status": "ok", "shards_ok": 2, "shards_total": 2, "rows": 7}

    @app.post("/api/search")
    async def search(request: Request) -> Any:
        body = await request.json()
        asked.append(body)
        if "nonsense" in body.get("filter", ""):
            return _problem("Unknown field", "nonsense is no field; use nsites")
        return _answer([(f"made-{i}", formula) for i, formula in enumerate(["CsCl", "Fe2O3", HOSTILE, "NaCl"])])

    @app.post("/api/search/file")
    def search_file(file: UploadFile, kind: Annotated[str, Form()], wavelength: Annotated[str, Form()] = "") -> Any:
        asked.append({"file": file.filename, "kind": kind, "wavelength": wavelength})
        if not wavelength:
            return _problem("The query cannot be used", "the file does not say its wavelength")
        return _answer([("made-0", "CsCl")], _curve("xrd", 30.0))

    _add_materials(app)

    @app.get("/")
    def page() -> FileResponse:
        return FileResponse(UI / "index.html")

    app.mount("/assets", StaticFiles(directory=ASSETS))
    return app


def _add_materials(app: FastAPI) -> None:
    @app.get("/api/materials/{name}")
    def material(name: str) -> dict[str, Any]:
        cell = {"a": 4.12, "b": 4.12, "c": 4.12, "alpha": 90, "beta": 90, "gamma": 90, "volume": 69.9}
        source = {"source": HOSTILE, "licence": "CC0-1.0"}
        more = {"lattice": cell, "text": "A caption.", "provenance": source, "modalities": ["crystal", "dos", "xrd"]}
        return {**_result(1, name, "CsCl"), **more, "predicted_by": ["gap", "bulk"]}

    @app.get("/api/materials/{name}/predictions")
    def predictions(name: str) -> dict[str, Any]:
        gap = {"model": "gap", "target": "g", "label": "Band gap (eV), PBE", "unit": "eV", "value": 1.5, "level": 0.9}
        bulk = {**gap, "model": HOSTILE, "label": "Bulk modulus (VRH) (GPa), PBE", "unit": "GPa", "value": 91.0}
        said = [{**gap, "lower": 1.1, "upper": 1.9, "out_of_domain": 0.4}]
        said += [{**bulk, "lower": None, "upper": None, "out_of_domain": 3.0}]
        return {"results": [{"id": name, "formula": "CsCl", "predictions": said, "problems": [HOSTILE]}]}

    @app.get("/api/materials/{name}/cif")
    def cif(name: str) -> PlainTextResponse:
        return PlainTextResponse(CIF)

    @app.get("/api/materials/{name}/curve/{kind}")
    def curve(name: str, kind: str) -> dict[str, Any]:
        return _curve(kind, 0.0)


@pytest.fixture(scope="module")
def service(served: Served) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    app = _service()
    with served(app) as url:
        yield url, app.state.asked


# --- a browser --------------------------------------------------------------------------------------------------------


@pytest.fixture
def browser(page_at: Callable[[str], Any], service: tuple[str, list[dict[str, Any]]]) -> Iterator[Any]:
    page = page_at(service[0])
    page.open()
    yield page
    assert page.errors() == []


def test_typed_formula_gives_cards_and_a_card_its_structure_and_curves(browser: Any, service: Any) -> None:
    browser.search("Fe2O3")
    browser.until(".card[data-id]")
    assert service[1][-1]["query"] == {"formula": "Fe2O3"}
    assert [node.text for node in browser.all(".card:nth-child(2) sub")] == ["2", "3"]
    browser.until(".card .open").click()
    browser.until(".stage canvas")
    browser.until(".controls .swatch")
    browser.wait(lambda: len(browser.all(".series.match")) == 2)
    assert "4.120" in browser.until(".lattice").text


def test_what_models_predict_stands_with_its_interval_and_a_warning(browser: Any) -> None:
    browser.search("CsCl")
    browser.until(".card .open").click()
    browser.wait(lambda: len(browser.all(".predicted .property")) == 2)
    gap, bulk = (node.text for node in browser.all(".predicted .property"))
    for words in ("Band gap, PBE", "1.5", "eV", "1.1 … 1.9"):
        assert words in gap
    assert "unlike the training data" not in gap
    for words in ("Bulk modulus (VRH), PBE", "91", "GPa", "unlike the training data"):
        assert words in bulk
    assert "…" not in bulk
    assert HOSTILE in browser.until(".predicted").text


def test_what_a_text_means_is_guessed_and_can_be_changed(browser: Any, service: Any) -> None:
    from selenium.webdriver.support.ui import Select

    for typed, kind in [("mp-149", "id"), ("LiFePO4", "formula"), ("Ca(OH)2", "formula"), ("layered oxide", "text")]:
        browser.until("#box").clear()
        browser.until("#box").send_keys(typed)
        assert Select(browser.until("#kind")).first_selected_option.text == kind
    browser.search("In")
    browser.until(".card[data-id]")
    Select(browser.until("#kind")).select_by_value("text")
    browser.wait(lambda: service[1][-1]["query"] == {"text": "In"})


def test_names_from_the_server_stay_text(browser: Any) -> None:
    browser.search("CsCl")
    browser.until(".card[data-id]")
    assert HOSTILE in [card.text for card in browser.all(".card h3")]
    browser.until(".card .open").click()
    browser.wait(lambda: HOSTILE in browser.until("#detail").text)
    assert browser.all("main img") == []


def test_dropped_pattern_asks_for_its_wavelength_and_lies_over_the_match(browser: Any, service: Any) -> None:
    browser.drop("measured.xy", "\n".join(f"{10 + i} {i % 7}" for i in range(60)))
    browser.until("#ask-wavelength button").click()
    browser.until(".card .open").click()
    browser.until(".plot .series.match")
    browser.until(".plot .series.asked")
    assert service[1][-1] == {"file": "measured.xy", "kind": "xrd", "wavelength": "CuKa"}


def test_parts_are_combined_with_weights(browser: Any, service: Any) -> None:
    browser.until("#box").send_keys("layered oxide")
    browser.until("#add").click()
    browser.search("LiCoO2")
    browser.until(".card[data-id]")
    assert len(browser.all(".weight input")) == 2
    slide = "const s = document.querySelector('.weight input'); s.value = 0.5; s.dispatchEvent(new Event('change'))"
    browser.run(slide)
    browser.wait(lambda: service[1][-1].get("weights") == {"text": 0.5, "composition": 1})
    assert service[1][-1]["query"] == {"text": "layered oxide", "formula": "LiCoO2"}


def test_link_repeats_the_search_and_back_returns(browser: Any) -> None:
    browser.search("CsCl")
    browser.until(".card[data-id]")
    browser.all(".card .open")[1].click()
    browser.until(".stage canvas")
    link, ids = browser.driver.current_url, browser.ids()
    browser.open(link.removeprefix(browser.url))
    browser.until(".card.current")
    assert browser.ids() == ids
    assert browser.until(".card.current").get_attribute("data-id") == ids[1]
    browser.until("#detail .close").click()
    browser.wait(lambda: not browser.all(".card.current"))
    browser.driver.back()
    browser.until(".card.current")


def test_link_holds_a_small_file_and_says_when_a_file_is_too_large(browser: Any, tmp_path: Path) -> None:
    (tmp_path / "small.cif").write_text(CIF, encoding="utf-8")
    browser.until("#file").send_keys(str(tmp_path / "small.cif"))
    browser.wait(lambda: "small.cif" in browser.driver.current_url)
    browser.open(browser.driver.current_url.removeprefix(browser.url))
    assert "small.cif" in browser.until(".part").text
    browser.open("/#xrd=~huge.xy")
    assert "huge.xy was too large for the link" in browser.until(".message.error").text


def test_refusal_is_shown_in_the_words_of_the_server(browser: Any) -> None:
    browser.until("#filter").send_keys("nonsense = 1")
    browser.search("CsCl")
    shown = browser.until(".message.error").text
    assert "Unknown field" in shown
    assert "nonsense is no field; use nsites" in shown


def test_keys_reach_the_box_and_the_cards(browser: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    browser.search("CsCl")
    browser.until(".card[data-id]")
    browser.until("#box").send_keys(Keys.ARROW_DOWN)
    browser.driver.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    focused = "return document.activeElement.closest('.card')?.dataset.id ?? document.activeElement.id"
    assert browser.run(focused) == "made-1"
    browser.driver.switch_to.active_element.send_keys("/")
    assert browser.run(focused) == "box"


@pytest.mark.parametrize("width", [360, 390])
def test_narrow_window_never_scrolls_sideways(browser: Any, width: int) -> None:
    browser.open(width=width)
    assert not browser.scrolls_sideways()
    browser.until("#box").send_keys("layered oxide")
    browser.until("#add").click()
    browser.search("CsCl")
    browser.until(".card[data-id]")
    browser.until("#help summary").click()
    assert not browser.scrolls_sideways()
    browser.until(".card .open").click()
    browser.until(".controls .swatch")
    browser.wait(lambda: len(browser.all(".series.match")) == 2)
    assert not browser.scrolls_sideways()


def test_page_and_service_understand_each_other(
    driver: Any, http: Any, served: Served, page_at: Callable[[str], Any]
) -> None:
    with served(http.app) as url:
        page = page_at(url)
        page.open()
        for example in range(len(page.all(".example"))):
            page.open()
            page.all(".example")[example].click()
            page.until(".card[data-id]")
        x = [5.0 + 0.02 * step for step in range(4000)]
        page.open()
        page.drop("measured.xy", "\n".join(f"{v:.2f} {1 + 100 * (abs(v % 20 - 7) < 0.1)}" for v in x))
        page.until("#ask-wavelength button").click()
        page.until(".card .open").click()
        page.until(".plot .series.asked")
        page.until(".controls .swatch")
        page.wait(lambda: len(page.all(".series.match")) == 2)
        assert len(page.all(".plot")) == 2
        found = page.ids()
        driver.refresh()
        page.until(".card[data-id]")
        assert page.ids() == found
        page.open()
        page.drop("cscl.cif", CIF)
        page.until(".card[data-id]")
        page.until(".remove").click()
        page.search("no such")
        page.until(".card[data-id]")
        page.until("#filter").send_keys("nonsense = 1")
        page.search("KCl")
        assert "nonsense" in page.until(".message.error").text
        assert page.errors() == []
