"""A service leaves hypothetical crystals out unless it is asked for them, and says of each hit what it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from fastapi.testclient import TestClient

from crystalign.index.manifest import IndexManifest
from crystalign.index.search import Segment
from crystalign.model import load
from crystalign.model_description import read_description
from crystalign.properties import PredictedProperty
from crystalign_serve.api import build_api
from crystalign_serve.backend import LocalBackend
from crystalign_serve.materials import listed_predictions, listed_result
from crystalign_serve.search import Similar
from crystalign_serve.service import open_service
from small_service import GAP, build, salts

FIELD = "_crystalign_hypothetical"
MADE_UP = {f"salt/{number:02d}" for number in range(30, 40)}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """Forty salts of which ten are hypothetical, behind the API."""
    materials = [
        replace(salt, provenance=replace(salt.provenance, hypothetical=salt.id in MADE_UP)) for salt in salts()
    ]
    places = build(tmp_path_factory.mktemp("mixed"), materials)
    described, manifest = read_description(places.model), IndexManifest.read(places.index)
    segments = [Segment.load(places.index, manifest, [entry]) for entry in manifest.segments]
    service = open_service(manifest, described.config, described.card, dataset_uri=None, shards=len(segments))
    with TestClient(build_api(service, LocalBackend(load(places.model), segments))) as client:
        yield client


def search(client: TestClient, **request: Any) -> dict[str, Any]:
    body: dict[str, Any] = {"query": {"id": "salt/03"}, "k": 40, **request}
    answer: dict[str, Any] = client.post("/api/search", json=body).raise_for_status().json()
    return answer


def test_only_real_crystals_are_found_and_a_notice_says_what_is_left_out(mixed: TestClient) -> None:
    answer = search(mixed)
    assert {hit["id"] for hit in answer["results"]} == {salt.id for salt in salts()} - MADE_UP
    assert (answer["allowed"], answer["exhausted"]) == (30, True)
    assert not any(hit["hypothetical"] for hit in answer["results"])
    assert any(FIELD in notice for notice in answer["query"]["notices"])
    assert not any(FIELD in notice for notice in search(mixed, k=5)["query"]["notices"])


def test_a_filter_that_names_the_field_finds_them_and_hits_say_it(mixed: TestClient) -> None:
    answer = search(mixed, filter=f"{FIELD} IS KNOWN")
    assert {hit["id"]: hit["hypothetical"] for hit in answer["results"]} == {
        salt.id: salt.id in MADE_UP for salt in salts()
    }
    assert not any(FIELD in notice for notice in answer["query"]["notices"])
    assert {hit["id"] for hit in search(mixed, filter=f"{FIELD} = TRUE")["results"]} == MADE_UP


def test_words_are_counted_and_searched_without_them(mixed: TestClient) -> None:
    answer = search(mixed, query={"text": "a cubic salt"}, k=40)
    assert not {hit["id"] for hit in answer["results"]} & MADE_UP


def test_a_material_can_be_looked_up_and_says_that_it_is_hypothetical(mixed: TestClient) -> None:
    assert mixed.get("/api/materials/salt/35").json()["hypothetical"] is True
    assert mixed.get("/api/materials/salt/05").json()["hypothetical"] is False
    fields = {field["name"]: field["type"] for field in mixed.get("/api/info").json()["fields"]}
    assert fields[FIELD] == "boolean"


@pytest.mark.parametrize(
    ("text", "whole"), [(None, f"{FIELD} IS KNOWN"), ("a=1 OR b=2", f"(a=1 OR b=2) AND {FIELD} IS KNOWN")]
)
def test_the_command_asks_for_them_by_a_filter(text: str | None, whole: str) -> None:
    assert Similar(material="salt/03", filter=text, hypothetical=True).whole_filter == whole
    assert Similar(material="salt/03", filter=text).whole_filter == text


def test_a_hit_lists_predictions_apart_from_known_values() -> None:
    spec = PredictedProperty(target=GAP, model="gap", model_sha256="c" * 64, level=0.9)
    parts = {"value": 1.5, "lower": 1.0, "upper": 2.0, "out_of_domain": 0.3}
    record = {"id": "a", "formula": "ClNa", "spacegroup_number": 225, "n_sites": 2, "source": "s", "licence": "l"}
    record |= {GAP.column: 5.0, **{spec.columns[part]: value for part, value in parts.items()}}
    hit = listed_result(1, 0.5, record, None, [GAP], [spec])
    assert [entry["value"] for entry in hit["properties"]] == [5.0]
    (said,) = hit["predictions"]
    assert said == {
        **parts,
        "key": f"predicted_{GAP.column}",
        "label": GAP.label,
        "unit": "eV",
        "model": "gap",
        "level": 0.9,
    }
    assert listed_predictions({**record, spec.column: None}, [spec]) == []
