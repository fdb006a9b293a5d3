"""A trial from its settings to a verified result; what cannot start says so at once."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from crystalign.errors import ConfigError, FileFormatError, ModelError
from crystalign.finetuning.data.features import FeatureStore
from crystalign.finetuning.model.property_model import PropertyModel
from crystalign.finetuning.results.matbench import fold_of
from crystalign.finetuning.trials.config import TrialConfig, TrialResult
from crystalign.finetuning.trials.ensemble import Ensemble
from crystalign.finetuning.trials.plan import plan
from crystalign.finetuning.trials.trial import build_model, finished, run_trial
from crystalign.modalities import NAMES, modality_class
from crystalign.model import Model, ModelConfig
from crystalign.model_config import ModelCard
from crystalign.shards.splits import SplitRule

ENERGY = "formation_energy_per_atom_pbe_synthetic_2026"
GRAPH = {"encoder": "gated-graph", "options": {"hidden": 16, "layers": 1, "width": 32, "gaussians": 16}}
FORMULA = {"encoder": "composition-transformer", "options": {"hidden": 16, "layers": 1}}
TABLE = {"encoder": "tabular-mlp", "options": {"inputs": 4, "layers": [32, 32]}, "features": {"width": 4}}
SHORT = {"max_epochs": 30, "warmup_epochs": 2, "batch_size": 32, "min_steps": 4, "patience": 5}
ONE = SHORT | {"max_epochs": 3}


@pytest.fixture(scope="module")
def store(labelled) -> FeatureStore:
    return FeatureStore(labelled)


def pretrained(folder, *, seed: int = 0, **rule) -> str:
    torch.manual_seed(seed)
    model = Model(ModelConfig(modalities={"crystal": GRAPH, "composition": FORMULA}, embedding_dim=12))
    split = SplitRule(**({"train": 0.8} | rule)).model_dump()
    model.save_pretrained(folder, ModelCard(split=split, licences=("CC-BY-4.0",), sources=("elsewhere",)))
    return str(folder)


def test_a_network_beats_the_constants_and_is_a_model_directory(trial, store, tmp_path, binaries):
    folder = str(tmp_path / "trial")
    result = run_trial(trial(), folder, store=store)
    found = result.metrics[ENERGY]
    constants = [
        run_trial(trial(encoders={}, initialisation=name), str(tmp_path / name)) for name in ("mean", "median")
    ]
    assert found["scaled_mae"] < 0.6
    assert found["mae"] == pytest.approx(found["scaled_mae"] * constants[0].metrics[ENERGY]["mae"])
    assert found["mae"] == pytest.approx(found["scaled_by_median"] * constants[1].metrics[ENERGY]["mae"])
    assert constants[0].metrics[ENERGY]["scaled_mae"] == pytest.approx(1.0)
    assert constants[0].sizes == result.sizes == plan(trial()).split.sizes
    model = PropertyModel.from_pretrained(f"{folder}/model")
    table = pq.read_table(f"{folder}/predictions.parquet").to_pydict()
    known = {material.id: material for material in binaries}
    predicted = model.predict([known[name] for name in table["id"]])
    assert predicted.mean[:, 0] == pytest.approx(table[f"{ENERGY}_predicted"], abs=1e-4)
    assert predicted.lower[:, 0] == pytest.approx(table[f"{ENERGY}_lower"], abs=1e-4)
    assert predicted.out_of_domain == pytest.approx(table["out_of_domain"], rel=1e-3, abs=1e-4)
    test, calibrating = (np.array(table["part"]) == part for part in ("test", "calibration"))
    truth = np.array(table[ENERGY])
    errors = np.sort(np.abs(truth - predicted.mean[:, 0])[calibrating])
    radius = errors[int(np.ceil(0.9 * (len(errors) + 1))) - 1]
    assert (predicted.upper - predicted.mean)[:, 0] == pytest.approx(radius, rel=1e-3)
    assert np.abs(truth - predicted.mean[:, 0])[test].mean() == pytest.approx(found["mae"], rel=1e-3)
    assert {table["formula"][row] for row in np.flatnonzero(test)} == set(plan(trial()).split.test.groups("formula"))
    assert model.card.metrics[ENERGY]["mae"] == found["mae"]
    assert model.card.licences == ("CC0-1.0",)
    assert not (tmp_path / "trial" / "state").exists()
    assert result.trained == result.parameters > 0


def test_a_finished_trial_is_not_run_again(trial, store, tmp_path):
    config, folder = trial(recipe=ONE), str(tmp_path / "trial")
    epochs: list[float] = []
    first = run_trial(config, folder, lambda metrics: epochs.append(metrics["epoch"]), store=store)
    again = run_trial(config, folder, lambda metrics: epochs.append(metrics["epoch"]), store=store)
    assert epochs == [1, 2, 3]
    assert again == first == finished(config, folder)
    assert TrialResult.model_validate_json((tmp_path / "trial" / "result.json").read_text()) == first
    other = trial(recipe=ONE, seed=1)
    assert other.id != config.id == trial(recipe=ONE).id
    assert finished(other, folder) is None
    predictions = tmp_path / "trial" / "predictions.parquet"
    predictions.write_bytes(predictions.read_bytes() + b"0")
    assert finished(config, folder) is None
    assert run_trial(config, folder, store=store).files == first.files  # the same bits
    (tmp_path / "trial" / "result.json").write_text("{")
    assert finished(config, folder) is None


def killed_once():
    """Epochs as they are told, and who tells them, and dies at the second."""
    epochs: list[float] = []

    def kill(metrics) -> None:
        epochs.append(metrics["epoch"])
        if len(epochs) == 2:
            raise InterruptedError

    return epochs, kill


def test_a_killed_trial_goes_on(trial, store, tmp_path):
    config, folder = trial(recipe=ONE | {"save_seconds": 0.0}), str(tmp_path / "trial")
    epochs, kill = killed_once()
    with pytest.raises(InterruptedError):
        run_trial(config, folder, kill, store=store)
    assert finished(config, folder) is None
    result = run_trial(config, folder, kill, store=store)
    assert epochs == [1, 2, 2, 3]
    whole = run_trial(config, str(tmp_path / "whole"), store=store)
    assert result.metrics == whole.metrics


def test_a_killed_trial_starts_again_where_its_model_is_another_now(trial, store, tmp_path):
    folder, origin = str(tmp_path / "trial"), tmp_path / "model"
    config = trial(recipe=ONE | {"save_seconds": 0.0}, encoders={}, initialisation=pretrained(origin))
    epochs, kill = killed_once()
    with pytest.raises(InterruptedError):
        run_trial(config, folder, kill, store=store)
    shutil.rmtree(origin)
    pretrained(origin, seed=1)
    result = run_trial(config, folder, kill, store=store)
    assert epochs == [1, 2, 1, 2, 3]
    assert result.model_sha256 == plan(config).origin.identity


def test_a_result_belongs_to_the_list_of_ids_it_was_split_by(trial, store, binaries, tmp_path):
    names, place, folder = [m.id for m in binaries], tmp_path / "lists.json", str(tmp_path / "trial")
    config = trial(recipe=ONE, split={"lists": str(place)})

    def write(tested: list[str]) -> None:
        place.write_text(json.dumps({"train": sorted(set(names) - set(tested)), "test": tested}))

    write(names[:50])
    assert run_trial(config, folder, store=store) == finished(config, folder)
    write(names[50:100])
    assert finished(config, folder) is None
    write(names[:50])
    assert finished(config, folder) is not None


def test_shuffled_labels_give_the_error_of_the_mean(trial, store, tmp_path):
    """If any label of the test part leaked, this would be better than knowing nothing."""
    ratios = [
        run_trial(trial(shuffle_labels=True, seed=seed, lr=1e-3), str(tmp_path / str(seed)), store=store)
        for seed in range(4)
    ]
    assert np.mean([found.metrics[ENERGY]["scaled_mae"] for found in ratios]) == pytest.approx(1.0, abs=0.1)
    assert run_trial(trial(lr=1e-3), str(tmp_path / "honest"), store=store).metrics[ENERGY]["scaled_mae"] < 0.7


@pytest.mark.parametrize(
    ("changes", "parameters"),
    [
        ({"modalities": ["crystal"]}, "fewer"),
        ({"recipe": ONE | {"train": "head"}}, "frozen"),
        ({"vectors": "embedding"}, "more"),
        ({"modalities": ["crystal", "composition"], "fusion": {"kind": "hybrid"}}, "more"),
    ],
)
def test_pre_trained_encoders_are_the_start(trial, store, tmp_path, changes, parameters):
    uri = pretrained(tmp_path / "aligned")
    config = trial(encoders={}, initialisation=uri, **{"recipe": ONE} | changes)
    start, base = build_model(plan(config)), Model.from_pretrained(uri)
    for name, tensor in start.encoders.state_dict().items():
        assert torch.equal(tensor, base.encoders.state_dict()[name])
    result = run_trial(config, str(tmp_path / "trial"), store=store)
    assert (result.trained < result.parameters) == (parameters == "frozen")
    card = PropertyModel.from_pretrained(str(tmp_path / "trial" / "model")).card
    assert card.licences == ("CC-BY-4.0", "CC0-1.0")
    assert card.sources == ("elsewhere", "synthetic")
    assert card.base_sha256 == result.model_sha256 == base.sha256
    assert result.seen["test"] == 0 < result.seen["train"]


def test_like_builds_the_same_architecture_with_other_weights(trial, tmp_path):
    uri = pretrained(tmp_path / "aligned")
    taken = build_model(plan(trial(encoders={}, initialisation=uri)))
    anew = build_model(plan(trial(encoders={}, like=uri)))
    assert taken.config == anew.config
    assert not torch.equal(next(taken.encoders.parameters()), next(anew.encoders.parameters()))
    again = build_model(plan(trial(encoders={}, like=uri)))
    assert all(torch.equal(a, b) for a, b in zip(anew.parameters(), again.parameters(), strict=True))


def test_the_tokenizer_of_a_fresh_text_encoder_is_of_the_training_part(trial, labelled, tmp_path, monkeypatch):
    from crystalign.encoders.composition_transformer import CompositionTransformer

    seen = []
    monkeypatch.setattr(
        CompositionTransformer, "prepare", classmethod(lambda cls, settings, values: seen.extend(values) or {})
    )
    planned = plan(trial(encoders={"composition": FORMULA}, n_labels=40))
    build_model(planned)
    assert len(seen) == 40


@pytest.mark.parametrize(
    ("changes", "metric"),
    [
        ({"task": {"target": "total_magnetization_per_atom", "kind": "classification"}}, "roc_auc"),
        ({"task": {"target": "bulk_modulus_vrh", "transform": "log10"}, "n_labels": 60}, "mae_log10"),
        (
            {
                "task": {"target": ["bulk_modulus_vrh", "shear_modulus_vrh"], "transform": "log10"},
                "head": {"kind": "elastic", "hidden": [8]},
            },
            "mae_log10",
        ),
        ({"encoders": {"composition": FORMULA}}, "mae"),
        ({"encoders": {"crystal": GRAPH, "tabular": TABLE}, "fusion": {"kind": "late", "weights": "stacked"}}, "mae"),
    ],
)
def test_every_kind_of_trial_finishes(trial, store, tmp_path, changes, metric):
    result = run_trial(trial(**{"recipe": ONE} | changes), str(tmp_path / "trial"), store=store)
    assert all(np.isfinite(found[metric]) for found in result.metrics.values())
    assert set(result.metrics) == set(PropertyModel.from_pretrained(str(tmp_path / "trial" / "model")).targets)
    if metric == "roc_auc":
        assert result.coverage == {target: {} for target in result.metrics}
    else:
        assert all(0.4 < share["0.9"] <= 1.0 for share in result.coverage.values())
    assert result.content["config/task.target"] == result.config.task.model_dump(mode="json")["target"]


def test_trials_over_different_modalities_can_share_their_materials(trial):
    encoders = {"crystal": GRAPH, "tabular": TABLE}
    crystals = plan(trial(encoders=encoders, modalities=["crystal"]))
    tables = plan(trial(encoders=encoders, modalities=["tabular"]))
    assert len(crystals.labels) == 216
    assert len(tables.labels) == 144
    assert tables.labels.left_out == {"without any of tabular": 72}
    shared = plan(trial(encoders=encoders, modalities=["crystal"], require=["tabular"]))
    assert shared.split.test.ids == tables.split.test.ids
    assert shared.labels.left_out == {"without tabular": 72}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"task": {"target": "colour"}}, ["target", "'colour'", "formation_energy_per_atom"]),
        ({"task": {"target": "refractive_index"}}, ["target", "3 labels", "formation_energy_per_atom"]),
        ({"split": {"train": 0.9, "validation": 0.2}}, ["split", "exceeds 1"]),
        ({"split": {"train": 0.9, "validation": 0.1}}, ["split", "must all be above 0", "train: 0.6"]),
        ({"n_labels": 500}, ["n_labels is 500"]),
        ({"encoders": {}, "initialisation": "nowhere/model"}, ["initialisation", "nowhere/model", "scratch, mean or"]),
        ({"encoders": {}, "like": "nowhere/model"}, ["like", "nowhere/model", "model directory"]),
        ({"initialisation": "nowhere/model"}, ["leave out `like` and `encoders`"]),
        ({"modalities": ["smell"]}, ["modalities", "'smell'", "crystal, dos"]),
        ({"modalities": ["xrd"]}, ["modalities", "`encoders` has none for xrd"]),
        ({"encoders": {}, "modalities": ["xrd"]}, ["no encoder is given for xrd"]),
        ({"encoders": {"xrd": {"encoder": "xrd-resnet"}}}, ["modalities", "no 'xrd'", "it has composition, crystal"]),
        ({"require": ["dos"]}, ["require", "no 'dos'"]),
        ({"vectors": "embedding"}, ["vectors", "aligned space of a model"]),
        ({"head": {"kind": "elastic"}, "encoders": {"composition": FORMULA}}, ["head", "reads the structure"]),
        ({"encoders": {"crystal": GRAPH | {"features": {"max_sites": 1}}}}, ["max_sites", "216 of the 216"]),
        ({"lr": 0.0}, ["lr"]),
        ({"colour": 1}, ["colour"]),
    ],
)
def test_a_trial_that_cannot_start_names_the_field(trial, changes, said):
    with pytest.raises(ConfigError) as caught:
        plan(trial(**changes))
    for words in said:
        assert words in str(caught.value)


def test_the_volume_is_predicted_from_what_does_not_tell_it():
    assert {name for name in NAMES if not modality_class(name).encodes_volume} == {"composition", "dos", "phonon_dos"}


def test_a_part_without_a_label_of_a_target_is_refused(trial):
    both = {"target": ["formation_energy_per_atom", "bulk_modulus_vrh"]}
    plan(trial(task=both))
    rare = {"target": ["formation_energy_per_atom", "refractive_index"], "min_labels": 3}
    with pytest.raises(ConfigError, match=r"no label of refractive_index\S+ is among the \d+ of the \w+ part"):
        plan(trial(task=rare))


@pytest.mark.parametrize("rule", [{"train": 0.9}, {"salt": "other"}, {"by": "material"}])
def test_pre_training_that_saw_test_formulas_is_refused(trial, tmp_path, rule):
    uri = pretrained(tmp_path / "aligned", **rule)
    with pytest.raises(ConfigError, match="initialisation"):
        run_trial(trial(encoders={}, initialisation=uri), str(tmp_path / "trial"))
    assert not (tmp_path / "trial").exists()
    assert plan(trial(encoders={}, like=uri)).seen == {}  # fresh weights saw nothing


def test_the_id_is_that_of_every_setting(trial, labelled):
    config = trial()
    assert len(config.id) == 16
    assert TrialConfig.from_mapping(json.loads(config.model_dump_json()), origin="x").id == config.id
    changes = [{"seed": 3}, {"lr": 1e-4}, {"n_labels": 50}, {"recipe": SHORT | {"ema": 0.9}}, {"shuffle_labels": True}]
    assert len({config.id, *(trial(**change).id for change in changes)}) == 6


def test_checking_a_trial_needs_no_torch(trial):
    code = (
        "import sys; from crystalign.finetuning.trials.plan import plan; "
        "from crystalign.finetuning.trials.config import TrialConfig; "
        f"plan(TrialConfig.model_validate_json({trial().model_dump_json()!r})); "
        "assert 'torch' not in sys.modules, 'torch was imported'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_seeds_of_one_trial_are_an_ensemble(trial, store, tmp_path, binaries):
    folders = [str(tmp_path / str(seed)) for seed in range(3)]
    task = {"target": "bulk_modulus_vrh", "transform": "log10"}
    for seed, folder in enumerate(folders):
        run_trial(trial(recipe=ONE, seed=seed, task=task), folder, store=store)
    ensemble = Ensemble.from_trials(folders)
    split = plan(trial(task=task)).split
    known = {material.id: material for material in binaries}
    found = ensemble.predict([known[name] for name in split.calibration.ids])
    values = split.calibration.values
    inside = int(((values >= found.lower) & (values <= found.upper)).sum())
    assert inside == np.ceil(0.9 * (len(values) + 1))  # of those it was calibrated on
    each = np.stack([m.predict([known[n] for n in split.calibration.ids]).mean for m in ensemble.members])
    assert np.allclose(np.log(found.mean), np.log(each).mean(axis=0), atol=1e-4)
    other = str(tmp_path / "other")
    run_trial(trial(recipe=ONE, seed=3, task=task, n_labels=50), other, store=store)
    with pytest.raises(ModelError, match="same training labels"):
        Ensemble.from_trials([folders[0], other])


def test_a_trial_on_a_fold_of_matbench_becomes_its_record(trial, store, tmp_path):
    config = trial(recipe=ONE, task={"target": "bulk_modulus_vrh", "transform": "log10"})
    result = run_trial(config, str(tmp_path / "trial"), store=store)
    target = next(iter(result.metrics))
    fold = fold_of(str(tmp_path / "trial"), target, log10=True)
    assert set(fold.predictions) == set(plan(config).split.test.ids)
    assert fold.scores["mae"] == pytest.approx(result.metrics[target]["mae_log10"])
    plain = fold_of(str(tmp_path / "trial"), target)
    assert (plain.scores["mae"], plain.scores["rmse"]) == pytest.approx(
        (result.metrics[target]["mae"], result.metrics[target]["rmse"])
    )
    with pytest.raises(FileFormatError, match="predicted no 'colour'"):
        fold_of(str(tmp_path / "trial"), "colour")


def test_a_store_of_another_dataset_is_refused(trial, tmp_path, binaries):
    from crystalign.shards.dataset import Dataset
    from crystalign.shards.writer import commit_manifest, write_shard

    uri = str(tmp_path / "other")
    commit_manifest(uri, [write_shard(uri, "a", binaries[:3], ())], ())
    with pytest.raises(ConfigError, match="the feature store holds"):
        run_trial(trial(), str(tmp_path / "trial"), store=FeatureStore(Dataset.open(uri)))
