"""Which labels a task takes, and what it says of those that it does not."""

from __future__ import annotations

import numpy as np
import pytest

from crystalign.errors import ConfigError
from crystalign.finetuning.data.task import Task, read_labels


def test_a_quantity_with_one_column_names_it(labelled, binaries):
    labels = read_labels(labelled, Task(target="formation_energy_per_atom"))
    assert [s.column for s in labels.specs] == ["formation_energy_per_atom_pbe_synthetic_2026"]
    assert labels.ids == tuple(m.id for m in binaries)
    assert labels.values[:, 0].tolist() == [m.properties[labels.specs[0]] for m in binaries]
    assert labels.groups["formula"][0] == binaries[0].crystal.formula
    assert [labelled.material(s, r, modalities=()).id for s, r in labels.places[[0, 107, 108, 215]].tolist()] == [
        binaries[n].id for n in (0, 107, 108, 215)
    ]


def test_several_targets_need_one_known_value(labelled):
    labels = read_labels(labelled, Task(target=("bulk_modulus_vrh", "shear_modulus_vrh")))
    assert labels.values.shape == (216, 2)
    assert np.isfinite(labels.values).sum(axis=0).tolist() == [216, 108]


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ({"target": "formation_energy"}, ["formation_energy", "perhaps formation_energy_per_atom", "band_gap_hse06"]),
        ({"target": "colour"}, ["'colour'", "it has band_gap_pbe_synthetic_2026"]),
        ({"target": "band_gap"}, ["2 columns", "band_gap_pbe_synthetic_2026, band_gap_hse06_synthetic_2026"]),
        ({"target": "refractive_index"}, ["has 3 labels", "min_labels is 30", "efermi_pbe_synthetic_2019 (216)"]),
        ({"target": "efermi"}, ["216 of 216", "synthetic 2019", "synthetic 2026 (216)", "allow_other_vintage"]),
        ({"target": "formation_energy_per_atom", "transform": "log10"}, ["216 labels", "not positive", "binary-000"]),
        ({"target": "bulk_modulus_vrh", "lower": 1e4}, ["has 0 labels"]),
        ({"target": "bulk_modulus_vrh", "kind": "classification"}, ["threshold", "not 0 and 1"]),
        (
            {"target": "bulk_modulus_vrh", "kind": "classification", "threshold": 1e4},
            ["threshold", "all 216 labels", "'no'"],
        ),
    ],
)
def test_a_task_that_cannot_be_learnt_says_what_would_be_valid(labelled, task, said):
    with pytest.raises(ConfigError) as caught:
        read_labels(labelled, Task.from_mapping(task, origin="the test"))
    for words in said:
        assert words in str(caught.value)


@pytest.mark.parametrize(
    "task",
    [
        {"target": ()},
        {"target": ("band_gap", "band_gap")},
        {"target": "x", "kind": "classification", "transform": "log10"},
        {"target": "x", "threshold": 0.0},
        {"target": "x", "lower": 2.0, "upper": 1.0},
    ],
)
def test_settings_that_contradict_each_other_are_refused(task):
    with pytest.raises(ConfigError):
        Task.from_mapping(task, origin="the test")


def test_labels_of_another_release_are_taken_only_when_asked_for(labelled):
    labels = read_labels(labelled, Task(target="efermi", allow_other_vintage=True))
    assert len(labels) == 216


def test_limits_are_counted(labelled):
    labels = read_labels(labelled, Task(target="bulk_modulus_vrh", transform="log10", lower=100.0, max_sites=2))
    assert labels.values.min() >= 100.0
    assert labels.left_out == {"outside the limits": 216 - len(labels)}
    with pytest.raises(ConfigError, match="has 0 labels"):
        read_labels(labelled, Task(target="bulk_modulus_vrh", max_sites=1))


def test_classes_are_zero_and_one(labelled):
    gap = read_labels(labelled, Task(target="band_gap_pbe_synthetic_2026", kind="classification", threshold=0.0))
    raw = read_labels(labelled, Task(target="band_gap_pbe_synthetic_2026"))
    assert np.array_equal(gap.values, (raw.values > 0).astype(float))
    given = read_labels(labelled, Task(target="total_magnetization_per_atom", kind="classification"))
    assert set(np.unique(given.values)) == {0.0, 1.0}


def test_permuted_labels_are_the_same_values_elsewhere(energies):
    shuffled = energies.permuted(1)
    assert not np.array_equal(shuffled.values, energies.values)
    assert np.array_equal(np.sort(shuffled.values, axis=0), np.sort(energies.values, axis=0))
    assert shuffled.ids == energies.ids
