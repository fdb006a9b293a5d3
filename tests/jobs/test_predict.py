"""`crystalign predict`: values with intervals from files, by one model or several, and what cannot be read is named."""

from __future__ import annotations

import json

import pytest

import small_campaign as small
from crystalign.errors import ConfigError, ModelError
from crystalign.finetuning.model.property_model import PropertyModel
from crystalign.finetuning.prediction.predictor import PredictorGroup
from crystalign.finetuning.prediction.records import answers_of
from crystalign.finetuning.trials.config import TrialConfig
from crystalign.finetuning.trials.trial import run_trial
from crystalign_jobs import cli
from crystalign_jobs.predict import read, show

ENERGY = "formation_energy_per_atom_pbe_synthetic_2026"


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, str]:
    """Two heads on the same frozen encoders, a classifier of its own, and a network on descriptors."""
    folder = tmp_path_factory.mktemp("predict")
    data = small.write_dataset(str(folder / "data"))
    aligned = small.write_model(folder / "aligned")
    frozen = small.RECIPE | {"max_epochs": 4, "train": "head"}
    trials = {
        "energy": {"task": {"target": "formation_energy_per_atom"}, "initialisation": aligned, "recipe": frozen},
        "bulk": {"task": {"target": "bulk_modulus_vrh", "transform": "log10"}, "initialisation": aligned}
        | {"recipe": frozen},
        "ionic": {
            "task": {"target": "total_magnetization_per_atom", "kind": "classification", "classes": ["low", "high"]},
            "encoders": {"composition": small.FORMULA},
            "recipe": small.RECIPE | {"max_epochs": 4},
        },
        "table": {"task": {"target": "formation_energy_per_atom"}, "encoders": {"tabular": small.TABLE}}
        | {"recipe": small.RECIPE | {"max_epochs": 4}},
    }
    for name, values in trials.items():
        run_trial(TrialConfig.from_mapping({"data": data, **values}, origin=name), str(folder / name))
        (folder / "models").mkdir(exist_ok=True)
        (folder / name / "model").rename(folder / "models" / name)
    return {name: str(folder / "models" / name) for name in trials}


@pytest.fixture
def cif(tmp_path) -> str:
    place = tmp_path / "KCl.cif"
    place.write_text(small.binary(1, 19, 17, 1.0).crystal.to_pymatgen().to(fmt="cif"))
    return str(place)


def flags(*models: str) -> list[str]:
    return [word for model in models for word in ("--model", model)]


def test_json_lines_hold_what_the_model_says(models, cif, capsys):
    assert cli.main(["predict", *flags(models["energy"]), cif, "--json-lines", "--level", "0.8"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["id"], record["formula"]) == ("KCl.cif", "ClK")
    (answer,) = record["predictions"]
    model = PropertyModel.from_pretrained(models["energy"])
    said = model.predict([small.binary(1, 19, 17, 1.0).crystal], level=0.8)
    assert answer["target"] == ENERGY
    assert answer["value"] == pytest.approx(said.mean[0, 0], abs=1e-3)
    assert answer["lower"] < answer["value"] < answer["upper"]
    assert answer["upper"] == pytest.approx(said.upper[0, 0], abs=1e-3)
    assert answer["out_of_domain"] == pytest.approx(said.out_of_domain[0], abs=1e-2)
    assert (answer["unit"], answer["level"]) == ("eV/atom", 0.8)


def test_several_models_share_the_pass_of_their_frozen_encoders(models, cif, capsys, monkeypatch):
    passes = []
    encode = PropertyModel.encode
    monkeypatch.setattr(PropertyModel, "encode", lambda self, batch: passes.append(1) or encode(self, batch))
    assert cli.main(["predict", *flags(*(models[name] for name in ("energy", "bulk", "ionic"))), cif]) == 0
    out = capsys.readouterr().out
    assert len(passes) == 2
    for words in ("energy", "bulk", "ionic", "Bulk modulus", "P(high)", "90 % interval", "KCl"):
        assert words in out


def test_files_that_cannot_be_used_are_named_and_the_others_predicted(models, cif, tmp_path, capsys):
    (tmp_path / "broken.cif").write_text("data_x\n_cell_length_a 3\n")
    (tmp_path / "notes.txt").write_text("hello")
    wrong = [str(tmp_path / "broken.cif"), str(tmp_path / "notes.txt"), str(tmp_path / "absent.cif")]
    with pytest.raises(SystemExit) as stop:
        cli.main(["predict", *flags(models["energy"]), "--json-lines", *wrong, cif])
    assert stop.value.code == 1
    said = capsys.readouterr()
    assert json.loads(said.out)["formula"] == "ClK"
    for name in ("broken.cif: ", "notes.txt: neither name nor content of 'notes.txt'", "absent.cif: "):
        assert name in said.err
    assert cli.main(["predict", *flags(models["energy"]), wrong[1]]) == 2
    assert "none of the 1 files" in capsys.readouterr().err


def test_what_one_model_cannot_read_the_others_do(models, cif, capsys):
    """Nothing tells the descriptors of the third model, which are not those that `derive` computes."""
    with pytest.raises(SystemExit) as stop:
        cli.main(["predict", *flags(models["energy"], models["table"]), cif, "--json-lines"])
    assert stop.value.code == 1
    said = capsys.readouterr()
    assert [answer["model"] for answer in json.loads(said.out)["predictions"]] == ["energy"]
    assert "KCl.cif: table: " in said.err


def test_a_table_names_the_models_where_any_crystal_has_several(capsys):
    answer = {"label": "gap", "value": 1.0, "lower": None, "upper": None, "out_of_domain": None}
    one, two = ({**answer, "model": name} for name in ("first", "second"))
    show(
        [{"id": "a", "formula": "A", "predictions": [one]}, {"id": "b", "formula": "B", "predictions": [one, two]}], 0.9
    )
    said = capsys.readouterr().out
    assert said.count("first") == 2
    assert "second" in said


def test_what_models_say_does_not_depend_on_who_else_is_asked(models, cif):
    materials, wrong = read([cif, cif], ["composition"], 10.0)
    assert not wrong
    group = PredictorGroup({name: PropertyModel.from_pretrained(models[name]) for name in ("energy", "bulk", "table")})
    found, wrong = answers_of(group, materials)
    assert [len(record["predictions"]) for record in found] == [2, 2]
    assert [number for number, _ in wrong] == [0, 1]
    for record in found:
        for answer in record["predictions"]:
            alone, _ = answers_of(group.only([answer["model"]]), materials[:1])
            assert answer["value"] == pytest.approx(alone[0]["predictions"][0]["value"], abs=1e-6)
    with pytest.raises(ConfigError, match="there is no 'magic'"):
        group.only(["magic"])


def test_a_group_holds_the_same_encoders_once(models):
    group = PredictorGroup({name: PropertyModel.from_pretrained(models[name]) for name in ("energy", "bulk", "ionic")})
    before = group.predict([small.binary(1, 19, 17, 1.0).crystal])
    assert group.share_encoders() == 2
    energy, bulk = group.predictors["energy"], group.predictors["bulk"]
    assert energy.encoders is bulk.encoders
    after = group.predict([small.binary(1, 19, 17, 1.0).crystal])
    assert all((before[name].mean == after[name].mean).all() for name in before)


def test_what_is_no_fine_tuned_model_is_refused(models, cif, tmp_path, capsys):
    assert cli.main(["predict", "--model", str(tmp_path), cif]) == 2
    assert "no fine-tuned model at" in capsys.readouterr().err
    assert cli.main(["predict", *flags(models["energy"])]) == 2
    assert "at least one file" in capsys.readouterr().err
    from crystalign_jobs.predict import Predict, main

    with pytest.raises(ModelError):
        main(Predict(files=(cif,), model=(str(tmp_path / "nothing"),)))
