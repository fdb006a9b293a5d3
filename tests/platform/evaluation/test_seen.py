"""How much of a pool a model has trained on is computed, not assumed."""

from __future__ import annotations

import pytest

from crystalign.evaluation.seen import trained_on
from crystalign.model_config import ModelCard
from crystalign.shards.dataset import Dataset
from crystalign.shards.splits import SplitRule
from crystalign.shards.writer import commit_manifest, write_shard


@pytest.fixture
def dataset(tmp_path, synthetic_materials) -> Dataset:
    uri = str(tmp_path / "data")
    commit_manifest(uri, [write_shard(uri, "a", synthetic_materials(96), (), rows_per_group=16)], ())
    return Dataset.open(uri)


def formulas_of(dataset: Dataset, rule: SplitRule, which: str) -> list[str]:
    table = dataset.table(["formula", *rule.columns])
    return table.filter(rule.mask(table, which)).column("formula").to_pylist()


@pytest.mark.parametrize("salt", ["crystalign", "another"])
def test_a_split_by_formula_leaves_nothing_trained_on_in_the_test(dataset, salt):
    rule = SplitRule(salt=salt, train=0.5, validation=0.2)
    card = ModelCard(dataset_uri=dataset.uri)
    assert trained_on(formulas_of(dataset, rule, "test"), card, rule) == 0
    train = formulas_of(dataset, rule, "train")
    assert trained_on(train, card, rule) == len(train) > 0


def test_a_split_by_material_has_trained_on_polymorphs_of_its_test(dataset):
    rule = SplitRule(by="material", train=0.7, validation=0.1)
    pool, train = formulas_of(dataset, rule, "test"), set(formulas_of(dataset, rule, "train"))
    expected = sum(formula in train for formula in pool)
    assert trained_on(pool, ModelCard(dataset_uri=dataset.uri), rule) == expected > 0


def test_without_the_dataset_a_split_by_formula_still_tells_and_another_does_not(dataset, tmp_path):
    gone = ModelCard(dataset_uri=str(tmp_path / "gone"))
    rule = SplitRule(train=0.5, validation=0.2)
    train = formulas_of(dataset, rule, "train")
    assert trained_on([*train, *formulas_of(dataset, rule, "test")], gone, rule) == len(train)
    assert trained_on(train, gone, SplitRule(by="material")) is None
