"""`crystalign calibrate` asks what a service would be asked, and a service says how sure its answers are."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from crystalign.crystal import Crystal
from crystalign.errors import ConfigError, DatasetError, ModelError
from crystalign.evaluation.calibration import Fit, Signal
from crystalign.evaluation.held_out_queries import HeldOutQuery
from crystalign.index.calibration import CALIBRATION, FIRST, Calibration, ModalityCalibration
from crystalign.index.manifest import IndexManifest
from crystalign.index.search import Segment
from crystalign.material import Material, Provenance
from crystalign.modalities.composition import Composition
from crystalign.modalities.text import Text
from crystalign.model import load
from crystalign.model_config import ModelCard
from crystalign.model_description import read_description
from crystalign.physics.caption import caption_of
from crystalign.physics.diffraction import powder_peaks
from crystalign.physics.facts import crystal_facts
from crystalign.physics.symmetry import symmetry
from crystalign.shards.splits import SplitRule
from crystalign_serve.api import build_api
from crystalign_serve.backend import LocalBackend
from crystalign_serve.calibrate import Calibrate, main
from crystalign_serve.known_answers import Examiner
from crystalign_serve.service import open_service
from small_service import Places, build

QUERIES = 120
NONSENSE = ["asdf qwerty", "my cat is nice", "best recipe for soup", "我的猫很可爱", "x9k2q7", "!!!"]
GOOD = ["cubic sodium chloride", "potassium fluoride", "lithium halides"]


def described(number: int, a: int, b: int) -> Material:
    """A salt in the CsCl structure with a caption and its facts."""
    crystal = Crystal(np.eye(3) * (3.0 + (a + b) / 60), np.array([[0, 0, 0], [0.5] * 3]), np.array([a, b]))
    known = symmetry(crystal)
    facts = crystal_facts(crystal, known)
    values = {
        "composition": Composition.of(crystal),
        "text": Text(caption_of(facts), generated=True, facts_json=facts.model_dump_json()),
        "xrd": powder_peaks(crystal),
    }
    provenance = Provenance("test", "CC-BY-4.0", "1", "made for tests")
    known_as = {"spacegroup_number": known.number, "prototype": "AB:221:a.b"}
    return Material(f"salt/{number:03d}", crystal, provenance, values, {}, **known_as)


@pytest.fixture(scope="module")
def salty(tmp_path_factory: pytest.TempPathFactory) -> Places:
    """Two hundred salts; the model is untrained, so that most of them are unseen."""
    cations = (3, 4, 11, 12, 13, 19, 20, 21, 25, 26, 27, 28, 29, 30, 37, 38, 39, 47, 55, 56)
    pairs = [(a, b) for a in cations for b in (7, 8, 9, 15, 16, 17, 33, 34, 35, 53)]
    card = ModelCard(name="tiny", split=SplitRule(train=0.1, validation=0.0).model_dump())
    materials = [described(number, a, b) for number, (a, b) in enumerate(pairs)]
    return build(tmp_path_factory.mktemp("salty"), materials, card)


@pytest.fixture(scope="module")
def calibration(salty: Places) -> Calibration:
    return main(Calibrate(index=salty.index, modalities=("text",), queries=QUERIES))


def service(places: Places, calibration: Calibration | None) -> Any:
    """The API over one process, with the segments of the index apart."""
    manifest, model = IndexManifest.read(places.index), read_description(places.model)
    segments = [Segment.load(places.index, manifest, [entry]) for entry in manifest.segments]
    known = {"lexicon": manifest.read_lexicon(places.index), "calibration": calibration}
    opened = open_service(manifest, model.config, model.card, dataset_uri=None, shards=len(segments), **known)
    return build_api(opened, LocalBackend(load(places.model), segments))


@pytest.fixture(scope="module")
def http(salty: Places, calibration: Calibration) -> Iterator[TestClient]:
    with TestClient(service(salty, calibration)) as client:
        yield client


def confidence(http: TestClient, query: dict[str, Any], **options: Any) -> Any:
    response = http.post("/api/search", json={"query": query, **options})
    assert response.status_code == 200, response.text
    return response.json()["query"]["confidence"]


def test_the_calibration_is_stored_with_the_index_and_tells_the_outcomes_apart(salty, calibration):
    stored = Calibration.read(salty.index, IndexManifest.read(salty.index))
    assert stored == calibration
    measured = stored.modalities["text"].reliability
    assert measured.queries > 80
    assert measured.auc > 0.9
    assert measured.brier < 0.6 * measured.brier_constant


def test_the_index_itself_is_not_changed(salty, calibration):
    manifest = IndexManifest.read(salty.index)
    kept = {entry.path for segment in manifest.segments for entry in (segment, segment.words) if entry is not None}
    kept |= {manifest.lexicon.path, "manifest.json", CALIBRATION}
    files = {str(path.relative_to(salty.index)) for path in Path(salty.index).rglob("*") if path.is_file()}
    assert files == kept
    Segment.load(salty.index, manifest)  # compares every checksum


@pytest.mark.parametrize("text", NONSENSE)
def test_a_text_that_no_crystal_answers_gets_a_low_confidence(http, text):
    said = confidence(http, {"text": text})
    assert said["level"] == "low"
    assert said["probability"] < 0.5
    assert "Nothing in this index seems to match well" in said["text"]


@pytest.mark.parametrize("text", GOOD)
def test_a_text_that_crystals_answer_gets_a_higher_confidence(http, text):
    assert confidence(http, {"text": text})["level"] != "low"


def test_a_weak_answer_says_what_was_understood_and_which_words_are_unknown(http):
    said = confidence(http, {"text": "sodium soup with bananas and unicorns"})
    assert said["level"] == "low"
    assert said["unknown_words"] == ["soup", "bananas", "unicorns"]
    assert "Understood: contains Na" in said["text"]
    assert "No description in the index has “soup”, “bananas”, “unicorns”." in said["text"]


def test_more_unknown_words_never_make_an_answer_more_sure(http):
    texts = ["sodium chloride", "sodium chloride soup", "sodium chloride soup bananas unicorns cats and more"]
    likely = [confidence(http, {"text": text})["probability"] for text in texts]
    assert likely == sorted(likely, reverse=True)
    assert likely[0] > likely[2]


def test_a_service_in_shards_is_as_sure_as_the_calibration_in_one_process(salty, http, calibration):
    examiner = Examiner.open(salty.index)
    for text in (*NONSENSE, *GOOD, "cubic salts of potassium and soup"):
        ids, signals = asyncio.run(examiner._ask("text", HeldOutQuery(text, ())))
        answer = http.post("/api/search", json={"query": {"text": text}}).json()
        assert [result["id"] for result in answer["results"]] == ids
        expected = round(calibration.probability("text", signals), 3)
        assert answer["query"]["confidence"]["probability"] == expected


def test_queries_of_other_modalities_and_of_several_parts_claim_nothing(http):
    assert confidence(http, {"formula": "NaCl"}) is None
    assert confidence(http, {"id": "salt/003"}) is None
    assert confidence(http, {"text": "sodium chloride", "formula": "NaCl"}) is None


@pytest.mark.parametrize("options", [{"literal": True}, {"ignore": ["chloride"]}])
def test_words_taken_literally_claim_nothing(http, options):
    assert confidence(http, {"text": "sodium chloride"}) is not None
    assert confidence(http, {"text": "sodium chloride"}, **options) is None


def test_a_structure_is_judged_and_the_id_of_an_indexed_crystal_is_not(salty, calibration):
    fit = Fit(signals=(Signal(name="cosine", mean=0.0, spread=1.0, weight=1.0),), intercept=0.0, queries=100)
    crystal = ModalityCalibration(fit=fit, reliability=calibration.modalities["text"].reliability)
    both = calibration.model_copy(update={"modalities": {**calibration.modalities, "crystal": crystal}})
    with TestClient(service(salty, both)) as client:
        cif = client.get("/api/materials/salt/003/cif").text
        assert confidence(client, {"id": "salt/003"}) is None
        judged = confidence(client, {"cif": cif})
    assert judged["probability"] == pytest.approx(1.0 / (1.0 + np.exp(-1.0)), abs=1e-3)  # its own cosine is 1
    assert judged["unknown_words"] == []


def test_without_results_nothing_is_claimed(http):
    assert confidence(http, {"text": "cubic chlorides"}, filter="nelements=7") is None


def test_without_calibration_nothing_is_claimed(salty):
    with TestClient(service(salty, None)) as client:
        assert confidence(client, {"text": "asdf qwerty"}) is None


def test_crystals_that_a_query_leaves_out_are_not_found(salty):
    examiner = Examiner.open(salty.index)
    query = HeldOutQuery("cubic chlorides", ())
    ids, _ = asyncio.run(examiner._ask("text", query))
    fewer, _ = asyncio.run(examiner._ask("text", HeldOutQuery(query.value, (), tuple(ids[:2]))))
    assert len(ids) == len(fewer) == FIRST
    assert fewer[: FIRST - 2] == ids[2:]


def test_the_same_seed_gives_the_same_calibration(salty, calibration):
    again = main(Calibrate(index=salty.index, modalities=("text",), queries=QUERIES))
    assert again.modalities == calibration.modalities


def test_queries_by_other_modalities_are_calibrated_alike(salty):
    examiner = Examiner.open(salty.index)
    asked = asyncio.run(examiner.ask("composition", 60, 0))
    present = [one for one in asked if not one.query.leave_out]
    absent = [one for one in asked if one.query.leave_out]
    assert all(one.answered for one in present)  # the formula is a condition
    assert not any(one.answered for one in absent)
    assert len(absent) > 15 < len(present)
    assert np.mean([one.signals["found"] for one in present]) > np.mean([one.signals["found"] for one in absent])
    patterns = asyncio.run(examiner.ask("xrd", 16, 0))
    assert all({"cosine", "match"} <= set(one.signals) for one in patterns)
    by_outcome = [[one.signals["match"] for one in patterns if one.answered is is_right] for is_right in (True, False)]
    assert np.mean(by_outcome[0]) > np.mean(by_outcome[1])


def test_a_modality_that_cannot_be_asked_is_refused(salty):
    with pytest.raises(ConfigError, match="no queries by 'dos'; this index can be asked by"):
        main(Calibrate(index=salty.index, modalities=("dos",), queries=QUERIES))


def test_too_few_unseen_materials_are_refused(salty):
    examiner = Examiner.open(salty.index)
    seen = SplitRule(train=1.0, validation=0.0)
    object.__setattr__(examiner, "rule", seen)
    with pytest.raises(DatasetError, match="the model was not trained on"):
        asyncio.run(examiner.ask("text", QUERIES, 0))


def test_a_model_without_a_split_is_refused(places):
    with pytest.raises(ModelError, match="no split"):
        main(Calibrate(index=places.index, queries=QUERIES))


def test_another_model_is_refused(salty, places):
    with pytest.raises(ModelError, match="not the one that made the index"):
        Examiner.open(salty.index, places.model)


# --- the page ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def url(http: TestClient, served: Callable[[Any], AbstractContextManager[str]]) -> Iterator[str]:
    with served(http.app) as address:
        yield address


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_warns_of_a_weak_answer_and_not_of_a_good_one(page_at, url, http, width):
    browser = page_at(url)
    browser.open(width=width)
    browser.search("best recipe for soup")
    expected = confidence(http, {"text": "best recipe for soup"})["text"]
    assert browser.until(".confidence.warning").text == expected
    assert browser.ids()  # the results stay in sight
    assert not browser.scrolls_sideways()
    browser.search("cubic sodium chloride")
    browser.wait(lambda: not browser.all(".confidence.warning"))
    browser.until(".summary")
    assert browser.ids()
    assert not browser.all(".confidence.warning")
    assert browser.errors() == []
