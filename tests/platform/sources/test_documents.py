"""JSON of pymatgen, the Materials Project, JARVIS and OPTIMADE: every entry is read or refused, ids are kept."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from crystalign.crystal import Crystal
from crystalign.errors import InputError
from crystalign.material import Material
from crystalign.readers.structures.documents import read_document
from crystalign.rejects import Reject
from crystalign.sources import open_source

CUBE = [[5.0, 0, 0], [0, 5.0, 0], [0, 0, 5.0]]


def site(element: str, abc: list[float], **other: object) -> dict:
    return {"species": [{"element": element, "occu": 1}], "abc": abc, "label": element, **other}


SALT = {"lattice": {"matrix": CUBE, "pbc": [True] * 3}, "sites": [site("Na", [0, 0, 0]), site("Cl", [0.5] * 3)]}
JARVIS = {"lattice_mat": CUBE, "coords": [[0, 0, 0], [0.5] * 3], "elements": ["Na", "Cl"], "cartesian": False}
OPTIMADE = {
    "lattice_vectors": CUBE,
    "cartesian_site_positions": [[0, 0, 0], [2.5] * 3],
    "species_at_sites": ["Na", "Cl"],
    "species": [{"name": n, "chemical_symbols": [n], "concentration": [1.0]} for n in ("Na", "Cl")],
}


def read(document: object) -> Crystal:
    return read_document(document, max_sites=100).accepted().crystal


def refusal(document: object) -> str:
    with pytest.raises(InputError) as refused:
        read(document)
    assert len(str(refused.value)) > 15
    return refused.value.reason


@pytest.mark.parametrize(
    "document",
    [
        SALT,
        {"material_id": "mp-1", "structure": SALT, "nsites": 2, "formula_pretty": "NaCl", "volume": 125.0},
        {"@class": "ComputedStructureEntry", "structure": SALT, "energy": -1.0},
        {"structure": json.dumps(SALT)},
        {"structure": Crystal(CUBE, [[0, 0, 0], [0.5] * 3], [11, 17]).to_cif()},
        {"jid": "JVASP-1", "atoms": JARVIS},
        {"jid": "JVASP-1", "atoms": {**JARVIS, "cartesian": True, "coords": [[0, 0, 0], [2.5] * 3]}},
        {"id": "1", "type": "structures", "attributes": OPTIMADE},
        {**SALT, "lattice": {"a": 5, "b": 5, "c": 5, "alpha": 90, "beta": 90, "gamma": 90}},
        {**SALT, "sites": [{**site("Na", [0, 0, 0]), "abc": None, "xyz": [0, 0, 0]}, SALT["sites"][1]]},
    ],
)
def test_a_document_of_each_kind_is_the_same_crystal(document: dict) -> None:
    crystal = read(document)
    assert (crystal.formula, len(crystal)) == ("ClNa", 2)
    assert crystal.volume == pytest.approx(125)
    assert abs(crystal.frac_coords[1] - 0.5).max() < 1e-5


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({"structure": None}, "unreadable-structure"),
        ("text", "unreadable-structure"),
        ({"structure": {"0": SALT}}, "unsupported-layout"),
        ({"structure": "data_x"}, "unreadable-structure"),
        ({**SALT, "lattice": {"matrix": CUBE, "pbc": [True, True, False]}}, "not-periodic"),
        ({"attributes": {**OPTIMADE, "dimension_types": [1, 1, 0]}}, "not-periodic"),
        ({**SALT, "sites": [site("X0+", [0, 0, 0])]}, "unknown-element"),
        ({**SALT, "sites": [site("Na", [0, 0, 0], xyz=[1.0, 0, 0])]}, "coordinates-disagree"),
        ({**SALT, "sites": [site("Na", [0, 0])]}, "bad-sites"),
        ({**SALT, "sites": [{**site("Na", [0, 0, 0]), "species": [{"element": "Na", "occu": 0.7}] * 2}]}, "bad-sites"),
        ({**SALT, "sites": SALT["sites"] * 80}, "too-many-sites"),
        ({"structure": SALT, "nsites": 4}, "sites-disagree"),
        ({"structure": SALT, "formula_pretty": "NaCl2"}, "composition-disagrees"),
        ({"structure": SALT, "volume": 250.0}, "volume-disagrees"),
        ({"jid": "x", "atoms": {**JARVIS, "elements": ["Na", "Qq"]}}, "unknown-element"),
        ({"jid": "x", "atoms": {**JARVIS, "elements": ["Na"]}}, "bad-sites"),
        ({"attributes": {**OPTIMADE, "species_at_sites": None}}, "unreadable-structure"),
    ],
)
def test_a_document_that_contradicts_itself_is_refused(document: object, reason: str) -> None:
    assert refusal(document) == reason


def test_vacancies_and_mixed_species_of_optimade_are_occupancies() -> None:
    mixed = copy.deepcopy(OPTIMADE)
    mixed["species"][0] = {"name": "Na", "chemical_symbols": ["Na", "K", "vacancy"], "concentration": [0.5, 0.3, 0.2]}
    assert read({"attributes": mixed}).composition == pytest.approx({11: 0.5, 17: 1.0, 19: 0.3})


LAYOUTS = {
    "list.json": json.dumps([{"id": 0, "structure": SALT}, {"id": 1, "structure": SALT}]),
    "lines.json": "\n".join(json.dumps({"id": n, "structure": SALT}) for n in range(2)),
    "lines.jsonl": "\n".join(json.dumps({"id": n, "structure": SALT}) for n in range(2)) + "\n",
    "mapping.json": json.dumps({"0": SALT, "1": {"structure": SALT}}),
    "reply.json": json.dumps({"meta": {"n": 2}, "data": [{"id": n, "attributes": OPTIMADE} for n in range(2)]}),
    "indented.json": json.dumps([{"id": "0", "structure": SALT}, {"id": "1", "structure": SALT}], indent=2),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_keeps_every_entry_and_its_id(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(LAYOUTS[name])
    source = open_source(str(tmp_path / name))
    found = [one for item in source.items() for one in source.read(item)]
    assert [one.id for one in found] == ["0", "1"]
    assert all(isinstance(one, Material) and one.crystal.formula == "ClNa" for one in found)


def test_an_entry_that_is_cut_off_is_reported_and_the_others_are_read(tmp_path: Path) -> None:
    (tmp_path / "cut.json").write_text(LAYOUTS["list.json"][:-40])
    source = open_source(str(tmp_path / "cut.json"))
    first, last = (one for item in source.items() for one in source.read(item))
    assert isinstance(first, Material)
    assert isinstance(last, Reject)
    assert last.reason == "unreadable-json"


def test_slices_of_a_long_file_give_each_entry_once(tmp_path: Path) -> None:
    entries = [{"material_id": f"mp-{n}", "structure": SALT} for n in range(600)]
    (tmp_path / "long.json").write_text(json.dumps({"data": entries}))
    source = open_source(str(tmp_path / "long.json"))
    items = source.items()
    assert len(items) == 3
    assert [one.id for item in reversed(items) for one in source.read(item)][-256:] == [f"mp-{n}" for n in range(256)]
    assert len({one.id for item in items for one in source.read(item)}) == 600
