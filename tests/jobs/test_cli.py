"""The command line: light, teaching, and clear about mistakes."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest
import tyro
from pydantic import Field

from crystalign.config import Config
from crystalign.errors import ConfigError, CrystalError
from crystalign_jobs import cli

HEAVY = {"torch", "ray", "pymatgen", "pydantic", "numpy", "pyarrow", "faiss", "transformers", "tyro", "rich", "yaml"}


class Optimiser(Config):
    """How it learns."""

    lr: float = Field(default=1e-3, gt=0)
    """Peak learning rate."""
    betas: tuple[float, float] = (0.9, 0.98)
    """Decay of the moments."""


class Part(Config):
    """One modality of a model."""

    encoder: str
    """Which network."""
    options: dict[str, object] = {}
    """Its settings."""


class Brew(Config):
    """Brew a potion.

    Example: crystalign brew s3://cellar/roots --out s3://cellar/potions
    """

    data: tyro.conf.Positional[str]
    """What goes in."""
    out: str
    """Where it goes."""
    optimiser: Optimiser = Field(default_factory=lambda: Optimiser(betas=(0.5, 0.6)))
    """How it learns."""
    parts: dict[str, Part] = {"crystal": Part(encoder="gated-graph", options={"hidden": 48})}
    """What it is made of."""
    pairs: tuple[tuple[str, str], ...] = (("crystal", "dos"),)
    """What is aligned."""
    loss: Literal["clip", "siglip"] = "clip"
    """Which objective."""
    limit: int | None = None
    """How many."""
    wait: bool = True
    """Whether to wait."""


BREW = cli.Verb("brew", "nowhere", "Brew", "brew a potion")
PRETRAIN = cli.VERBS["pretrain"]


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def config_file(folder: Path, text: str) -> str:
    path = folder / "settings.yaml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("args", [[], ["--help"], ["--version"]])
def test_the_bare_command_imports_nothing_heavy(args):
    paths = [p for p in sys.path if p]
    code = (
        f"import sys; sys.path[:0] = {paths!r}; from crystalign_jobs import cli; code = cli.main({args!r}); "
        f"print(sorted({HEAVY!r} & set(sys.modules)), code)"
    )
    assert run_python(code).splitlines()[-1] == "[] 0"


def test_the_help_names_every_command_in_the_order_of_the_pipeline(capsys):
    assert cli.main([]) == 0
    text = capsys.readouterr().out
    order = [
        "ingest",
        "check",
        "duplicates",
        "merge",
        "derive",
        "hull",
        "enumerate",
        "pretrain",
        "runs",
        "evaluate",
        "tune",
        "predict",
    ]
    changes = ["add", "remove", "compact", "versions", "rollback", "prune"]
    order += ["embed", "index", "index describe", "index verify", *(f"index {name}" for name in changes)]
    order += ["calibrate", "serve", "search", "similar", "screen", "replay"]
    positions = [text.index(f"\n  {name} ") for name in order]
    assert positions == sorted(positions)
    assert set(cli.VERBS) == {*order, "demo", "encoders", "submit"}


@pytest.mark.parametrize("verb", cli.VERBS.values(), ids=lambda verb: verb.name)
def test_every_command_exists_and_teaches(verb, capsys):
    module = importlib.import_module(verb.module)
    cls = getattr(module, verb.config)
    assert issubclass(cls, Config)
    assert callable(module.main)
    assert f"crystalign {verb.name}" in (cls.__doc__ or ""), "the docstring shows an example"
    bare = [name for name, field in cls.model_fields.items() if not field.description]
    assert not bare
    with pytest.raises(SystemExit) as stop:
        cli.parse(verb, cls, ["--help"])
    assert stop.value.code == 0
    assert f"usage: crystalign {verb.name}" in capsys.readouterr().out


def test_flags_reach_nested_fields():
    args = "roots --out pot --optimiser.lr 0.5 --parts.crystal.encoder potnet --pairs a b c d --loss siglip --no-wait"
    brew = cli.parse(BREW, Brew, args.split())
    assert isinstance(brew, Brew)
    assert (brew.data, brew.out, brew.loss, brew.wait) == ("roots", "pot", "siglip", False)
    assert brew.optimiser == Optimiser(lr=0.5, betas=(0.5, 0.6))
    assert brew.parts == {"crystal": Part(encoder="potnet", options={"hidden": 48})}
    assert brew.pairs == (("a", "b"), ("c", "d"))


def test_a_file_gives_the_defaults_and_flags_override_them(tmp_path):
    source = config_file(tmp_path, "out: pot\nlimit: 3\noptimiser: {lr: 0.25}\nparts: {dos: {encoder: mlp}}\n")
    brew = cli.parse(BREW, Brew, ["roots", "--limit", "4"], source)
    assert isinstance(brew, Brew)
    assert (brew.data, brew.out, brew.limit) == ("roots", "pot", 4)
    assert brew.optimiser == Optimiser(lr=0.25, betas=(0.5, 0.6)), "a section replaces only what it names"
    assert brew.parts == {"dos": Part(encoder="mlp")}


def test_a_job_file_is_a_config_file_of_its_verb(tmp_path):
    source = config_file(tmp_path, "verb: brew\nconfig: {data: roots, out: pot}\n")
    assert cli.parse(BREW, Brew, [], source).model_dump()["data"] == "roots"
    other = BREW._replace(name="distil")
    with pytest.raises(ConfigError, match="a job for `crystalign brew`"):
        cli.parse(other, Brew, [], source)


def test_settings_may_stand_inline():
    source = json.dumps({"data": "roots", "out": "it's a pot", "pairs": [["a", "b"]]})
    assert cli.parse(BREW, Brew, [], source) == Brew(data="roots", out="it's a pot", pairs=(("a", "b"),))


def test_required_flags_stay_required_beside_a_file(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.parse(BREW, Brew, ["roots"], config_file(tmp_path, "limit: 3\n"))
    assert stop.value.code == 2
    assert "--out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("limmit: 3\n", "no field 'limmit'; perhaps you meant 'limit'"),
        ("optimiser: {lr: -1}\n", "lr: Input should be greater than 0"),
        ("optimiser: {rl: 1}\n", "Optimiser has no field 'rl'"),
        ("loss: mse\n", "loss: Input should be 'clip' or 'siglip'"),
        ("- a\n- b\n", "must hold a mapping"),
    ],
)
def test_a_wrong_file_is_refused_with_its_field(tmp_path, text, complaint):
    with pytest.raises(ConfigError, match=complaint) as caught:
        cli.parse(BREW, Brew, [], config_file(tmp_path, text))
    assert "settings.yaml" in str(caught.value)


def test_presets_are_named_where_there_are_any():
    assert cli.read_source(PRETRAIN, "tiny")["batch_size"] >= 2
    with pytest.raises(ConfigError, match="tiny"):
        cli.read_source(PRETRAIN, "no-such-preset")
    with pytest.raises(ConfigError, match="has no presets"):
        cli.read_source(BREW, "tiny")


def test_a_preset_or_a_file_may_be_the_first_word():
    assert cli._take_config(PRETRAIN, ["tiny", "--out", "x"]) == (["--out", "x"], "tiny")
    assert cli._take_config(PRETRAIN, ["mine.yaml"]) == ([], "mine.yaml")
    assert cli._take_config(PRETRAIN, ["--out", "x", "--config=tiny"]) == (["--out", "x"], "tiny")
    assert cli._take_config(BREW, ["roots", "--out", "x"]) == (["roots", "--out", "x"], None), (
        "no presets, no first word"
    )
    with pytest.raises(ConfigError, match="not from tiny and default"):
        cli._take_config(PRETRAIN, ["tiny", "--config", "default"])


def test_one_setting_can_be_changed_however_deep_it_lies(tmp_path):
    source = config_file(tmp_path, "out: pot\nparts: {dos: {encoder: mlp, options: {a: 1}}, xrd: {encoder: net}}\n")
    changes = ["optimiser.lr=0.25", "parts.dos.options.b=[2, 3]", "parts.xrd=null", "parts.text={encoder: bert}"]
    brew = cli.parse(BREW, Brew, ["roots", "--loss", "siglip"], source, changes=[*changes, "limit=5", "loss=clip"])
    assert isinstance(brew, Brew)
    assert (brew.limit, brew.loss) == (5, "siglip"), "a flag has the last word"
    assert brew.optimiser == Optimiser(lr=0.25, betas=(0.5, 0.6))
    assert brew.parts == {"dos": Part(encoder="mlp", options={"a": 1, "b": [2, 3]}), "text": Part(encoder="bert")}
    assert cli.parse(BREW, Brew, ["roots"], source, changes=["limit=7", "limit=null"]).model_dump()["limit"] is None


def test_which_run_it_is_is_said_by_flags(capsys):
    assert cli.main(["pretrain", "--resume", "--set", "out=runs"]) == 2
    assert "use the flag --out instead" in capsys.readouterr().err


def test_a_preset_loses_a_modality_by_one_change():
    from crystalign_jobs.pretrain import Pretrain

    args = ["--data", "here", "--out", "there"]
    run = cli.parse(PRETRAIN, Pretrain, args, "matbind-paper", changes=["model.modalities.dos=null"])
    assert isinstance(run, Pretrain)
    assert list(run.model.modalities) == ["crystal", "xrd", "text"]
    assert (run.model.objective.learn_temperature, run.batch_size) == (False, 250), "the rest is the preset's"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("optimiser.rl=1", "Optimiser has no field 'rl'"),
        ("limmit=3", "no field 'limmit'; perhaps you meant 'limit'"),
        ("optimiser.lr=-1", "--set optimiser.lr=-1.*greater than 0"),
        ("limit", "expected NAME.NAME=VALUE"),
        (".lr=1", "expected NAME.NAME=VALUE"),
        ("limit.x=1", "nothing to set within"),
        ("parts={", "is not YAML"),
    ],
)
def test_a_wrong_change_is_refused_with_its_field(change, complaint):
    with pytest.raises(ConfigError, match=complaint):
        cli.parse(BREW, Brew, ["roots", "--out", "pot"], changes=[change])


def test_a_file_may_start_from_a_preset(tmp_path):
    from crystalign.training.config import PretrainConfig

    source = config_file(tmp_path, "preset: tiny\ndata: here\nout: there\noptimiser: {clip: 7}\n")
    mixed = cli.parse(cli.VERBS["pretrain"], PretrainConfig, [], source)
    plain = cli.parse(cli.VERBS["pretrain"], PretrainConfig, ["--data", "here", "--out", "there"], "tiny")
    expected = plain.model_dump()
    assert expected["optimiser"]["clip"] != 7
    expected["optimiser"]["clip"] = 7
    assert mixed.model_dump() == expected


@pytest.mark.parametrize(
    "args",
    [
        ["--resume", "URI/runs/first"],
        ["--resume", "URI/runs/first/", "--num_workers", "3"],
        ["--resume", "--name", "first", "--out", "URI/runs"],
        ["--out=URI/runs", "--name=first", "--resume"],
    ],
)
def test_a_run_is_resumed_by_its_name_alone(tmp_path, monkeypatch, args):
    from crystalign_jobs import pretrain

    seen: list[pretrain.Pretrain] = []
    monkeypatch.setattr(pretrain, "main", seen.append)
    folder = tmp_path / "runs" / "first"
    folder.mkdir(parents=True)
    config = pretrain.Pretrain(data="/data", out="/elsewhere", name="other", batch_size=24, keep_checkpoints=5)
    (folder / "config.yaml").write_text(config.to_yaml())
    assert cli.main(["pretrain", *(arg.replace("URI", str(tmp_path)) for arg in args)]) == 0
    workers = 3 if "--num_workers" in args else config.num_workers
    here = {"out": str(folder.parent), "name": "first", "resume": True, "num_workers": workers}
    assert seen == [config.model_copy(update=here)]


def test_a_flag_that_contradicts_the_run_is_an_error_that_names_it(tmp_path, capsys):
    from crystalign_jobs import pretrain

    folder = tmp_path / "first"
    folder.mkdir()
    (folder / "config.yaml").write_text(pretrain.Pretrain(data="/data", out="/out", batch_size=24).to_yaml())
    assert cli.main(["pretrain", "--resume", str(folder), "--batch_size", "8", "--optimiser.lr", "0.5"]) == 2
    error = capsys.readouterr().err
    assert "batch_size=24 rather than 8" in error
    assert "optimiser=" in error


def test_a_run_that_is_not_there_is_not_resumed(tmp_path, capsys):
    assert cli.main(["pretrain", "--resume", str(tmp_path / "first")]) == 2
    assert f"crystalign runs {tmp_path}" in capsys.readouterr().err
    assert cli.main(["pretrain", "--resume"]) == 2
    assert "--resume OUT/NAME" in capsys.readouterr().err


def test_a_job_file_may_resume(tmp_path):
    out = str(tmp_path)
    source = json.dumps({"out": out, "name": "first", "resume": True})
    from crystalign_jobs.pretrain import Pretrain

    assert cli._take_run(PRETRAIN, Pretrain, [], source) == ([], f"{out}/first")
    assert cli._take_run(PRETRAIN, Pretrain, ["--out", out], None) == (["--out", out], None)


def test_an_unknown_command_suggests_the_nearest(capsys):
    assert cli.main(["pretrian"]) == 2
    error = capsys.readouterr().err
    assert "perhaps you meant 'pretrain'" in error
    assert error.count("\n") == 1


def fail(monkeypatch, error: BaseException) -> None:
    def main(config: Config) -> None:
        raise error

    monkeypatch.setattr("crystalign_jobs.encoders.main", main)


def test_a_users_mistake_is_one_line_and_exit_code_2(monkeypatch, capsys):
    fail(monkeypatch, CrystalError("two atoms\nat one place", reason="overlap"))
    assert cli.main(["encoders"]) == 2
    assert capsys.readouterr().err == "crystalign: two atoms at one place\n"


def test_debug_shows_the_traceback(monkeypatch):
    fail(monkeypatch, ConfigError("no"))
    with pytest.raises(ConfigError):
        cli.main(["encoders", "--debug"])


def test_a_defect_of_ours_is_not_hidden(monkeypatch):
    fail(monkeypatch, KeyError("defect"))
    with pytest.raises(KeyError):
        cli.main(["encoders"])


def test_ctrl_c_is_exit_code_130(monkeypatch):
    fail(monkeypatch, KeyboardInterrupt())
    assert cli.main(["encoders"]) == 130


def test_what_a_ray_worker_raised_is_reported_like_any_mistake(monkeypatch, capsys):
    from ray.exceptions import RayTaskError

    cause = ConfigError("batch_size 1 leaves no negatives; use 2 or more")
    fail(monkeypatch, RayTaskError("train", "Traceback …", cause).as_instanceof_cause())
    assert cli.main(["encoders"]) == 2
    assert capsys.readouterr().err == f"crystalign: {cause}\n"


def test_encoders_lists_every_network_with_its_size(capsys):
    from crystalign.encoders import ENCODERS

    assert cli.main(["encoders", "--json-lines"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["name"] for row in rows] == list(ENCODERS)
    assert all(row["parameters"] > 100 and row["width"] > 1 for row in rows)
    assert cli.main(["encoders", "--modality", "crystal"]) == 0
    assert "cgcnn" in capsys.readouterr().out


def test_encoders_of_an_unknown_modality_names_the_known(capsys):
    assert cli.main(["encoders", "--modality", "smell"]) == 2
    assert "crystal" in capsys.readouterr().err
