"""The scale of the targets is that of the training labels, whoever asks."""

from __future__ import annotations

import dataclasses
import typing

import numpy as np
import pytest
import torch

from crystalign.errors import ConfigError
from crystalign.finetuning.data.scaling import TargetScaler
from crystalign.finetuning.data.splits import Split, TrainSet, make_split, sixty_twenty_twenty
from crystalign.finetuning.data.task import Task, read_labels
from crystalign.finetuning.results.metrics import constants


@pytest.fixture
def split(energies) -> Split:
    return make_split(energies, sixty_twenty_twenty())


@pytest.mark.parametrize("fit", [TargetScaler.fit, constants])
def test_only_a_training_part_can_be_fitted(split, fit):
    assert typing.get_type_hints(fit)["train"] is TrainSet
    for wrong in (split.test, split.validation, split, split.labels, split.train.values):
        with pytest.raises(TypeError, match="training part alone"):
            fit(wrong)


def test_no_test_label_changes_the_scale(split):
    values = split.labels.values.copy()
    values[np.concatenate([split.validation.rows, split.test.rows])] += 1000.0
    other = make_split(dataclasses.replace(split.labels, values=values), sixty_twenty_twenty())
    assert TargetScaler.fit(other.train) == TargetScaler.fit(split.train)
    values[split.train.rows[0]] += 1.0
    other = make_split(dataclasses.replace(split.labels, values=values), sixty_twenty_twenty())
    assert TargetScaler.fit(other.train) != TargetScaler.fit(split.train)


@pytest.mark.parametrize("transform", ["linear", "log10"])
def test_scaled_labels_are_standard_and_come_back(labelled, transform):
    labels = read_labels(labelled, Task(target=("bulk_modulus_vrh", "shear_modulus_vrh"), transform=transform))
    train = make_split(labels, sixty_twenty_twenty()).train
    scaler = TargetScaler.fit(train)
    scaled = scaler.scaled(train.values)
    assert np.nanmean(scaled, axis=0) == pytest.approx([0, 0], abs=1e-12)
    assert np.nanstd(scaled, axis=0) == pytest.approx([1, 1])
    assert np.allclose(scaler.restored(scaled), train.values, equal_nan=True)
    same = scaler.scaled_tensor(torch.from_numpy(train.values)).numpy()
    assert np.allclose(same, scaled, equal_nan=True)
    assert TargetScaler.model_validate_json(scaler.model_dump_json()) == scaler


def test_a_classification_has_logits(labelled):
    labels = read_labels(labelled, Task(target="total_magnetization_per_atom", kind="classification"))
    scaler = TargetScaler.fit(make_split(labels, sixty_twenty_twenty()).train)
    assert np.array_equal(scaler.scaled(labels.values), labels.values)
    assert scaler.restored(np.array([[0.0], [1e4], [-1e4]])).ravel() == pytest.approx([0.5, 1.0, 0.0])


def test_equal_labels_and_missing_ones(energies):
    same = dataclasses.replace(energies, values=np.full_like(energies.values, 2.0))
    assert TargetScaler.fit(make_split(same, sixty_twenty_twenty()).train).std == (1.0,)
    none = dataclasses.replace(energies, values=np.full_like(energies.values, np.nan))
    with pytest.raises(ConfigError, match="none of the"):
        TargetScaler.fit(make_split(none, sixty_twenty_twenty()).train)
