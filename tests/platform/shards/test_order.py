"""The order of samples: exactly once, reproducible, well mixed, bounded."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from crystalign.crystal import Crystal
from crystalign.errors import DatasetError
from crystalign.material import Material, Provenance
from crystalign.modalities.crystal import CrystalModality
from crystalign.modalities.text import Text
from crystalign.shards.dataset import Dataset
from crystalign.shards.order import EpochOrder
from crystalign.shards.selection import Selection
from crystalign.shards.splits import SplitRule
from crystalign.shards.writer import commit_manifest, write_shard


def selection(groups: int = 40, rows: int = 64, seed: int = 0) -> Selection:
    rng = np.random.default_rng(seed)
    masks = tuple(rng.random(rows) < 0.8 for _ in range(groups))
    return Selection("data", np.repeat(np.arange(groups // 8), 8), np.tile(np.arange(8), groups // 8), masks)


def all_rows(order: EpochOrder) -> np.ndarray:
    return np.concatenate([order.rows(step) for step in range(order.steps)])


@pytest.mark.parametrize("window_rows", [100, 500, 10**6])
@pytest.mark.parametrize("batch_size", [1, 37, 256])
def test_every_chosen_row_is_seen_exactly_once_and_the_last_step_is_short(batch_size: int, window_rows: int) -> None:
    chosen = selection()
    order = EpochOrder(chosen, seed=1, epoch=0, batch_size=batch_size, window_rows=window_rows)
    expected = np.concatenate([chosen.rows(place) for place in range(40)])
    assert sorted(map(tuple, all_rows(order))) == sorted(map(tuple, expected))
    sizes = [len(order.rows(step)) for step in range(order.steps)]
    assert sizes[:-1] == [batch_size] * (order.steps - 1)
    assert sizes[-1] == (chosen.n - 1) % batch_size + 1


def test_the_order_is_a_pure_function_and_can_be_asked_for_in_any_order() -> None:
    make = {"seed": 3, "epoch": 2, "batch_size": 50, "window_rows": 300}
    one, two = EpochOrder(selection(), **make), EpochOrder(selection(), **make)
    backwards = {step: two.rows(step) for step in reversed(range(two.steps))}
    assert all(np.array_equal(one.rows(step), backwards[step]) for step in range(one.steps))


def test_epochs_seeds_and_selections_have_orders_of_their_own() -> None:
    def order(seed: int = 0, epoch: int = 0, of: int = 0) -> np.ndarray:
        return all_rows(EpochOrder(selection(seed=of), seed=seed, epoch=epoch, batch_size=64))[:500]

    assert not np.array_equal(order(), order(epoch=1))
    assert not np.array_equal(order(), order(seed=1))
    assert not np.array_equal(order(), order(of=1))


def test_windows_cover_the_epoch_and_need_a_bounded_number_of_rows() -> None:
    order = EpochOrder(selection(), seed=0, epoch=0, batch_size=50, window_rows=300)
    windows = order.windows()
    assert (windows[0].first_step, windows[-1].last_step) == (0, order.steps)
    assert all(a.last_step == b.first_step for a, b in pairwise(windows))
    for window in windows:
        rows = np.concatenate([order.rows(step) for step in range(window.first_step, window.last_step - 1)])
        assert len(np.unique(rows[:, :2], axis=0)) * 64 * 0.8 <= 300 + 2 * 64 + 50


def test_a_batch_is_mixed_from_all_row_groups_of_its_bucket_as_if_drawn_at_random() -> None:
    chosen = selection(groups=16, rows=512)
    order = EpochOrder(chosen, seed=0, epoch=0, batch_size=256)
    batches = [order.rows(step) for step in range(order.steps - 1)]
    share = chosen.counts / chosen.n
    chi2 = []
    for batch in batches:
        seen = np.bincount(batch[:, 0] * 8 + batch[:, 1], minlength=16)
        chi2.append(((seen - 256 * share) ** 2 / (256 * share)).sum())
    # 15 degrees of freedom; the mean over 24 batches has a standard error of sqrt(30 / 24) = 1.1
    assert 11.0 < np.mean(chi2) < 18.5


def test_each_window_is_spread_over_the_whole_dataset() -> None:
    order = EpochOrder(selection(), seed=0, epoch=0, batch_size=50, window_rows=500)
    windows = order.windows()
    assert len(windows) == 5
    for window in windows:
        rows = np.concatenate([order.rows(step) for step in range(window.first_step + 1, window.last_step - 1)])
        places = np.unique(rows[:, 0] * 8 + rows[:, 1])
        assert np.array_equal(places // 5, np.arange(8)), "one of each five neighbours"


def test_neighbouring_rows_are_not_neighbours_any_more() -> None:
    rows = all_rows(EpochOrder(selection(groups=16, rows=512), seed=0, epoch=0, batch_size=256))
    together = (np.abs(np.diff(rows[:, 2])) == 1) & (np.diff(rows[:, 1]) == 0) & (np.diff(rows[:, 0]) == 0)
    assert together.mean() < 0.01


def dataset(uri: str) -> Dataset:
    rng = np.random.default_rng(0)
    rows = [
        Material(
            f"m{i}",
            Crystal(np.eye(3) * 5, rng.random((3, 3)), rng.integers(1, 90, 3)),
            Provenance("test", "CC0-1.0"),
            {"text": Text("known", generated=False)} if i % 3 else {},
        )
        for i in range(120)
    ]
    entries = [write_shard(uri, str(k), rows[k * 60 : k * 60 + 60], rows_per_group=16) for k in range(2)]
    commit_manifest(uri, entries)
    return Dataset.open(uri)


def test_a_selection_holds_split_and_required_modalities_and_survives_its_file(tmp_path: Path) -> None:
    data = dataset(str(tmp_path))
    chosen = Selection.build(data, SplitRule(), "train", require=["text"])
    rows = np.concatenate([chosen.rows(place) for place in range(len(chosen.masks))])
    found = set()
    for shard, group, row in rows.tolist():
        found.add(data.read(shard, group, columns=["id"]).column("id")[row].as_py())
    table = data.table(["id", "text", "split_formula"])
    keep = SplitRule().mask(table, "train") & table.column("text").is_valid().to_numpy()
    assert found == {i for i, k in zip(table.column("id").to_pylist(), keep, strict=True) if k}
    again = Selection.load(chosen.save(data.uri))
    assert (again.sha256, again.n) == (chosen.sha256, chosen.n)
    parts = [Selection.build(data, SplitRule(), part).n for part in ("train", "validation", "test")]
    assert sum(parts) == 120


def test_a_selection_under_a_wrong_name_is_refused(tmp_path: Path) -> None:
    path = Path(Selection.build(dataset(str(tmp_path)), SplitRule(), "train").save(str(tmp_path)))
    with pytest.raises(DatasetError, match="not the one it is named after"):
        Selection.load(str(path.rename(path.with_name("0" * 64 + ".parquet"))))


def test_a_selection_that_was_cut_short_is_refused(tmp_path: Path) -> None:
    path = Path(Selection.build(dataset(str(tmp_path)), SplitRule(), "train").save(str(tmp_path)))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DatasetError, match="is not a selection"):
        Selection.load(str(path))


def test_the_order_is_the_same_on_every_machine_for_ever() -> None:
    order = EpochOrder(selection(), seed=0, epoch=0, batch_size=4, window_rows=500)
    assert order.rows(0).tolist() == [[2, 3, 24], [1, 4, 24], [4, 2, 32], [3, 2, 25]]


def test_an_empty_selection_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="has no material with dos"):
        Selection.build(dataset(str(tmp_path)), SplitRule(), "train", require=["dos"])


def test_what_a_model_cannot_take_is_left_out_before_it_is_met(tmp_path: Path) -> None:
    data = dataset(str(tmp_path))
    small, large = (CrystalModality(CrystalModality.Settings(max_sites=n)) for n in (2, 3))
    everything = Selection.build(data, SplitRule(), "train")
    assert Selection.build(data, SplitRule(), "train", fits=[large]).sha256 == everything.sha256
    with pytest.raises(DatasetError, match="has no material"):
        Selection.build(data, SplitRule(), "train", fits=[small])
