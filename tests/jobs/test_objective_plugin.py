"""`crystalign pretrain` trains with an objective of another package, on Ray workers that find it by themselves."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from outside_package import install

SOURCE = Path(__file__).parents[1] / "platform" / "objectives" / "soft_triplet.py"
SETTINGS = {
    "model": {
        "embedding_dim": 16,
        "modalities": {
            "composition": {"encoder": "composition-transformer", "options": {"hidden": 16, "layers": 1}},
            "text": {"encoder": "bert", "options": {"hidden": 16, "layers": 1, "vocabulary": 300}},
        },
        "objective": {"kind": "clip", "pairs": [["composition", "text"]]},
    },
    "batch_size": 16,
    "max_steps": 2,
    "num_workers": 1,
    "log_every_steps": 1,
    "rows_per_window": 32,
    "loggers": ["csv"],
}


@pytest.fixture
def environment(tmp_path) -> dict[str, str]:
    """The variables of a shell in which the package is installed."""
    site = install(tmp_path / "site", SOURCE, "crystalign.objectives", "soft-triplet", "SoftTriplet")
    others = [path for path in sys.path if path]
    return os.environ | {"PYTHONPATH": os.pathsep.join([site, *others])}


@pytest.mark.ray
@pytest.mark.timeout(600)  # two commands, each with a cluster of its own
def test_the_command_trains_with_an_installed_objective_and_goes_on_with_it(small_dataset, environment, tmp_path):
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(SETTINGS))
    changes = ["--set", "model.objective.kind=soft-triplet", "--set", "model.objective.margin=0.1"]
    first = ["small.yaml", *changes, "--data", small_dataset, "--out", "runs", "--name", "outside"]
    command = [sys.executable, "-m", "crystalign_jobs.cli", "pretrain"]

    def run(*args: str) -> str:
        done = subprocess.run(args, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run(*command, *first)
    stored = yaml.safe_load((tmp_path / "runs" / "outside" / "config.yaml").read_text())["model"]["objective"]
    assert (stored["kind"], stored["margin"]) == ("soft-triplet", 0.1)
    assert stored["pairs"] == [["composition", "text"]], "what both objectives have stays"
    shutil.rmtree(tmp_path / "runs" / "outside" / "model")
    run(*command, "--resume", "runs/outside")
    code = "import crystalign.model; print(crystalign.model.load('runs/outside/model').config.objective.margin)"
    assert run(sys.executable, "-c", code).strip() == "0.1"
