"""A campaign's file is read strictly, becomes trials, and its results become a table; without a cluster."""

from __future__ import annotations

import importlib.util
import json
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

import small_campaign as small
from crystalign.config import read_yaml
from crystalign.errors import ConfigError, Error, ModelError
from crystalign.finetuning.trials.config import TrialConfig
from crystalign.model_config import ModelConfig
from crystalign.shards.splits import SplitRule
from crystalign_jobs import cli
from crystalign_jobs.campaign import grid
from crystalign_jobs.campaign.config import Campaign
from crystalign_jobs.campaign.grid import Cell, Entry, cells, check, expand, refuse_contradiction, resolved
from crystalign_jobs.campaign.presets import COSTA_TASKS, SUBSETS
from crystalign_jobs.campaign.run import load_models
from crystalign_jobs.campaign.search_space import Search, sampled
from crystalign_jobs.campaign.store import STOP
from crystalign_jobs.pretrain import Pretrain
from crystalign_jobs.settings import with_defaults
from crystalign_jobs.tune import Tune, stored_settings
from small_campaign import FORMULA, RECIPE, TABLE, settings

HERE = Path(__file__).parent

TARGET = "formation_energy_per_atom_pbe_synthetic_2026"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    return small.write_dataset(str(tmp_path_factory.mktemp("campaign") / "data"))


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return small.write_model(tmp_path_factory.mktemp("pretrained") / "model")


@pytest.fixture
def campaign(data, tmp_path):
    return lambda **changes: settings(data, tmp_path, **changes)


# --- from a file to trials --------------------------------------------------------------------------------------------


def test_the_grid_is_the_product_and_constants_run_once(campaign):
    found = expand(
        campaign(
            tasks={"energy": {"target": "formation_energy_per_atom"}, "bulk": {"target": "bulk_modulus_vrh"}},
            n_labels=(20, "all"),
            seeds=(0, 1, 2),
        )
    )
    constants = [entry for entry in found if entry.config.constant]
    assert len(constants) == 2 * 2
    assert len(found) - len(constants) == 2 * 2 * 2 * 3
    assert found[: len(constants)] == constants, "they come first"
    assert len({entry.config.id for entry in found}) == len(found)
    assert [entry.config.seed for entry in found] == sorted(entry.config.seed for entry in found)
    assert found[-1].cell == Cell("bulk", "scratch", "tabular", "", None)


def test_words_stand_for_networks_and_scratch_for_the_same_one_with_fresh_weights(campaign, model):
    words = {"none": "scratch", "pre": model, "formula": "composition-only", "cgcnn": "cgcnn", "median": "median"}
    found = {cell.initialisation: config for cell, config in cells(campaign(initialisations=words))}
    assert (found["none"].like, found["none"].pretrained) == (model, False)
    assert found["pre"].pretrained
    assert found["formula"].specs["composition"].encoder == "crabnet"
    assert found["cgcnn"].specs["crystal"].encoder == "cgcnn"
    assert found["median"].constant
    alone = dict(cells(campaign(initialisations={"scratch": "scratch"})))
    assert next(iter(alone.values())).specs["crystal"].encoder == "dual-space"


def test_every_subset_is_a_row_and_fusions_only_where_there_is_something_to_fuse(campaign):
    starts = {"fresh": {"encoders": {"tabular": TABLE, "composition": FORMULA}}, "mean": "mean"}
    asked = campaign(
        initialisations=starts,
        modalities=("tabular", "composition", "tabular+composition"),
        fusion=("early", "late-stacked", "attention"),
    )
    found = {cell: config for cell, config in cells(asked) if not config.constant}
    assert [(cell.modalities, cell.fusion) for cell in found] == [
        ("tabular", ""),
        ("composition", ""),
        ("tabular+composition", "early"),
        ("tabular+composition", "late-stacked"),
        ("tabular+composition", "attention"),
    ]
    stacked = next(config for cell, config in found.items() if cell.fusion == "late-stacked")
    assert (stacked.fusion.kind, stacked.fusion.weights) == ("late", "stacked")
    assert check(asked) == 6


def test_a_task_may_have_a_split_a_head_and_numbers_of_labels_of_its_own(campaign):
    task = {"target": "bulk_modulus_vrh", "split": {"train": 0.5, "validation": 0.3}, "n_labels": [25]}
    found = [c for _, c in cells(campaign(tasks={"bulk": task | {"head": {"kind": "mlp", "hidden": [8]}}}))]
    assert {config.n_labels for config in found} == {25}
    assert found[0].split.train == 0.5
    assert found[1].head.kind == "mlp"
    assert type(found[1].task).__name__ == "Task"


def test_a_task_may_be_read_from_something_else_than_the_others(campaign):
    volume = {"target": "volume_per_atom", "modalities": ["composition"]}
    starts = {"fresh": {"encoders": {"tabular": TABLE, "composition": FORMULA}}, "own": "composition-only"}
    tasks = {"energy": {"target": "formation_energy_per_atom"}, "volume": volume}
    found = {cell for cell, _ in cells(campaign(tasks=tasks, initialisations=starts, modalities=("tabular",)))}
    assert {(cell.task, cell.initialisation, cell.modalities) for cell in found} == {
        ("energy", "fresh", "tabular"),
        ("energy", "own", "composition"),
        ("volume", "fresh", "composition"),
        ("volume", "own", "composition"),
    }


def test_the_fewest_and_the_most_labels_are_checked(campaign, monkeypatch):
    seen = []
    monkeypatch.setattr(grid, "plan", lambda config: seen.append(config.n_labels))
    check(campaign(n_labels=(20, "all", 30, 40), initialisations={"scratch": {"encoders": {"tabular": TABLE}}}))
    assert sorted(seen) == [20, 40]


def test_a_good_campaign_is_checked_within_a_second(campaign, model):
    asked = campaign(
        initialisations={"mean": "mean", "scratch": "scratch", "pre": model},
        n_labels=(20, 30, 40, "all"),
        seeds=tuple(range(10)),
    )
    check(asked)  # imports
    began = time.process_time()
    assert check(asked) == 12
    assert len(expand(asked)) == 4 + 2 * 4 * 2 * 10
    assert time.process_time() - began < 5.0  # a hundred times what it takes: it must not grow with the trials


def test_bad_campaigns_name_the_field_and_what_is_valid(campaign, model, tmp_path):
    seen = small.write_model(tmp_path / "seen", train=0.9)
    bad = [
        ({"tasks": {}}, ["tasks", "target: band_gap"]),
        ({"initialisations": {}}, ["initialisations", "mean: mean"]),
        ({"tasks": {"e": {"target": "colour"}}}, ["tasks.e", "'colour'", "formation_energy_per_atom"]),
        ({"tasks": {"v": {"target": "volume_per_atom"}}}, ["tasks.v", "tabular contains volume", "composition"]),
        ({"tasks": {"n": {"target": "refractive_index"}}}, ["tasks.n", "3 labels", TARGET]),
        ({"split": {"train": 0.9, "validation": 0.1}}, ["split", "above 0"]),
        ({"n_labels": (500,)}, ["n_labels is 500", "training part has"]),
        ({"initialisations": {"pre": "nowhere/model"}}, ["initialisations.pre", "nowhere/model", "scratch, mean or"]),
        ({"initialisations": {"pre": "cgcn"}}, ["initialisations.pre", "'cgcnn'"]),
        ({"initialisations": {"pre": seen}}, ["initialisations.pre", "0.9)", "test materials"]),
        ({"initialisations": {"pre": model}, "modalities": ("crystal+xrd",)}, ["modalities", "no 'xrd'"]),
        ({"initialisations": {"x": "xrd-resnet"}}, ["modalities", "no 'xrd'", "it has composition"]),
        ({"require": ("dos",)}, ["require", "no 'dos'"]),
        ({"baseline": "nothing"}, ["baseline", "'nothing'", "mean, scratch"]),
        ({"initialisations": {"a": "mean", "b": "mean"}}, ["initialisations.b", "initialisations.a", "the same"]),
        ({"tasks": {"a b": {"target": TARGET}, "a-b": {"target": "bulk_modulus_vrh"}}}, ["tasks", "folder"]),
        ({"tasks": {"n": {"target": "colour"}}, "missing_targets": "skip"}, ["tasks", "none of them", "'colour'"]),
    ]
    for changes, said in bad:
        with pytest.raises(ConfigError) as caught:
            check(campaign(**changes))
        for words in said:
            assert words in str(caught.value), changes


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"learning_rates": ()}, "learning_rates"),
        ({"learning_rates": (0.0,)}, "learning_rates"),
        ({"seeds": (1, 1)}, "seeds"),
        ({"name": "a/b"}, "name"),
        ({"fusion": ("sideways",)}, "fusion"),
        ({"tasks": {"e": {"target": "band_gap", "threshold": 1.0}}}, "threshold"),
        ({"search": {"learning_rates": (1e-2, 1e-4)}}, "learning_rates"),
        ({"stop_early": {"rule": "guess"}}, "stop_early"),
        ({"stop_early": {}, "recipe": {"keep": "last"}}, "stop_early: `keep: last` tests a trial"),
        ({"shuffle_labels": True, "ensemble": True}, "ensemble: `shuffle_labels` shuffles differently"),
    ],
)
def test_values_that_cannot_be_are_refused(campaign, changes, said):
    with pytest.raises(ConfigError, match=said):
        campaign(**changes)


def test_optuna_is_named_where_it_is_missing(campaign, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"crystalign\[optuna\]"):
        check(campaign(search={"kind": "optuna"}))


def test_the_command_reads_a_file_and_fails_with_2_before_ray_starts(campaign, tmp_path, capsys):
    values = yaml.safe_load(campaign().to_yaml())
    place = tmp_path / "campaign.yaml"
    place.write_text(yaml.safe_dump(values))
    assert cli.main(["tune", str(place), "--dry-run", "--seeds", "0", "1", "2"]) == 0
    out = capsys.readouterr().out
    assert "2 rows, 7 trials" in out
    assert "results.md" in out
    place.write_text(yaml.safe_dump(values | {"tasks": {"e": {"target": "colour"}}}))
    assert cli.main(["tune", str(place)]) == 2
    assert "tasks.e" in capsys.readouterr().err
    place.write_text(yaml.safe_dump(values | {"tasks": {"e": {"target": "band_gap", "lower": 2, "upper": 1}}}))
    assert cli.main(["tune", str(place)]) == 2
    assert "tasks.e" in capsys.readouterr().err


def test_the_example_in_the_house_is_a_campaign():
    values = read_yaml(HERE.parents[1] / "cluster" / "campaign.yaml")
    example = Tune.from_mapping(values, origin="the example")
    rows = list(cells(example))
    assert len(rows) == 4 * 2 * 11
    assert {config.initialisation for _, config in rows if config.constant} == {"mean"}
    scratch = [config for cell, config in rows if cell.initialisation == example.baseline]
    assert {config.like for config in scratch} == {str(Path("runs/xrd-tabular/model").absolute())}
    assert {config.chosen for config in scratch} == {config.chosen for _, config in rows if config.pretrained}


def test_the_models_of_the_example_have_not_seen_what_it_tests():
    folder = HERE.parents[1] / "cluster"
    values = cli.read_source(cli.VERBS["pretrain"], str(folder / "few_labels.yaml"))
    run = cli.settings(cli.VERBS["pretrain"], Pretrain, values, origin="the example")
    example = Tune.from_mapping(read_yaml(folder / "campaign.yaml"), origin="the example")
    rule = SplitRule.model_validate(run.split)
    assert (rule.by, rule.train, rule.validation) == (example.split.by, example.split.train, example.split.validation)
    starts = [start.initialisation for start in resolved(example).values()]
    assert f"runs/{run.name}/model" in starts
    assert run.data.endswith("/mp2019")
    assert set(ModelConfig.model_validate(run.model).modalities) == {"crystal", "xrd", "tabular"}


def test_costas_table_is_a_preset_that_names_what_is_missing(data, tmp_path):
    values = cli.read_source(cli.VERBS["tune"], "costa-fusion") | {"data": data, "out": str(tmp_path)}
    filled = with_defaults(Tune, values, origin="preset")
    campaign = Tune.model_validate(filled.model_dump())
    assert len(SUBSETS) == 7
    found = {cell for cell, config in cells(campaign) if not config.constant}
    assert len(COSTA_TASKS) == 6
    assert {cell.task for cell in found} == {"formation energy", "magnetization", "volume"}
    assert len(found) == 2 * (3 + 4 * 5) + 1
    assert {cell.modalities for cell in found if cell.task == "volume"} == {"composition"}
    with pytest.raises(ConfigError, match="require"):
        check(campaign)


# --- going on ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"seeds": (0, 1, 2)}, None),
        ({"learning_rates": (1e-2, 1e-3, 1e-4)}, None),
        ({"n_labels": ("all", 20)}, None),
        ({"baseline": "mean", "note": "new"}, None),
        ({"seeds": (0,)}, "seeds"),
        ({"recipe": RECIPE | {"loss": "mse"}}, "recipe"),
        ({"tasks": {"energy": {"target": "formation_energy_per_atom", "max_sites": 9}}}, "tasks"),
        ({"shuffle_labels": True}, "shuffle_labels"),
    ],
)
def test_a_campaign_may_grow_and_not_contradict_itself(campaign, changes, field):
    before, now = (Campaign.model_validate(c.model_dump(include=set(Campaign.model_fields))) for c in
                   (campaign(), campaign(**changes)))  # fmt: skip
    if field is None:
        refuse_contradiction(before, now, "there")
        assert {entry.config.id for entry in expand(before)} <= {entry.config.id for entry in expand(now)}
        return
    with pytest.raises(ConfigError, match=f"other settings: {field}"):
        refuse_contradiction(before, now, "there")


@pytest.mark.parametrize(("earlier", "current"), [("refuse", "error"), ("name", "skip")])
def test_stored_campaigns_with_earlier_words_for_missing_targets_go_on(campaign, tmp_path, earlier, current):
    run = tmp_path / "stored"
    run.mkdir()
    asked = Campaign.model_validate(campaign(missing_targets=current).model_dump(include=set(Campaign.model_fields)))
    values = asked.model_dump(mode="json") | {"missing_targets": earlier}
    (run / "config.yaml").write_text(yaml.safe_dump(values))
    refuse_contradiction(Campaign.from_mapping(values, origin="a file"), asked, str(run))
    stored = with_defaults(Tune, stored_settings(str(run)), origin="the settings of a run")
    resumed = cli.parse(cli.find_verb("tune"), Tune, [], stored=stored)
    assert (stored.missing_targets, resumed.missing_targets) == (current, current)


def test_what_scratch_means_does_not_change_when_a_campaign_grows(campaign, model):
    alone = campaign(initialisations={"mean": "mean", "scratch": "scratch"})
    with pytest.raises(ConfigError, match=r"initialisations\.scratch, which would be built like .*model"):
        refuse_contradiction(alone, campaign(initialisations=alone.initialisations | {"pre": model}), "there")
    said = alone.initialisations | {"pre": model, "scratch": {"like": model}}
    refuse_contradiction(campaign(initialisations=said), campaign(initialisations=said | {"median": "median"}), "there")


def test_a_run_that_is_not_there_cannot_go_on(tmp_path):
    with pytest.raises(ConfigError, match="no campaign at"):
        stored_settings(str(tmp_path / "nothing"))


# --- search -----------------------------------------------------------------------------------------------------------


def test_random_samples_are_a_function_of_the_cell_and_more_keep_the_first(campaign):
    search = Search(samples=8, layer_decay=(1.0, 0.7), batch_size=(16, 64))
    base = next(config for cell, config in cells(campaign()) if not config.constant)
    few, many = list(sampled(search, base)), list(sampled(search.model_copy(update={"samples": 20}), base))
    assert many[:8] == few
    assert all(1e-5 <= config.lr <= 3e-3 for config in many)
    assert {config.recipe.layer_decay for config in many} == {1.0, 0.7}
    assert len({search.basis(config) for config in many}) == 1 == len({search.basis(base)} | {search.basis(few[3])})
    assert TrialConfig.from_mapping(json.loads(few[0].model_dump_json()), origin="x").id == few[0].id
    found = expand(campaign(search={"samples": 3}, seeds=(5, 6)))
    assert [entry.config.seed for entry in found] == [0, 5, 5, 5], "the first seed searches"


# --- who competes -----------------------------------------------------------------------------------------------------


class Competing:
    """What a scheduler sees of a trial."""

    def __init__(self, config: TrialConfig) -> None:
        from crystalign_jobs.campaign.ray_tune import group

        self.trial_id = config.id
        self.config = {"id": config.id, "group": group(config), "trial": config.model_dump_json()}


def judged(asked, epochs: int, score, tmp_path) -> set[str]:
    """Ids of the trials that a scheduler stopped, where all report each epoch."""
    from crystalign_jobs.campaign.ray_tune import per_group

    scheduler = per_group(asked.stop_early, str(tmp_path))
    trials = [(entry, Competing(entry.config)) for entry in expand(asked)]
    for _, trial in trials:
        scheduler.on_trial_add(None, trial)
    for epoch in range(1, epochs + 1):
        for entry, trial in trials:
            result = {"epoch": epoch, "kept_score": score(entry)}
            assert scheduler.on_trial_result(SimpleNamespace(get_live_trials=list), trial, result) == "CONTINUE"
    return {place.parent.parent.name for place in tmp_path.glob(f"*/{STOP}")}


@pytest.mark.parametrize("rule", ["asha", "median"])
def test_only_learning_rates_of_the_same_task_start_labels_and_seed_compete(campaign, rule, tmp_path):
    asked = campaign(
        stop_early={"rule": rule, "grace_epochs": 2, "min_others": 1},
        learning_rates=(1e-2, 1e-3),
        initialisations={"good": {"encoders": {"tabular": TABLE}}, "bad": {"encoders": {"composition": FORMULA}}},
    )

    def score(entry: Entry) -> float:
        return (10.0 if entry.cell.initialisation == "bad" else 0.0) + (0.5 if entry.config.lr == 1e-2 else 0.7)

    assert judged(asked, 12, score, tmp_path) == {e.config.id for e in expand(asked) if e.config.lr == 1e-3}


def test_nobody_is_stopped_before_a_quarter_of_its_own_recipe(campaign, tmp_path):
    slow = {"encoders": {"tabular": TABLE}, "recipe": RECIPE | {"max_epochs": 200, "warmup_epochs": 20}}
    asked = campaign(
        stop_early={"rule": "asha", "reduction": 2},
        learning_rates=(1e-2, 1e-3),
        initialisations={"quick": {"encoders": {"tabular": TABLE}}, "slow": slow},
        recipe=RECIPE | {"max_epochs": 12},
    )
    early = judged(asked, 12, lambda entry: -entry.config.lr, tmp_path)
    assert early == {e.config.id for e in expand(asked) if e.config.lr == 1e-3 and e.cell.initialisation == "quick"}
    assert len(judged(asked, 200, lambda entry: -entry.config.lr, tmp_path)) == 2 * len(early)


def test_the_queue_gives_every_trial_once_and_then_asks_the_studies(campaign):
    from crystalign_jobs.campaign.ray_tune import Queue

    entries = expand(campaign())
    base = entries[-1].config

    class Study:
        def __init__(self) -> None:
            self.asked, self.heard = 1, []

        def ask(self):
            self.asked += 1
            return base.model_copy(update={"lr": 1e-3 / self.asked})

        def tell(self, config, value) -> None:
            self.heard.append(value)

    study = Study()
    queue = Queue([entry.config for entry in entries], [study], samples=3)
    assert queue.total == len(entries) + 2
    given = [queue.suggest(f"t{k}") for k in range(queue.total + 1)]
    assert given.pop() == "FINISHED"
    assert [one["id"] for one in given[: len(entries)]] == [entry.config.id for entry in entries]
    queue.on_trial_complete("t0", {"value": 1.0})
    queue.on_trial_complete(f"t{queue.total + len(entries) - 2}", None, error=True)
    assert study.heard == []
    queue.on_trial_complete(f"t{len(entries)}", {"value": 0.25})
    queue.on_trial_complete(f"t{len(entries) + 1}", {"failed": "why"})
    assert study.heard == [0.25, None]


def test_a_model_that_cannot_be_loaded_ends_the_campaign_and_not_each_of_its_trials(campaign, model, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(model, broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    asked = campaign(initialisations={"mean": "mean", "pre": str(broken)})
    assert check(asked) == 2
    with pytest.raises(ModelError, match="broken"):
        load_models(config for _, config in expand(asked))


def test_a_campaign_in_which_nothing_finished_is_an_error(data, tmp_path, monkeypatch):
    from crystalign_jobs import tune as verb

    monkeypatch.setattr("crystalign_jobs.campaign.run.tune", lambda config: SimpleNamespace(trials=0, best={}))
    monkeypatch.setattr("crystalign_jobs.campaign.report.show", lambda report: None)
    with pytest.raises(Error, match="no trial finished"):
        verb.main(settings(data, tmp_path))


def test_entries_know_where_they_belong():
    cell = Cell("gap", "scratch", "crystal", "", 100)
    assert cell.label == "gap · scratch · crystal · 100 labels"
    config = TrialConfig(data="x", task={"target": "band_gap"}, lr=1e-4, seed=3)
    assert Entry(cell, config).title == f"{cell.label} · lr 0.0001 · seed 3"
