from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path

import pytest

from crystalign.errors import ConfigError, DatasetError, Error
from crystalign.model_config import ModalitySpec, ModelConfig
from crystalign_jobs.pretrain import Pretrain, pretrain

pytestmark = pytest.mark.usefixtures("ray_session")

MODEL = ModelConfig(
    embedding_dim=16,
    modalities={
        "composition": ModalitySpec(encoder="composition-transformer", options={"hidden": 16, "layers": 1}),
        "text": ModalitySpec(encoder="bert", options={"hidden": 16, "layers": 1, "vocabulary": 300}),
    },
    pairs=(("composition", "text"),),
)


def settings(data, out, **changes):
    base = {
        "data": data,
        "out": str(out),
        "name": "run",
        "model": MODEL,
        "batch_size": 16,
        "epochs": 3,
        "checkpoint_every_steps": 4,
        "log_every_steps": 1,
        "rows_per_window": 32,
        "optimiser": {"lr": 5e-3},
        "loggers": ("csv",),
    }
    return Pretrain.model_validate(base | changes)


def audit(folder, *, dies_at=None):
    """A watch that writes down the ids of each (step, rank), and kills rank 1 once before a step."""

    def watch(rank: int, step: int, ids: list[str]) -> None:
        flag = Path(folder) / "died"
        if step == dies_at and rank == 1 and not flag.exists():
            flag.touch()
            os._exit(9)
        (Path(folder) / f"{step:04d}-{rank}.json").write_text(json.dumps(ids))

    Path(folder).mkdir(parents=True, exist_ok=True)
    return watch


def history(folder):
    return {path.stem: json.loads(path.read_text()) for path in sorted(Path(folder).glob("*.json"))}


@pytest.fixture(scope="module")
def uninterrupted(small_dataset, tmp_path_factory, ray_session):
    folder = tmp_path_factory.mktemp("uninterrupted")
    model = pretrain(settings(small_dataset, folder), watch=audit(folder / "audit"))
    return folder, model


def test_two_workers_lower_the_loss_and_write_a_model_that_loads(uninterrupted, small_dataset):
    import crystalign.model
    from crystalign.shards.dataset import Dataset

    folder, uri = uninterrupted
    rows = list(csv.DictReader((folder / "run" / "metrics.csv").open()))
    losses = [float(row["loss"]) for row in rows]
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])
    model = crystalign.model.load(uri)
    assert model.card.steps == len(rows)
    assert model.card.dataset_sha256 == Dataset.open(small_dataset).manifest.sha256
    assert model.card.split["by"] == "formula"
    assert model.embed("composition", [next(iter(Dataset.open(small_dataset).materials())).value("composition")]).shape
    assert (folder / "run" / "config.yaml").is_file()


def test_a_rank_that_dies_changes_neither_the_samples_nor_a_bit_of_the_weights(uninterrupted, small_dataset, tmp_path):
    import crystalign.model

    folder, uri = uninterrupted
    shutil.copytree(folder / "run" / "prepared", tmp_path / "run" / "prepared")  # of equal vocabulary
    again = pretrain(settings(small_dataset, tmp_path), watch=audit(tmp_path / "audit", dies_at=6))
    assert (tmp_path / "audit" / "died").exists()
    assert history(tmp_path / "audit") == history(folder / "audit")
    assert crystalign.model.load(again).sha256 == crystalign.model.load(uri).sha256


def test_a_run_that_gave_up_is_resumed_at_its_checkpoint(uninterrupted, small_dataset, tmp_path):
    import crystalign.model

    folder, uri = uninterrupted
    shutil.copytree(folder / "run" / "prepared", tmp_path / "run" / "prepared")
    config = settings(small_dataset, tmp_path, max_failures=0)
    with pytest.raises(Error, match=r"ranks that failed: .*1.*--resume"):
        pretrain(config, watch=audit(tmp_path / "first", dies_at=6))
    with pytest.raises(ConfigError, match="already holds a run"):
        pretrain(config)
    resumed = config.model_copy(update={"resume": True})
    again = pretrain(resumed, watch=audit(tmp_path / "second"))
    second, whole = history(tmp_path / "second"), history(folder / "audit")
    assert min(second) == "0004-0"
    assert second == {key: ids for key, ids in whole.items() if key >= "0004"}
    assert crystalign.model.load(again).sha256 == crystalign.model.load(uri).sha256


def test_a_run_is_not_resumed_with_settings_that_change_it(uninterrupted, small_dataset):
    folder, _ = uninterrupted
    with pytest.raises(ConfigError, match="batch_size=16 rather than 8"):
        pretrain(settings(small_dataset, folder, resume=True, batch_size=8))


def test_a_model_that_aligns_what_the_data_lacks_is_refused(small_dataset, tmp_path):
    model = MODEL.model_copy(
        update={"modalities": {**MODEL.modalities, "xrd": ModalitySpec(encoder="xrd-resnet")}},
    )
    with pytest.raises(DatasetError, match="holds no xrd"):
        pretrain(settings(small_dataset, tmp_path, model=model))


def test_a_plan_larger_than_the_cluster_is_refused_with_its_sum(small_dataset, tmp_path):
    with pytest.raises(ConfigError, match=r"1000 training workers × \(1 CPU, 0 GPU\)"):
        pretrain(settings(small_dataset, tmp_path, num_workers=1000))


def test_a_run_ends_after_its_steps_and_its_schedule_with_it(small_dataset, tmp_path):
    pretrain(settings(small_dataset, tmp_path, epochs=50, max_steps=3))
    rows = list(csv.DictReader((tmp_path / "run" / "metrics.csv").open()))
    assert [float(row["step"]) for row in rows] == [1, 2, 3]
    assert 0 < float(rows[2]["lr"]) < 0.5 * float(rows[1]["lr"])  # of a cosine over three steps, not over fifty epochs
