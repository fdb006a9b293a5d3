"""`crystalign predict --data`: a dataset gets what single crystals get, and its predictions become columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import small_campaign as small
from crystalign.errors import ConfigError, ModelError
from crystalign.finetuning.model.property_model import PropertyModel
from crystalign.finetuning.trials.config import TrialConfig
from crystalign.finetuning.trials.trial import run_trial
from crystalign.index.build import build_index
from crystalign.index.predictions import PROBLEM, PredictionManifest
from crystalign.index.search import Segment
from crystalign.shards.dataset import Dataset
from crystalign_jobs import cli, prediction
from crystalign_jobs.embed import Embed, embed

pytestmark = pytest.mark.usefixtures("ray_session")

ENERGY = "formation_energy_per_atom_pbe_synthetic_2026"
BULK = "bulk_modulus_vrh_pbe_synthetic_2026"


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> dict[str, str]:
    """A dataset, an aligned model, and two fine-tuned ones with the same frozen encoders."""
    folder = tmp_path_factory.mktemp("predict")
    data, aligned = small.write_dataset(str(folder / "data")), small.write_model(folder / "aligned")
    recipe = small.RECIPE | {"max_epochs": 2, "train": "head"}
    for name, target in (("energy", "formation_energy_per_atom"), ("bulk", "bulk_modulus_vrh")):
        values = {"data": data, "task": {"target": target}, "initialisation": aligned, "recipe": recipe}
        run_trial(TrialConfig.from_mapping(values, origin=name), str(folder / "trial" / name))
        (folder / "models").mkdir(exist_ok=True)
        (folder / "trial" / name / "model").rename(folder / "models" / name)
    models = {name: str(folder / "models" / name) for name in ("energy", "bulk")}
    return {"data": data, "aligned": aligned, **models}


def command(places: dict[str, str], out: Path | str, *more: str) -> list[str]:
    models = ["--model", places["energy"], "--model", places["bulk"]]
    return ["predict", *models, "--data", places["data"], "--out", str(out), "--rows-per-file", "16", *more]


@pytest.fixture(scope="module")
def made(ray_session: None, places: dict[str, str], tmp_path_factory) -> str:
    out = str(tmp_path_factory.mktemp("made") / "predictions")
    assert cli.main(command(places, out)) == 0
    return out


def table_of(uri: str) -> dict[str, dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    for entry in PredictionManifest.read(uri).files:
        rows |= {row["id"]: row for row in pq.read_table(Path(uri, entry.path)).to_pylist()}
    return rows


def test_every_row_has_what_the_model_says_of_its_crystal_alone(made, places):
    rows, dataset = table_of(made), Dataset.open(places["data"])
    assert len(rows) == len(dataset) == PredictionManifest.read(made).rows
    materials = list(dataset.materials())
    for name, target in (("energy", ENERGY), ("bulk", BULK)):
        model = PropertyModel.from_pretrained(places[name])
        for material in materials[:: len(materials) // 12]:
            said, row = model.predict([material]), rows[material.id]
            assert row[f"predicted_{target}"] == pytest.approx(said.mean[0, 0], rel=1e-4, abs=1e-4)
            assert row[f"predicted_{target}_lower"] == pytest.approx(said.lower[0, 0], rel=1e-3, abs=1e-3)
            assert row[f"predicted_{target}_upper"] == pytest.approx(said.upper[0, 0], rel=1e-3, abs=1e-3)
            assert row[f"predicted_{target}_out_of_domain"] == pytest.approx(said.out_of_domain[0], rel=1e-2)
            assert row[PROBLEM] is None


def test_the_files_follow_the_order_of_the_dataset(made, places):
    manifest, dataset = PredictionManifest.read(made), Dataset.open(places["data"])
    assert len(manifest.files) > 2
    ids = [row for entry in manifest.files for row in pq.read_table(Path(made, entry.path))["id"].to_pylist()]
    assert ids == dataset.table(["id"])["id"].to_pylist()
    assert [spec.model for spec in manifest.predictions] == ["energy", "bulk"]


def test_an_interrupted_job_keeps_its_files_and_ends_with_the_same(made, places, tmp_path):
    out = tmp_path / "again"
    assert cli.main(command(places, out)) == 0
    (out / "manifest.json").unlink()
    kept, damaged, lost = sorted((out / "predictions").glob("*.parquet"))[:3]
    damaged.write_bytes(damaged.read_bytes()[:-1])
    lost.unlink()
    written = kept.stat().st_mtime_ns
    assert cli.main(command(places, out)) == 0
    assert kept.stat().st_mtime_ns == written
    assert PredictionManifest.read(str(out)) == PredictionManifest.read(made)
    assert cli.main(command(places, out)) == 0, "what is complete is not made again"


def test_other_models_or_another_level_do_not_mix_with_what_is_there(made, places, tmp_path, capsys):
    assert cli.main(command(places, made, "--level", "0.8")) == 2
    assert cli.main(command(places, made, "--max-seconds", "7")) == 2
    assert cli.main(["predict", "--model", places["bulk"], "--data", places["data"], "--out", made]) == 2
    assert "already holds predictions by other models" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="both predict"):
        prediction.predicted_properties({"one": places["energy"], "two": places["energy"]}, 0.9)
    with pytest.raises(ConfigError, match="not calibrated"):
        prediction.predicted_properties({"one": places["energy"]}, 0.77)
    with pytest.raises(ModelError):
        prediction.predicted_properties({"one": str(tmp_path)}, 0.9)


@pytest.mark.parametrize("words", [["NaCl.cif", "--data", "d", "--out", "o"], ["--data", "d"], ["--out", "o"], []])
def test_files_and_a_dataset_are_not_given_together(words, places, capsys):
    assert cli.main(["predict", "--model", places["energy"], *words]) == 2
    assert "crystalign predict --model DIR" in capsys.readouterr().err


def test_predictions_become_fields_of_the_index(made, places, tmp_path):
    embeddings = str(tmp_path / "embeddings")
    embed(Embed(model=places["aligned"], data=places["data"], out=embeddings, rows_per_file=16))
    manifest = build_index(embeddings, str(tmp_path / "index"), predictions=[made])
    segment, rows = Segment.load(str(tmp_path / "index"), manifest), table_of(made)
    values = np.array([row[f"predicted_{BULK}"] for row in rows.values()])
    bound = float(np.median(values))
    (found,) = segment.search(
        np.ones((1, manifest.dimension)), len(rows), f"_crystalign_predicted_bulk_modulus_vrh > {bound!r}"
    )
    assert set(found.ids) == {name for name, row in rows.items() if row[f"predicted_{BULK}"] > bound}
    assert 0 < len(found.ids) < len(rows)
    known = segment.records(np.arange(len(rows)))
    assert all(record[f"predicted_{ENERGY}"] != record[ENERGY] for record in known if record[ENERGY] is not None)
