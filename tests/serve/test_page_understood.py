"""The web page shows what was understood of typed words, and searches without what the user removes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from small_cif import CSCL

Served = Callable[[Any], AbstractContextManager[str]]
HOSTILE = "<img src=x onerror=document.title='broken'>"
WORDS = "lithium chloride"
APART = "lithium potassium"
"""Elements that no crystal of the small service has together."""


@pytest.fixture(scope="module")
def url(http: Any, served: Served) -> Iterator[str]:
    with served(http.app) as address:
        yield address


@pytest.fixture
def browser(page_at: Callable[[str], Any], url: str) -> Iterator[Any]:
    page = page_at(url)
    page.open()
    yield page
    assert page.errors() == []


def understood(http: Any, text: str, **options: Any) -> dict[str, Any]:
    """What the API says that it understood of a text."""
    body = {"query": {"text": text}, **options}
    said: dict[str, Any] = http.post("/api/search", json=body).json()["query"]["understood"]
    return said


def labels(said: dict[str, Any]) -> list[str]:
    return [chip["label"] if chip["strict"] else f"first: {chip['label']}" for chip in said["chips"]]


def shown(browser: Any) -> list[str]:
    return [chip.text for chip in browser.all(".condition:not(.removed) .about")]


def removed(browser: Any) -> list[str]:
    return [chip.text for chip in browser.all(".condition.removed .about")]


def linked(browser: Any) -> dict[str, list[str]]:
    return parse_qs(urlsplit(browser.driver.current_url).fragment)


def searched(browser: Any, text: str) -> None:
    browser.search(text)
    browser.until(".condition")


def remove_first(browser: Any) -> str:
    """Remove the first chip; returns its label."""
    label: str = browser.until(".condition:not(.removed) .drop").get_attribute("aria-label")
    browser.until(".condition:not(.removed) .drop").click()
    browser.until(".condition.removed")
    return label.removeprefix("Do not use: ")


def test_each_condition_is_a_chip_that_tells_its_words_and_its_filter(browser: Any, http: Any) -> None:
    said = understood(http, WORDS)
    searched(browser, WORDS)
    assert shown(browser) == labels(said)
    for about, chip in zip(browser.all(".condition .about"), said["chips"], strict=True):
        assert not browser.until("#condition").is_displayed()
        for told in (chip["words"], chip["filter"]):
            assert told in about.get_attribute("title")
        about.click()
        assert chip["filter"] in browser.until("#condition").text
        about.click()


def test_words_that_were_not_understood_are_named(browser: Any, http: Any) -> None:
    said = understood(http, f"{WORDS} qwertz")
    assert "qwertz" in said["rest"]
    searched(browser, f"{WORDS} qwertz")
    assert browser.until(".rest").text == f"Compared as text: “{said['rest']}”"


def test_a_removed_chip_is_struck_through_and_can_be_put_back(browser: Any, http: Any) -> None:
    searched(browser, WORDS)
    before, ids = shown(browser), browser.ids()
    words = understood(http, WORDS)["chips"][0]["words"]
    label = remove_first(browser)
    assert removed(browser) == [label]
    assert shown(browser) == labels(understood(http, WORDS, ignore=[words]))
    assert linked(browser)["ignore"] == [words]
    focused = "return document.activeElement.getAttribute('aria-label')"
    assert browser.run(focused) == f"Put back: {label}"
    browser.driver.switch_to.active_element.send_keys("\n")
    browser.wait(lambda: not browser.all(".condition.removed"))
    assert (shown(browser), browser.ids()) == (before, ids)
    assert "ignore" not in linked(browser)


def test_a_link_holds_the_removed_words_and_back_puts_them_back(browser: Any) -> None:
    searched(browser, WORDS)
    before = shown(browser)
    remove_first(browser)
    left = shown(browser)
    browser.driver.back()
    browser.wait(lambda: not browser.all(".condition.removed"))
    assert shown(browser) == before
    browser.driver.forward()
    browser.until(".condition.removed")
    words = linked(browser)["ignore"]
    browser.open(browser.driver.current_url.removeprefix(browser.url))
    browser.until(".condition.removed")
    assert (shown(browser), removed(browser)) == (left, words)


def test_words_alone_can_be_searched_and_interpreted_again(browser: Any) -> None:
    searched(browser, WORDS)
    before = shown(browser)
    browser.until(".understood > .link").click()
    browser.wait(lambda: not browser.all(".condition"))
    assert linked(browser)["literal"] == ["1"]
    assert "Searched for these words only" in browser.until("#understood").text
    assert len(browser.ids()) == 12
    browser.until("#understood .link").click()
    browser.until(".condition")
    assert shown(browser) == before


def test_another_text_forgets_what_was_removed_of_the_one_before(browser: Any) -> None:
    searched(browser, WORDS)
    remove_first(browser)
    browser.search("potassium bromide")
    browser.wait(lambda: not browser.all(".condition.removed") and browser.all(".condition"))
    assert set(linked(browser)) == {"text"}


def test_the_formula_that_was_typed_comes_first_below_its_name(browser: Any, http: Any) -> None:
    body = {"query": {"formula": "NaCl"}, "k": 12}
    answer = http.post("/api/search", json=body).json()
    tiers = [result["tier"] for result in answer["results"]]
    assert set(tiers) == {0, 1}
    browser.search("NaCl")
    browser.until(".card[data-id]")
    headings = browser.all(".tier")
    exactly = [chip["label"] for chip in answer["query"]["understood"]["chips"] if not chip["strict"]]
    assert [heading.text.lower() for heading in headings] == [", ".join(exactly).lower(), "neighbours"]
    order = [node.get_attribute("data-id") for node in browser.all("#results > li")]
    assert order[: tiers.count(0) + 2] == [None, *browser.ids()[: tiers.count(0)], None]
    assert browser.until(".card h3").text == "NaCl"


def test_arrow_keys_cross_the_heading_between_tiers(browser: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    browser.search("NaCl")
    browser.until(".tier")
    rank = "return document.activeElement.closest('.card').querySelector('.rank').textContent.replace('Rank ', '')"
    first = browser.all(".card .open")[0]
    first.send_keys(Keys.ARROW_DOWN)
    assert browser.run(rank) == "2"
    browser.driver.switch_to.active_element.send_keys(Keys.ARROW_UP)
    assert browser.run(rank) == "1"


def test_an_empty_answer_says_why_and_keeps_the_chips(browser: Any, http: Any) -> None:
    said = understood(http, APART)
    searched(browser, APART)
    assert browser.ids() == []
    message = browser.until(".message").text
    for chip in said["chips"]:
        assert chip["label"] in message
    assert shown(browser) == labels(said)
    remove_first(browser)
    browser.until(".card[data-id]")


def test_a_file_beside_the_words_is_searched_without_the_removed_ones(browser: Any) -> None:
    browser.until("#box").send_keys(WORDS)
    browser.until("#add").click()
    browser.drop("cscl.cif", CSCL)
    browser.until(".condition")
    remove_first(browser)
    left = shown(browser)
    browser.until(".card[data-id]")
    assert len(browser.all(".part")) == 2
    browser.driver.refresh()
    browser.until(".condition.removed")
    assert shown(browser) == left


SHOW = """const [understood, ignore] = arguments;
  const state = {parts: [{kind: 'text', value: 'some words'}], ignore, literal: false};
  const host = document.getElementById('understood');
  return import('/assets/understood.js').then((page) => page.showUnderstood(host, state, understood, () => {}));"""


@pytest.mark.parametrize("width", [360, 1280])
def test_long_and_hostile_chips_stay_text_within_the_page(browser: Any, width: int) -> None:
    text = HOSTILE + "long" * 100
    chip = {"words": text, "kind": HOSTILE, "label": text, "filter": text, "strict": False, "note": text}
    said = {"chips": [chip] * 12, "rest": text, "notes": [HOSTILE]}
    browser.open(width=width)
    browser.run(SHOW, said, [HOSTILE])
    browser.until(".condition .about").click()
    assert HOSTILE in browser.until("#condition").text
    assert removed(browser) == [HOSTILE]
    assert browser.all("#understood img") == []
    assert not browser.scrolls_sideways()


PRETTY = {
    "rutile: TiO2, P4_2/mnm": "rutile: TiO<2>, P4<2>/mnm",
    "space group Fm-3m (225)": "space group Fm3\u0305m (225)",
    "space group P312 (149)": "space group P312 (149)",
    "formula Li0.5CoO2": "formula Li<0.5>CoO<2>",
    "Cu(OH)2 or 4H SiC": "Cu(OH)<2> or 4H SiC",
}


def test_formulas_and_symbols_in_labels_are_set_as_in_print(browser: Any) -> None:
    script = """return import('/assets/dom.js').then(({pretty}) => arguments[0].map((label) =>
      pretty(label).flat().map((part) => part.tagName === "SUB" ? `<${part.textContent}>` : part).join("")))"""
    assert browser.run(script, list(PRETTY)) == list(PRETTY.values())


def test_the_heading_of_tiers_counts_what_satisfies_everything(browser: Any) -> None:
    script = """return import('/assets/understood.js').then(({tierHeadings}) => arguments[0].map(([tiers, labels]) =>
      tierHeadings(tiers.map((tier) => ({tier})), {chips: labels.map((label) => ({label, strict: false}))})))"""
    cases = [
        [[0, 0, 0], ["exactly NaCl"]],
        [[0, 1, 1], ["exactly NaCl"]],
        [[0, 0, 1, 2], ["a" * 80]],
        [[0, 1], ["a" * 80]],
        [[0, 0, 1, 2], []],
        [[1, 1, 2], []],
        [[1, 1, 2, 3], ["exactly NaCl"]],
        [[0, 1, 2, 3], ["exactly NaCl"]],
    ]
    assert browser.run(script, cases) == [
        [],
        [[0, "Exactly NaCl"], [1, "Neighbours"]],
        [
            [0, "The first 2 satisfy everything; the following are neighbours"],
            [2, "Neighbours"],
            [3, "Further neighbours"],
        ],
        [[0, "The first satisfies everything; the following are neighbours"], [1, "Neighbours"]],
        [[0, "Best matches"], [2, "Further matches"]],
        [[0, "No exact match; these come closest"], [2, "Further matches"]],
        [[0, "Not found: exactly NaCl – these come closest"], [2, "Further neighbours"]],
        [[0, "Exactly NaCl"], [1, "Neighbours"], [2, "Further neighbours"]],
    ]
