"""A modality of another package is stored, encoded and asked for everywhere, and nothing of Crystalign names it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient

from crystalign.batch import make_batch
from crystalign.encoders import ENCODERS
from crystalign.errors import ConfigError
from crystalign.index.build import build_index
from crystalign.index.manifest import IndexManifest
from crystalign.index.search import Segment
from crystalign.material import Material
from crystalign.modalities import MODALITIES, modality_class
from crystalign.modalities.modality import Modality
from crystalign.model import Model, load
from crystalign.model_config import ModalitySpec, ModelCard, ModelConfig
from crystalign.model_description import read_description
from crystalign.shards.dataset import Dataset
from crystalign.shards.writer import commit_manifest, write_shard
from crystalign.training.config import PretrainConfig
from crystalign.training.loop import train
from crystalign_serve.query_fields import request_fields
from outside_package import install

HERE = Path(__file__).parent
NAME = "raman"
SHIFTS = np.arange(100.0, 1700.0, 4.0)
STEPS = 20
MAX_WAITING = 7
"""Of this service's sandbox; a number that no other has, for services with equal limits share their processes."""


def spectrum(number: int) -> Any:
    """One peak, which stands elsewhere for every material."""
    peak = np.exp(-(((SHIFTS - 200.0 - 30.0 * number) / 15.0) ** 2)) + 0.01
    from raman_modality import RamanSpectrum

    return RamanSpectrum(SHIFTS, peak)


def as_json(number: int) -> dict[str, Any]:
    value = spectrum(number)
    return {"shifts": value.shifts.tolist(), "intensities": value.intensities.tolist()}


def as_table(number: int) -> str:
    value = spectrum(number)
    rows = zip(value.shifts.tolist(), value.intensities.tolist(), strict=True)
    return "# Raman shift, counts\n" + "\n".join(f"{x} {y}" for x, y in rows)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The modality and its network as two installed packages, on the path of this process and of its children."""
    folder = tmp_path_factory.mktemp("site")
    install(folder, HERE / "raman_modality.py", "crystalign.modalities", NAME, "RamanModality")
    install(folder, HERE / "raman_network.py", "crystalign.encoders", "raman-layer", "ENTRY")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep))
        refresh()
        yield
    for module in ("raman_modality", "raman_network"):
        sys.modules.pop(module, None)
    refresh()


def refresh() -> None:
    MODALITIES.refresh()
    ENCODERS.refresh()


@pytest.fixture(scope="module")
def known(package: None, materials: list[Material]) -> list[Material]:
    """Eight salts with a Raman spectrum."""
    return [
        replace(material, modalities={**material.modalities, NAME: spectrum(number)})
        for number, material in enumerate(materials[:8])
    ]


def trained(config: ModelConfig, known: list[Material], uri: str) -> list[float]:
    """Train a model for a few steps, write it, and return its losses."""
    torch.manual_seed(0)
    model, records = Model(config), list[dict[str, float]]()
    settings = PretrainConfig(data="none", out="none", model=config, batch_size=len(known), log_every_steps=1)
    batch = make_batch(known, model.modalities)
    train(settings, model, [batch] * STEPS, total_steps=STEPS, on_log=records.append)
    model.save_pretrained(uri, ModelCard(name="raman", steps=STEPS))
    return [record["loss"] for record in records]


@pytest.fixture(scope="module")
def app(known: list[Material], embed_crystals: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A service over a dataset, a model and an index of them."""
    from crystalign_serve.api import build_api
    from crystalign_serve.backend import LocalBackend
    from crystalign_serve.sandbox.limits import SandboxLimits
    from crystalign_serve.service import open_service

    folder = tmp_path_factory.mktemp("raman")
    data, model_uri, index = (str(folder / name) for name in ("data", "model", "index"))
    gap = next(iter(known[1].properties))
    commit_manifest(data, [write_shard(data, "part-0", known, [gap], rows_per_group=8)], [gap])
    config = ModelConfig(
        embedding_dim=16,
        modalities={
            "crystal": ModalitySpec(encoder="gated-graph", options={"hidden": 8, "layers": 1}),
            NAME: ModalitySpec(encoder="raman-layer"),
        },
    )
    losses = trained(config, known, model_uri)
    embed_crystals(load(model_uri), data, model_uri, str(folder / "embeddings"))
    build_index(str(folder / "embeddings"), index, rows_per_segment=10)
    manifest, described = IndexManifest.read(index), read_description(model_uri)
    segments = [Segment.load(index, manifest, [entry]) for entry in manifest.segments]
    service = open_service(manifest, described.config, described.card, dataset_uri=None, shards=len(segments))
    backend = LocalBackend(load(model_uri), segments)
    made = build_api(service, backend, sandbox=SandboxLimits(waiting=MAX_WAITING))
    made.state.data, made.state.losses = data, losses
    return made


@pytest.fixture(scope="module")
def asked(app: Any) -> Iterator[TestClient]:
    with TestClient(app) as client:
        yield client


@pytest.fixture(scope="module")
def url(app: Any, served: Any) -> Iterator[str]:
    with served(app) as address:
        yield address


def results(response: Any) -> list[tuple[str, float]]:
    assert response.status_code == 200, response.text
    return [(result["id"], result["score"]) for result in response.json()["results"]]


def test_a_dataset_keeps_it_and_older_datasets_still_open(app: Any, known: list[Material], places: Any) -> None:
    stored = next(iter(Dataset.open(app.state.data).materials([NAME])))
    np.testing.assert_allclose(stored.value(NAME).intensities.argmax(), 4, atol=1)
    assert next(iter(Dataset.open(places.dataset).materials([NAME]))).value(NAME) is None


def test_a_model_learns_from_it(app: Any) -> None:
    assert len(app.state.losses) == STEPS
    assert app.state.losses[-1] < 0.95 * app.state.losses[0]


def test_json_and_a_file_ask_the_same_question(asked: TestClient) -> None:
    plain = asked.post("/api/search", json={"query": {NAME: as_json(3)}, "k": 8})
    assert plain.json()["query"]["modalities"] == [NAME]
    assert plain.json()["query"]["curve"]["x_label"] == "Raman shift (cm⁻¹)"
    for name in ("sample.rmn", "sample.txt"):  # told by its ending, and by its header
        sent = asked.post("/api/search/file", files={"file": (name, as_table(3))}, data={"k": "8"})
        assert results(sent) == results(plain)
        assert sent.json()["query"]["notices"] == ["shifts were read in cm⁻¹"]
    assert results(asked.post("/api/search", json={"query": {NAME: as_json(7)}, "k": 8})) != results(plain)


def test_it_mixes_with_a_structure_by_weights(asked: TestClient, known: list[Material]) -> None:
    query = {"cif": known[2].crystal.to_cif(), NAME: as_json(2)}
    mixed = asked.post("/api/search", json={"query": query, "weights": {"crystal": 1.0, NAME: 1e-6}, "k": 1})
    assert results(mixed)[0][0] == known[2].id


def test_a_bad_query_and_a_bad_file_are_refused_in_its_words(asked: TestClient) -> None:
    uneven = asked.post("/api/search", json={"query": {NAME: {"shifts": [1.0], "intensities": [1.0, 2.0]}}})
    assert uneven.status_code == 422
    assert "shifts" in uneven.text
    bad = asked.post("/api/search/file", files={"file": ("a.rmn", "no numbers")})
    assert bad.status_code == 422
    assert "is no table of two columns" in bad.text
    unknown = asked.post("/api/search/file", files={"file": ("a.bin", b"\x00")})
    assert "choose its kind: cif, poscar, dos, xrd, raman" in unknown.json()["errors"][0]["detail"]


def test_the_service_and_its_openapi_document_describe_it(asked: TestClient) -> None:
    entry = {found["name"]: found for found in asked.get("/api/info").json()["modalities"]}[NAME]
    assert (entry["label"], entry["accepts"], entry["queryable"]) == ("Raman spectrum", ["file"], True)
    assert entry["query"]["files"]["suffixes"] == [".rmn"]
    schemas = asked.get("/openapi.json").json()["components"]["schemas"]
    assert schemas["Query"]["properties"][NAME]["description"] == "A Raman spectrum."
    assert set(schemas["RamanQuery"]["properties"]) == {"shifts", "intensities"}


def test_its_example_works(asked: TestClient) -> None:
    examples = {found["label"]: found["request"] for found in asked.get("/api/info").json()["example_queries"]}
    assert results(asked.post("/api/search", json=examples["A peak like silicon's"]))


def test_a_material_draws_its_curve(asked: TestClient, known: list[Material]) -> None:
    curve = asked.get(f"/api/materials/{known[1].id}/curve/{NAME}").json()
    assert curve["kind"] == NAME
    assert curve["x"][int(np.argmax(curve["y"]))] == pytest.approx(230.0, abs=15.0)
    missing = asked.get(f"/api/materials/{known[1].id}/curve/smell").json()["errors"][0]["detail"]
    assert missing == "no curve 'smell'; available: dos, xrd, raman"


def test_the_command_takes_its_file(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from crystalign_jobs.cli import main

    (tmp_path / "sample.rmn").write_text(as_table(3), encoding="utf-8")
    assert main(["search", "--raman", str(tmp_path / "sample.rmn"), "--k", "3", "--url", url, "--json-output"]) == 0
    assert len(json.loads(capsys.readouterr().out)["results"]) == 3
    with pytest.raises(SystemExit):
        main(["search", "--help"])
    assert "File with a Raman spectrum" in " ".join(capsys.readouterr().out.split())


def test_the_client_takes_a_path_a_value_and_a_mapping(url: str, tmp_path: Path) -> None:
    from crystalign_serve.client import Client

    (tmp_path / "sample.rmn").write_text(as_table(5), encoding="utf-8")
    with Client(url) as client:
        answers = [client.search(raman=value) for value in (tmp_path / "sample.rmn", spectrum(5), as_json(5))]
        assert len({tuple(hit.id for hit in answer) for answer in answers}) == 1
        with pytest.raises(TypeError, match="no part 'smell'; available: cif, dos, xrd, raman, text, formula, id"):
            client.search(smell="x")


def test_the_page_offers_reads_and_draws_it(url: str, page_at: Callable[[str], Any]) -> None:
    page = page_at(url)
    page.open()
    assert "Raman (.rmn)" in page.until("#drop-hint").text
    assert ".rmn" in page.until("#file").get_attribute("accept").split(",")
    page.drop("sample.rmn", as_table(3))
    page.until(".card[data-id]")
    choices = page.all(".part select.chip option")
    assert [one.text for one in choices] == ["structure", "DOS", "XRD", "Raman", "file"]
    assert [one.text for one in choices if one.is_selected()] == ["Raman"]
    page.until(".card .open").click()
    page.wait(lambda: "Raman spectrum" in [heading.text for heading in page.all("#detail h3")])
    page.until(".plot .series.asked")
    link = page.driver.current_url.removeprefix(url)
    page.open(link)
    assert "sample.rmn" in page.until(".part").text
    page.until(".card[data-id]")
    assert page.errors() == []


@pytest.mark.parametrize(("taken", "owner"), [("xrd", "xrd"), ("filter", "every search")])
def test_a_name_that_is_taken_is_refused(taken: str, owner: str) -> None:
    spec = modality_class("xrd").query
    assert spec is not None
    field = replace(spec.fields[0], name=taken)
    cls = type("Other", (modality_class("xrd"),), {"name": "other", "query": replace(spec, fields=(field,))})
    assert issubclass(cls, Modality)
    MODALITIES.register("other", cls)
    try:
        with pytest.raises(ConfigError, match=f"'{taken}', which {owner} already uses"):
            request_fields()
    finally:
        MODALITIES.unregister("other")
