"""The table, the figure and the best models of a campaign follow from its results, without a cluster."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest

import small_campaign as small
from crystalign import storage
from crystalign.finetuning.trials.config import TrialConfig, TrialResult
from crystalign.finetuning.trials.trial import run_trial
from crystalign_jobs.campaign.best_models import best_of, write_best
from crystalign_jobs.campaign.grid import expand
from crystalign_jobs.campaign.report import parquet, report
from crystalign_jobs.campaign.results import choose
from crystalign_jobs.campaign.search import best_of_search, samples, studies
from crystalign_jobs.campaign.store import claim, failures_of, split_by_state, stored_settings, trial_uri, write_failure
from small_campaign import FORMULA, RECIPE, TABLE, settings

TARGET = "formation_energy_per_atom_pbe_synthetic_2026"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    return small.write_dataset(str(tmp_path_factory.mktemp("campaign") / "data"))


@pytest.fixture
def campaign(data, tmp_path):
    return lambda **changes: settings(data, tmp_path, **changes)


def made(config: TrialConfig, validation: float, test: float, **changes) -> TrialResult:
    values = {
        "format": 1,
        "id": config.id,
        "config": config,
        "dataset_sha256": "0",
        "sizes": {"train": 50, "validation": 20, "test": 20},
        "metrics": {TARGET: {"mae": test, "scaled_mae": test / 2, "rmse": test, "scaled_by_median": test / 2}},
        "validation": {TARGET: {"mae": validation, "scaled_mae": validation / 2}},
        "ended": "epochs",
        "files": (),
    }
    return TrialResult.model_validate(values | changes)


def test_the_best_sample_gets_the_other_seeds(campaign):
    entries = expand(campaign(search={"samples": 3}, seeds=(5, 6, 7)))
    networks = [entry for entry in entries if not entry.config.constant]
    results = {entry.config.id: made(entry.config, 1.0 + k, 1.0) for k, entry in enumerate(networks)}
    found = best_of_search(entries, results, (5, 6, 7))
    assert [(entry.config.lr, entry.config.seed) for entry in found] == [
        (networks[0].config.lr, 6),
        (networks[0].config.lr, 7),
    ]


def test_the_learning_rate_is_chosen_on_the_validation_part_never_on_the_test(campaign):
    entries = [entry for entry in expand(campaign()) if not entry.config.constant]
    results = {}
    for _, config in entries:
        better_there = config.lr == 1e-3
        results[config.id] = made(config, 0.5 if better_there else 0.6, 9.0 if better_there else 0.1)
    chosen = choose(entries, results, 2)[entries[0].cell]
    assert {result.config.lr for result in chosen.values()} == {1e-3}
    lost = next(entry.config for entry in entries if (entry.config.lr, entry.config.seed) == (1e-3, 1))
    del results[lost.id]
    chosen = choose(entries, results, 2)[entries[0].cell]
    assert {result.config.lr for result in chosen.values()} == {1e-2}, "a mean over fewer seeds is another quantity"


@pytest.fixture(scope="module")
def told(data, tmp_path_factory):
    """Three rows at two numbers of labels, run here and now, one trial failed."""
    out = tmp_path_factory.mktemp("told")
    asked = settings(
        data,
        out,
        tasks={"energy": {"target": "formation_energy_per_atom"}, "bulk": {"target": "bulk_modulus_vrh"}},
        initialisations={
            "median": "median",
            "scratch": {"encoders": {"composition": FORMULA}},
            "descriptors": {"encoders": {"tabular": TABLE}},
        },
        n_labels=(30, "all"),
        learning_rates=(1e-2,),
        require=("tabular",),
        recipe=RECIPE | {"max_epochs": 4},
    )
    run = f"{out}/campaign"
    entries = expand(asked)
    failed = entries[-1].config
    for entry in entries[:-1]:
        run_trial(entry.config, trial_uri(run, entry.config))
    write_failure(trial_uri(run, failed), failed, ValueError("the furnace | is cold"))
    results, missing = split_by_state(run, entries)
    found = report(asked, run, entries, results, failures_of(run, missing))
    return SimpleNamespace(run=run, entries=entries, results=results, report=found)


def test_rows_have_means_over_seeds_and_gains_over_the_baseline(told):
    found, entries = told.report, told.entries
    rows = {(row.cell.task, row.cell.initialisation, row.cell.n_labels): row for row in found.rows}
    assert len(rows) == 2 * 3 * 2
    row, base = rows["energy", "descriptors", None], rows["energy", "scratch", None]
    errors = {s: r.metrics[TARGET]["mae"] for s, r in row.results.items()}
    assert row.error.mean == pytest.approx(np.mean(list(errors.values())))
    assert row.error.std == pytest.approx(np.std(list(errors.values()), ddof=1))
    differences = [errors[s] - base.results[s].metrics[TARGET]["mae"] for s in (0, 1)]
    assert row.gain.mean == pytest.approx(np.mean(differences))
    assert row.gain.n == 2
    assert row.gain_formulas.n > 5
    assert row.gain_formulas.test == "wilcoxon"
    assert base.gain is None
    assert rows["energy", "median", None].gain.n == 2, "a constant stands beside every seed"
    assert found.trials == len(entries) - 1
    assert [why for _, why in found.failures] == ["ValueError: the furnace | is cold"]


def test_the_files_hold_the_table_the_figure_and_the_reasons(told):
    run, entries, results = told.run, told.entries, told.results
    text = (Path(run) / "results.md").read_text()
    assert "## energy: Formation energy (eV/atom), PBE" in text
    assert "## bulk: Bulk modulus (VRH) (GPa), PBE" in text
    assert text.count("| descriptors | tabular |") == 4
    assert "1 of 2" in text, "a row with a seed that failed says so"
    assert "the furnace \\| is cold" in text
    assert "crystalign predict --model" in text
    png = (Path(run) / "figure.png").read_bytes()
    assert png.startswith(b"\x89PNG")
    page = (Path(run) / "results.html").read_text()
    assert page.count("<table>") == 3
    assert "<svg" in page
    assert "<script" not in page
    assert 'src="http' not in page
    table = pq.read_table(io.BytesIO((Path(run) / "results.parquet").read_bytes())).to_pylist()
    assert len(table) == len(entries) - 1
    assert {row["id"] for row in table} == set(results)
    assert all(row["config/task.target"] and row["size/train"] for row in table)
    assert pq.read_table(io.BytesIO(parquet(entries, {}))).num_rows == 0


def test_the_best_model_of_each_task_is_a_model_directory(told):
    from crystalign.finetuning.model.property_model import PropertyModel

    run, entries, results, found = told.run, told.entries, told.results, told.report
    assert set(found.best) == {"energy", "bulk"}
    assert found.best["energy"] == f"{run}/best/energy"
    model = PropertyModel.from_pretrained(found.best["energy"])
    assert model.targets == (TARGET,)
    assert (Path(run) / "best" / "energy" / "README.md").is_file()
    full = [r for e in entries if (r := results.get(e.config.id)) and e.cell.task == "energy" and r.score is not None]
    assert model.card.name in {r.id for r in full if r.config.n_labels is None}


def test_all_seeds_together_are_a_predictor_with_intervals_of_its_own(told, data, tmp_path):
    from crystalign.finetuning.trials.ensemble import Ensemble, load_predictor

    chosen = choose(told.entries, told.results, 2)
    asked = settings(data, Path(told.run).parent, ensemble=True)
    place, trials = best_of(asked, told.run, chosen)["energy"]
    write_best(asked, told.run, place, trials)
    together = load_predictor(place)
    assert isinstance(together, Ensemble)
    assert len(together.members) == 2
    assert together.calibration is not None
    assert together.calibration.floor, "intervals are in units of the spread"
    material = small.binary(1, 19, 17, 1.0)
    said = together.predict([material])
    assert said.lower[0, 0] < said.mean[0, 0] < said.upper[0, 0]
    assert "within the 90 % intervals" in (Path(place) / "README.md").read_text()


def test_a_campaign_lives_in_an_object_store(data, s3):
    asked = settings(data, f"{s3}/campaigns", learning_rates=(1e-2,), recipe=RECIPE | {"max_epochs": 2}, ensemble=True)
    run = f"{s3}/campaigns/campaign"
    claim(asked, run)
    entries = expand(asked)
    for entry in entries:
        run_trial(entry.config, trial_uri(run, entry.config))
    done, missing = split_by_state(run, entries)
    assert (len(done), missing) == (3, [])
    found = report(asked, run, entries, done, {})
    names = {place.removeprefix(f"{run}/") for place in storage.list_files(run)}
    assert {"config.yaml", "results.md", "figure.png", "best/energy/ensemble.json"} <= names
    assert found.best == {"energy": f"{run}/best/energy"}
    assert stored_settings(run)["seeds"] == [0, 1]


def test_a_gain_is_of_the_materials_that_both_tested(campaign, tmp_path):
    """The constants are tested on all, the network on the three of four that have descriptors."""
    asked, run = campaign(learning_rates=(1e-2,), recipe=RECIPE | {"max_epochs": 4}), str(tmp_path / "campaign")
    entries = expand(asked)
    results = {entry.config.id: run_trial(entry.config, trial_uri(run, entry.config)) for entry in entries}
    rows = {row.cell.initialisation: row for row in report(asked, run, entries, results, {}).rows}
    tables = [pq.read_table(f"{trial_uri(run, config)}/predictions.parquet").to_pylist() for _, config in entries]
    errors = [{r["id"]: abs(r[TARGET] - r[f"{TARGET}_predicted"]) for r in t if r["part"] == "test"} for t in tables]
    constant, *networks = errors
    assert set(networks[0]) < set(constant)
    expected = [np.mean([constant[name] - found[name] for name in found]) for found in networks]
    assert rows["mean"].gain.mean == pytest.approx(np.mean(expected))
    assert rows["mean"].gain.mean != pytest.approx(rows["mean"].error.mean - rows["scratch"].error.mean)
    assert rows["mean"].shared == len(networks[0])
    assert "on the materials that row and baseline both tested" in (tmp_path / "campaign" / "results.md").read_text()


def test_samples_of_another_dataset_are_asked_for_again(campaign, tmp_path):
    pytest.importorskip("optuna")
    asked, run = campaign(search={"kind": "optuna", "samples": 3}, recipe=RECIPE | {"max_epochs": 2}), str(tmp_path)
    *_, (_, config) = expand(campaign(learning_rates=(1e-3,), seeds=(0,), recipe=asked.recipe))
    result = run_trial(config, trial_uri(run, config))
    assert [study.asked for _, study in studies(asked, samples(asked, run).values())] == [1]
    stale = result.model_copy(update={"dataset_sha256": "0"})
    storage.write_bytes(f"{trial_uri(run, config)}/result.json", stale.model_dump_json().encode())
    assert samples(asked, run) == {}


def test_what_is_finished_is_told_from_what_is_missing(told, tmp_path):
    done, missing = split_by_state(told.run, told.entries)
    assert set(done) == set(told.results)
    assert [entry.config.id for entry in missing] == [told.entries[-1].config.id]
    assert split_by_state(str(tmp_path), told.entries) == ({}, told.entries)
