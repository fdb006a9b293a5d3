"""A source from outside the package is ingested like one of ours: one class, and one line that registers it."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from crystalign.crystal import SYMBOLS, Crystal
from crystalign.errors import ConfigError, CrystalError
from crystalign.material import Material
from crystalign.rejects import Reject
from crystalign.shards.dataset import Dataset
from crystalign.sources import SOURCES, Item, Source, SourceKind, SourceRequest, open_source
from crystalign_jobs import cli


class RockSalts(Source):
    """The rock salts that a location such as `rocksalt:NaCl,KBr` lists, with a lattice constant of 5.6 Å."""

    def __init__(self, request: SourceRequest) -> None:
        super().__init__(request.limits)
        self.formulas = request.location.removeprefix("rocksalt:").split(",")
        self.provenance = request.provenance

    def items(self) -> list[Item]:
        return [Item(key=formula, id=formula) for formula in self.formulas]

    def load(self, item: Item) -> Iterator[Material | Reject]:
        symbols = re.findall("[A-Z][a-z]?", item.key)
        unknown = [symbol for symbol in symbols if symbol not in SYMBOLS]
        if unknown:
            raise CrystalError(f"{unknown[0]!r} is not an element", reason="unknown-element")
        numbers = np.array([SYMBOLS.index(symbol) for symbol in symbols])
        lattice = 2.8 * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]])
        yield Material(item.id, Crystal(lattice, np.array([[0, 0, 0], [0.5] * 3]), numbers), self.provenance)


KIND = SourceKind(recognises=lambda location: location.startswith("rocksalt:"), opens=RockSalts)
"""What the entry point of an installed package names: `rocksalt = "my_package.rocksalt:KIND"`."""


@pytest.fixture
def rock_salts() -> Iterator[None]:
    """The kind, registered in this process; its class travels to the workers by value, as that of a notebook does."""
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    SOURCES.register("rocksalt", KIND)
    yield
    SOURCES.unregister("rocksalt")
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.mark.usefixtures("ray_session", "rock_salts")
def test_a_source_from_outside_is_ingested_by_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "data")
    args = ["ingest", "rocksalt:NaCl,KBr,XyCl,MgO", "--out", out, "--licence", "CC0-1.0", "--name", "salts"]
    assert cli.main(args) == 0
    dataset = Dataset.open(out)
    dataset.verify()
    materials = list(dataset.materials())
    assert sorted((m.id, m.spacegroup_number, m.provenance.source, m.provenance.licence) for m in materials) == [
        ("KBr", 225, "salts", "CC0-1.0"),
        ("MgO", 225, "salts", "CC0-1.0"),
        ("NaCl", 225, "salts", "CC0-1.0"),
    ]
    assert [(r["id"], r["reason"]) for r in dataset.quarantine().to_pylist()] == [("XyCl", "unknown-element")]
    assert "3 crystals" in capsys.readouterr().out


@pytest.mark.usefixtures("rock_salts")
def test_a_mapping_belongs_to_the_kinds_that_ask_for_one() -> None:
    with pytest.raises(ConfigError, match="rocksalt:NaCl takes no --mapping"):
        open_source("rocksalt:NaCl", mapping="materials_project")


def test_without_registration_the_location_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rocksalt:NaCl").mkdir()
    assert type(open_source("rocksalt:NaCl")).__name__ == "FilesSource"


@pytest.mark.usefixtures("rock_salts")
def test_a_location_that_two_kinds_recognise_is_refused() -> None:
    SOURCES.register("everything", SourceKind(recognises=lambda _: True, opens=RockSalts))
    try:
        with pytest.raises(ConfigError, match="recognised by the sources rocksalt and everything"):
            open_source("rocksalt:NaCl")
    finally:
        SOURCES.unregister("everything")
