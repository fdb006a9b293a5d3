"""No material and no group in two parts, no test material that pre-training saw."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from crystalign.errors import ConfigError
from crystalign.finetuning.data.published import PublishedSplit
from crystalign.finetuning.data.splits import (
    CalibrationSet,
    Split,
    TestSet,
    TrainSet,
    ValidationSet,
    make_split,
    refuse_seen,
    sixty_twenty_twenty,
)
from crystalign.finetuning.data.task import Task, read_labels
from crystalign.model_config import ModelCard
from crystalign.shards.splits import SplitRule, fraction

RULE = sixty_twenty_twenty()


@pytest.mark.parametrize("by", ["formula", "material", "chemsys"])
def test_every_group_is_in_one_part_and_every_row_in_one(energies, by):
    split = make_split(energies, SplitRule(by=by, train=0.6, validation=0.2))
    assert [type(part) for part in split.parts] == [TrainSet, ValidationSet, CalibrationSet, TestSet]
    rows = np.concatenate([part.rows for part in split.parts])
    assert np.array_equal(np.sort(rows), np.arange(len(energies)))
    groups = [set(part.groups(by)) for part in split.parts]
    assert len(set.union(*groups)) == sum(map(len, groups))
    for part in split.parts:
        for key in part.groups(by):
            assert RULE.name_of(fraction(str(key))) == {"calibration": "validation"}.get(part.name, part.name)
    held_out = [set(part.groups(by)) for part in split.held_out]
    assert 0 <= len(held_out[0]) - len(held_out[1]) <= 1


def test_whatever_the_assignment_no_group_straddles_it(energies):
    """There is no argument of `Split` that says of one key that it is in two parts."""
    names = ("train", "validation", "test")
    keys = [str(key) for key in energies.groups["formula"]]
    rng = np.random.default_rng(0)
    for _ in range(20):
        parts = {key: names[rng.integers(3)] for key in set(keys)}
        split = Split(energies, keys, parts, by="formula")
        found = [set(part.groups("formula")) for part in split.parts]
        assert len(set.union(*found)) == sum(map(len, found))
        assert sum(split.sizes.values()) == len(energies)


def test_prototypes_can_be_too_few_and_say_so(energies):
    with pytest.raises(ConfigError, match=r"part of 216 labels in 2 groups by prototype is empty"):
        make_split(energies, SplitRule(by="prototype", train=0.6, validation=0.2))


@pytest.mark.parametrize(
    "shares", [{"train": 0.8, "validation": 0.2}, {"train": 0.0, "validation": 0.2}, {"train": 0.6, "validation": 0.0}]
)
def test_a_split_without_one_of_its_parts_is_refused(energies, shares):
    with pytest.raises(ConfigError, match="must all be above 0"):
        make_split(energies, SplitRule(**shares))


def test_fewer_labels_are_some_of_more_and_the_test_stays(energies):
    split = make_split(energies, RULE)
    ids = {n: set(split.limited(n).train.ids) for n in (10, 30, 100)}
    assert {n: len(found) for n, found in ids.items()} == {10: 10, 30: 30, 100: 100}
    assert ids[10] < ids[30] < ids[100] < set(split.train.ids)
    assert split.limited(30).test.ids == split.test.ids
    for name, part in (("validation", split.validation), ("calibration", split.calibration)):
        assert set(getattr(split.limited(30), name).ids) <= set(part.ids)
        assert split.limited(20).sizes[name] == 20
        assert split.limited(100).sizes[name] == round(100 / len(split.train) * len(part))
    assert split.limited(30).train.ids == make_split(energies, RULE).limited(30).train.ids
    assert len(split.train) == split.limited(None).sizes["train"]
    with pytest.raises(ConfigError, match=f"n_labels is 999, and the training part has {len(split.train)}"):
        split.limited(999)


def test_a_classification_has_no_intervals_and_keeps_its_validation_part_whole(labelled, energies):
    labels = read_labels(labelled, Task(target="total_magnetization_per_atom", kind="classification", threshold=0.5))
    split = make_split(labels, RULE)
    assert [type(part) for part in split.parts] == [TrainSet, ValidationSet, TestSet]
    assert split.held_out == (split.validation,)
    regression = make_split(energies, RULE)
    assert set(split.validation.ids) == {name for part in regression.held_out for name in part.ids}


def lists(energies) -> dict[str, list[str]]:
    names = list(energies.ids)
    return {"train": names[:150], "test": [*names[150:200], "elsewhere"]}


def test_matbench_folds_are_read_from_its_validation_file(energies, tmp_path):
    path = tmp_path / "matbench_v0.1_validation.json"
    path.write_text(json.dumps({"metadata": {}, "splits": {"matbench_x": {"fold_0": lists(energies)}}}))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    rule = PublishedSplit(lists=str(path), part="splits/matbench_x/fold_0", sha256=digest)
    split = make_split(energies, rule)
    assert set(split.test.ids) == set(energies.ids[150:200])
    assert {name for part in split.parts[:3] for name in part.ids} == set(energies.ids[:150])
    assert 0.1 < sum(map(len, split.held_out)) / 150 < 0.4
    with pytest.raises(ConfigError, match="it has fold_0"):
        make_split(energies, rule.model_copy(update={"part": "splits/matbench_x/fold_7"}))
    with pytest.raises(ConfigError, match="another list"):
        make_split(energies, rule.model_copy(update={"sha256": "0" * 64}))


def test_a_column_of_a_table_is_a_published_split(energies, tmp_path):
    names = list(energies.ids[:16])
    table = pa.table({"material_id": names, "megnet_split": ["train"] * 5 + ["val"] * 8 + ["test", "test", None]})
    pq.write_table(table, tmp_path / "properties.parquet")
    rule = PublishedSplit(lists=str(tmp_path / "properties.parquet"), part="megnet_split")
    split = make_split(energies, rule)
    assert {name for part in split.held_out for name in part.ids} == set(names[5:13])
    assert (split.sizes["train"], split.sizes["test"]) == (5, 2)
    with pytest.raises(ConfigError, match="no column 'split'"):
        make_split(energies, rule.model_copy(update={"part": "split"}))


def test_a_published_split_that_contradicts_itself_or_the_dataset_is_refused(energies, tmp_path):
    path = tmp_path / "lists.json"
    path.write_text(json.dumps({"train": ["a", "b"], "test": ["b"]}))
    with pytest.raises(ConfigError, match="lists 'b' under train and under test"):
        make_split(energies, PublishedSplit(lists=str(path)))
    path.write_text(json.dumps({"train": ["a", "b"], "test": ["c"]}))
    with pytest.raises(ConfigError, match="split of another dataset"):
        make_split(energies, PublishedSplit(lists=str(path)))
    path.write_text(json.dumps({"training": ["a", "b"]}))
    with pytest.raises(ConfigError, match="no train and test lists but training"):
        make_split(energies, PublishedSplit(lists=str(path)))


def card(**rule) -> ModelCard:
    return ModelCard(split=SplitRule(**rule).model_dump())


def test_pre_training_on_a_range_below_the_test_part_is_allowed(energies):
    split = make_split(energies, RULE)
    assert refuse_seen(split, card(train=0.8), "m") == split.sizes | {"test": 0}
    nothing = dict.fromkeys(split.sizes, 0)
    assert refuse_seen(split, card(train=0.6), "m") == nothing | {"train": len(split.train)}


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        ({"train": 0.9}, "the 41 test materials; split the task by formula"),
        ({"train": 0.8, "salt": "other"}, "test materials; split the task by formula with the same salt"),
        ({"train": 0.8, "by": "chemsys", "salt": "other"}, "split the task by chemsys"),
        ({"train": 0.1, "by": "material"}, "polymorphs of test formulas"),
    ],
)
def test_a_model_that_saw_test_formulas_is_refused(energies, seen, said):
    split = make_split(energies, RULE)
    text = said.replace("41", str(len(split.test)))
    with pytest.raises(ConfigError, match=text):
        refuse_seen(split, card(**seen), "m")


def test_a_model_that_does_not_say_what_it_saw_is_refused(energies):
    with pytest.raises(ConfigError, match="does not record"):
        refuse_seen(make_split(energies, RULE), ModelCard(), "m")
