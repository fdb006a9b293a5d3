"""`crystalign encoders` lists the networks, and the options of one of them."""

from __future__ import annotations

import json

import pytest

from crystalign.encoders.pyg import MODELS, PyG
from crystalign.errors import ConfigError
from crystalign_jobs.encoders import Encoders, main


def test_every_option_of_pyg_is_listed_with_its_default_and_its_meaning(capsys):
    main(Encoders(name="pyg"))
    printed = capsys.readouterr().out
    assert all(option in printed for option in (*PyG.Settings.model_fields, *MODELS))
    main(Encoders(name="pyg", json_lines=True))
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {row["option"]: row["default"] for row in rows} == PyG.Settings().model_dump(mode="json")
    assert all(row["meaning"] for row in rows)


def test_pyg_is_among_the_networks_that_read_crystals(capsys):
    main(Encoders(modality="crystal", json_lines=True))
    rows = {row["name"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    assert rows["pyg"]["width"] == 256
    assert rows["pyg"]["parameters"] > 10_000
    assert all(model in rows["pyg"]["source"] for model in MODELS)


def test_two_tables_at_once_are_refused():
    with pytest.raises(ConfigError, match="give one of them"):
        main(Encoders(name="pyg", modality="crystal"))
