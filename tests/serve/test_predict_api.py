"""Fine-tuned models behind the API: values with intervals, and what cannot be read is named and the rest answered."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient

from crystalign.errors import ConfigError, ModelError, QueryError
from crystalign.finetuning.model.property_model import PropertyModel
from crystalign.finetuning.trials.ensemble import find_predictors
from crystalign.material import Material, Provenance
from crystalign_serve import predict_api, predictions
from crystalign_serve.client import Client
from crystalign_serve.launch import ServeArgs, app
from crystalign_serve.predict_api import build_predict_api
from crystalign_serve.predictions import (
    LocalPredictors,
    PredictJob,
    complete,
    find_models,
    load_group,
    predict_jobs,
)
from crystalign_serve.requests import MAX_STRUCTURES

GAP = "band_gap_pbe_test_1"
NAMES = ["by-formula", "by-pattern", "by-spectrum"]


@pytest.fixture(scope="module")
def alone(models) -> Iterator[TestClient]:
    """Without an index."""
    found, described = find_models(models)
    with TestClient(build_predict_api(described, LocalPredictors(found))) as client:
        yield client


def through(client: TestClient) -> httpx.BaseTransport:
    """Requests of our client to the application of this process."""

    def pass_on(request: httpx.Request) -> httpx.Response:
        answer = client.request(request.method, str(request.url), content=request.read(), headers=request.headers)
        return httpx.Response(answer.status_code, content=answer.content, headers=answer.headers)

    return httpx.MockTransport(pass_on)


def ask(client, structures, **options):
    return client.post("/api/predict", json={"structures": structures, **options})


def test_the_service_says_what_the_model_says(alone, models, materials):
    crystals = [material.crystal for material in materials[:3]]
    structures = [{"cif": crystals[0].to_cif()}, *({"poscar": crystal.to_poscar()} for crystal in crystals[1:])]
    answer = ask(alone, structures, models=["by-formula"], level=0.8)
    assert answer.status_code == 200, answer.text
    said = PropertyModel.from_pretrained(f"{models}/by-formula").predict(crystals, level=0.8)
    results = answer.json()["results"]
    assert [result["id"] for result in results] == ["structure 1", "structure 2", "structure 3"]
    for row, result in enumerate(results):
        (one,) = result["predictions"]
        assert (one["model"], one["target"], one["unit"], one["level"]) == ("by-formula", GAP, "eV", 0.8)
        assert one["value"] == pytest.approx(said.mean[row, 0], abs=1e-5)
        assert one["lower"] == pytest.approx(said.lower[row, 0], abs=1e-5)
        assert one["upper"] == pytest.approx(said.upper[row, 0], abs=1e-5)
        assert one["out_of_domain"] == pytest.approx(said.out_of_domain[row], abs=1e-4)


def test_what_follows_from_the_structure_is_derived_and_what_does_not_is_named(alone, materials):
    (result,) = ask(alone, [{"cif": materials[0].crystal.to_cif()}]).json()["results"]
    assert [one["model"] for one in result["predictions"]] == ["by-formula", "by-pattern"]
    (problem,) = result["problems"]
    assert problem.startswith("by-spectrum: ")
    assert "dos" in problem


def test_a_material_of_the_index_brings_all_that_is_known_of_it(beside, models, materials):
    found = beside.get(f"/api/materials/{materials[7].id}/predictions").json()["results"][0]
    assert found["id"] == materials[7].id
    assert [one["model"] for one in found["predictions"]] == NAMES
    assert not found["problems"]
    said = PropertyModel.from_pretrained(f"{models}/by-spectrum").predict([materials[7]])
    assert found["predictions"][2]["value"] == pytest.approx(said.mean[0, 0], abs=1e-4)
    by_id = ask(beside, [{"id": materials[7].id}], models=["by-spectrum"]).json()["results"][0]
    assert by_id["predictions"] == [found["predictions"][2]]
    assert beside.get(f"/api/materials/{materials[7].id}").json()["predicted_by"] == NAMES
    assert [model["name"] for model in beside.get("/api/info").json()["models"]] == NAMES
    assert beside.get("/api/materials/nowhere/predictions").status_code == 404
    both = ask(beside, [{"id": "nowhere"}, {"id": materials[7].id}], models=["by-formula"]).json()["results"]
    assert [len(result["predictions"]) for result in both] == [0, 1]
    assert "nowhere" in both[0]["problems"][0]


def test_a_broken_structure_is_named_and_the_others_answered(alone, materials):
    good, bad = {"cif": materials[0].crystal.to_cif()}, {"cif": "data_x\n_cell_length_a 3\n"}
    results = ask(alone, [bad, good], models=["by-formula"]).json()["results"]
    assert (results[0]["formula"], results[0]["predictions"]) == (None, [])
    assert results[0]["problems"]
    assert results[1]["predictions"]
    refused = ask(alone, [bad])
    assert refused.status_code == 422
    assert "structure 1" in refused.json()["errors"][0]["detail"]


def test_what_is_remarked_of_a_file_stands_beside_its_predictions(alone):
    """Brucite from X-rays: the file states Mg(OH)2 and has no coordinates for hydrogen."""
    lines = ["data_brucite", "_chemical_formula_sum 'H2 Mg O2'", "_cell_length_a 3.142", "_cell_length_b 3.142"]
    lines += ["_cell_length_c 4.766", "_cell_angle_alpha 90", "_cell_angle_beta 90", "_cell_angle_gamma 120"]
    lines += ["_space_group_name_H-M_alt 'P -3 m 1'", "loop_", "_atom_site_label", "_atom_site_type_symbol"]
    lines += ["_atom_site_fract_x", "_atom_site_fract_y", "_atom_site_fract_z"]
    lines += ["Mg1 Mg 0 0 0", "O1 O 0.333333 0.666667 0.2203"]
    (result,) = ask(alone, [{"cif": "\n".join(lines)}], models=["by-formula"]).json()["results"]
    assert result["predictions"]
    assert any("hydrogen" in remark.lower() or "H" in remark for remark in result["remarks"])


def test_files_are_answered_by_their_names(alone, materials):
    files = [
        ("file", ("a.cif", materials[0].crystal.to_cif())),
        ("file", ("POSCAR", materials[1].crystal.to_poscar())),
        ("file", ("dos.csv", "-1.0,2.0\n0.0,1.0\n")),
    ]
    answer = alone.post("/api/predict/file", files=files, data={"models": ["by-formula"], "level": "0.5"})
    assert answer.status_code == 200, answer.text
    results = answer.json()["results"]
    assert [result["id"] for result in results] == ["a.cif", "POSCAR", "dos.csv"]
    assert [len(result["predictions"]) for result in results] == [1, 1, 0]
    assert "not a structure" in results[2]["problems"][0]
    assert results[0]["predictions"][0]["level"] == 0.5


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"structures": []}, "structures"),
        ({"structures": [{"cif": "x"}] * (MAX_STRUCTURES + 1)}, str(MAX_STRUCTURES)),
        ({"structures": [{}]}, "exactly one of cif, poscar and id, not 0"),
        ({"structures": [{"cif": "x", "poscar": "y"}]}, "not 2"),
        ({"structures": [{"cif": "x"}], "level": 0.99}, "0.95"),
        ({"structures": [{"cif": "x"}], "models": ["by-magic"]}, "by-formula, by-pattern, by-spectrum"),
        ({"structures": [{"id": "salt/01"}]}, "no index"),
        ({"structures": [{"cif": "x"}], "colour": "red"}, "colour"),
    ],
)
def test_mistakes_are_told(alone, body, words):
    answer = alone.post("/api/predict", json=body)
    assert answer.status_code == 422
    assert words in json.dumps(answer.json(), ensure_ascii=False)


def test_a_service_without_an_index_says_what_it_has(alone):
    info = alone.get("/api/info").json()
    assert [model["name"] for model in info["models"]] == NAMES
    model = info["models"][0]
    assert model["targets"] == [{"key": GAP, "label": "Band gap (eV), PBE", "unit": "eV"}]
    assert (model["reads"], model["licences"]) == (["composition"], ["CC-BY-4.0"])
    assert alone.get("/api/health").json() == {"status": "ok"}
    assert "Crystalign" in alone.get("/").text


def test_the_client_predicts_for_structures_of_any_kind(beside, materials, tmp_path):
    (tmp_path / "a.cif").write_text(materials[0].crystal.to_cif())
    kinds = [materials[0].id, tmp_path / "a.cif", materials[0].crystal, materials[0].crystal.to_pymatgen()]
    with Client("http://testserver", transport=through(beside)) as client:
        found = client.predict(kinds, models=["by-formula"])
        values = [result["predictions"][0]["value"] for result in found]
        assert values == pytest.approx([values[0]] * 4, abs=1e-4)
        with pytest.raises(QueryError, match="by-magic"):
            client.predict([materials[0].id], models=["by-magic"])


def test_what_is_not_derived_in_time_is_named(alone, materials, monkeypatch):
    monkeypatch.setattr(predictions, "DERIVE_SECONDS", 0.0)
    refused = ask(alone, [{"cif": materials[0].crystal.to_cif()}], models=["by-pattern"])
    assert refused.status_code == 422
    assert "xrd: not computed within 0 s" in refused.text


def test_requests_of_a_batch_do_not_pay_for_each_other(models, materials):
    group = load_group(find_predictors(models))
    asked = ("by-formula", "by-spectrum")
    bare = [Material(f"bare {n}", material.crystal, Provenance("", "")) for n, material in enumerate(materials[:2])]
    jobs = [PredictJob((bare[0],), asked, 0.9), PredictJob((materials[7], bare[1]), asked, 0.9)]
    jobs.append(PredictJob((materials[7],), ("by-formula",), 0.5))
    together = predict_jobs(group, [complete(group, job) for job in jobs])
    for job, answers in zip(jobs, together, strict=True):
        (alone,) = predict_jobs(group, [complete(group, job)])
        assert [[one["model"] for one in answer.predictions] for answer in answers] == [
            [one["model"] for one in answer.predictions] for answer in alone
        ]
        for mine, theirs in zip(answers, alone, strict=True):
            assert mine.problems == theirs.problems
            values = [[one["value"] for one in answer.predictions] for answer in (mine, theirs)]
            assert values[0] == pytest.approx(values[1], abs=1e-5)
    assert [len(answer.predictions) for answers in together for answer in answers] == [1, 2, 1, 1]


def test_models_that_take_too_long_are_unavailable(alone, materials, monkeypatch):
    monkeypatch.setattr(predict_api, "PREDICT_SECONDS", 0.0)
    assert ask(alone, [{"cif": materials[0].crystal.to_cif()}]).status_code == 503


def test_equal_encoders_are_held_once(models, tmp_path):
    import shutil

    shutil.copytree(f"{models}/by-formula", tmp_path / "one")
    shutil.copytree(f"{models}/by-formula", tmp_path / "two")
    shutil.copytree(f"{models}/by-pattern", tmp_path / "three")
    group = load_group(find_predictors(str(tmp_path)))
    one, three, two = (group.predictors[name] for name in ("one", "three", "two"))
    assert one.encoders is two.encoders
    assert one.encoders is not three.encoders


def test_a_folder_without_models_is_refused(tmp_path, models):
    with pytest.raises(ModelError, match="no fine-tuned model at"):
        find_predictors(str(tmp_path))
    assert find_predictors(f"{models}/by-formula") == {"by-formula": f"{models}/by-formula"}
    with pytest.raises(ConfigError, match="nothing to serve"):
        app(ServeArgs())
    with pytest.raises(ConfigError, match="there is none: give --index"):
        app(ServeArgs(predictors=models, dataset="somewhere"))
    assert Path(models).is_dir()
