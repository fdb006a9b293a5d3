"""Counts by value over HTTP are those of the materials, and need no search."""

from __future__ import annotations

from collections import Counter

import pytest

from crystalign.crystal import SYMBOLS


def expected(materials):
    elements = [{SYMBOLS[z] for z in material.crystal.composition} for material in materials]
    return {
        "rows": len(materials),
        "elements": dict(Counter(symbol for one in elements for symbol in one)),
        "n_elements": {str(n): count for n, count in Counter(map(len, elements)).items()},
    }


def test_the_counts_are_those_of_all_materials(http, materials):
    found = http.get("/api/facets").json()
    wanted = expected(materials)
    assert {key: found[key] for key in wanted} == wanted
    assert sum(found["crystal_systems"].values()) == sum(m.spacegroup_number is not None for m in materials)
    assert found["sources"] == dict(Counter(material.provenance.source for material in materials))
    assert (found["shards_ok"], found["shards_total"]) == (4, 4)


@pytest.mark.parametrize("symbol", ["Na", "Cl"])
def test_a_filter_narrows_the_counts(http, materials, symbol):
    chosen = [m for m in materials if symbol in {SYMBOLS[z] for z in m.crystal.composition}]
    assert 0 < len(chosen) < len(materials)
    found = http.get("/api/facets", params={"filter": f'elements HAS "{symbol}"'}).json()
    wanted = expected(chosen)
    assert {key: found[key] for key in wanted} == wanted


def test_a_filter_that_no_row_passes_gives_zeros(http):
    found = http.get("/api/facets", params={"filter": "nelements>90"}).json()
    assert found["rows"] == 0
    assert found["elements"] == found["n_elements"] == {}


@pytest.mark.parametrize("text", ["nosuchfield=1", "elements HAS", "a" * 5000])
def test_a_filter_that_cannot_be_read_is_refused(http, text):
    response = http.get("/api/facets", params={"filter": text})
    assert response.status_code == 422, response.text
