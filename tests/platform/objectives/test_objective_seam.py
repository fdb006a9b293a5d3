"""An objective of another package trains, is saved and is read, and nothing of Crystalign names it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from crystalign.batch import make_batch
from crystalign.errors import ConfigError, ModelError
from crystalign.model import Model, load
from crystalign.model_config import ModelConfig
from crystalign.objectives import OBJECTIVES
from crystalign.training.config import PretrainConfig
from crystalign.training.loop import train
from outside_package import install

SOURCE = Path(__file__).with_name("soft_triplet.py")
NAME = "soft-triplet"
MODALITIES = {
    "crystal": {"encoder": "gated-graph", "options": {"hidden": 8, "layers": 1, "width": 16}},
    "composition": {"encoder": "composition-transformer", "options": {"hidden": 16, "layers": 1}},
}


@pytest.fixture
def package(tmp_path_factory, monkeypatch) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("site")
    monkeypatch.syspath_prepend(install(folder, SOURCE, "crystalign.objectives", NAME, "SoftTriplet"))
    yield folder
    monkeypatch.undo()
    sys.modules.pop("soft_triplet", None)
    OBJECTIVES.refresh()


def described(**settings) -> ModelConfig:
    objective = {"kind": NAME, **settings}
    values = {"modalities": MODALITIES, "embedding_dim": 12, "objective": objective}
    return ModelConfig.from_mapping(values, origin="test")


def drawn(n: int = 6) -> tuple[dict, dict, dict]:
    generator = torch.Generator().manual_seed(1)
    z = {name: torch.nn.functional.normalize(torch.randn(n, 12, generator=generator), dim=1) for name in MODALITIES}
    return z, {name: torch.ones(n, dtype=torch.bool) for name in z}, {name: torch.arange(n) for name in z}


def test_it_computes_its_formula_with_its_own_settings(package):
    model = Model(described(margin=0.1, initial_temperature=0.5))
    z, present, keys = drawn()
    cosines = z["crystal"] @ z["composition"].T
    own = cosines.diag()
    negative = ~torch.eye(len(own), dtype=torch.bool)
    ways = [torch.log1p(torch.exp(2.0 * (c - own[:, None] + 0.1)))[negative].sum() for c in (cosines, cosines.T)]
    torch.testing.assert_close(model.loss(z, present, keys).total, sum(ways) / (2 * len(own)))


def test_it_trains_its_temperature_and_is_saved_and_read(package, tmp_path, synthetic_materials):
    torch.manual_seed(0)
    model = Model(described(margin=0.1))
    before = model.log_scales["crystal__composition"].detach().clone()
    batch = make_batch(synthetic_materials(16), model.modalities)
    records: list[dict[str, float]] = []
    config = PretrainConfig(data="none", out="none", model=model.config, batch_size=16, log_every_steps=1)
    train(config, model, [batch] * 12, total_steps=12, on_log=records.append)
    assert records[-1]["loss"] < records[0]["loss"]
    assert "temperature/crystal-composition" in records[-1]
    assert not torch.equal(model.log_scales["crystal__composition"], before)
    model.save_pretrained(tmp_path)
    again = load(tmp_path)
    assert again.config.objective == model.config.objective
    assert again.sha256 == model.sha256
    torch.testing.assert_close(again.loss(*drawn()).total, model.loss(*drawn()).total, rtol=0, atol=0)


def test_another_process_reads_the_model_where_the_package_is_installed(package, tmp_path):
    model = Model(described())
    model.save_pretrained(tmp_path)
    code = f"import crystalign.model; print(crystalign.model.load({str(tmp_path)!r}).config.objective.kind)"

    def read(*paths: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
        return subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
        )

    others = [path for path in sys.path if path and path != str(package)]
    assert read(str(package), *others).stdout.strip() == NAME
    assert f"no objective {NAME!r}" in read(*others).stderr


def test_without_the_package_the_objective_is_missed_by_name(tmp_path):
    with pytest.raises(ConfigError, match=f"no objective '{NAME}'; there are clip, siglip, cosface"):
        described()


def test_a_notebook_registers_its_own_objective(tmp_path):
    from crystalign.objectives.clip import Clip

    class Warm(Clip):
        kind: str = "warm"

    OBJECTIVES.register("warm", Warm)
    try:
        values = {"modalities": MODALITIES, "objective": {"kind": "warm", "initial_temperature": 0.5}}
        model = Model(ModelConfig.from_mapping(values, origin="test"))
        model.save_pretrained(tmp_path)
        assert isinstance(load(tmp_path).config.objective, Warm)
    finally:
        OBJECTIVES.unregister("warm")
    with pytest.raises(ModelError, match="no objective 'warm'"):
        load(tmp_path)


def test_parameters_cannot_take_the_place_of_the_model_s_own():
    from crystalign.objectives.siglip import SigLip

    class Greedy(SigLip):
        kind: str = "greedy"

        def parameters(self, modalities):
            return {"encoders": torch.nn.Linear(2, 2)}

    with pytest.raises(ConfigError, match="objective 'greedy' must not call its parameters 'encoders'"):
        Model(ModelConfig(modalities=MODALITIES, objective=Greedy()))
