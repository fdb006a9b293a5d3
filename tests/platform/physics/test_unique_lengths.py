"""Lengths of the conventional cell that do not depend on any choice, and where facts keep them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from crystalign.crystal import Crystal
from crystalign.physics.caption import caption_of
from crystalign.physics.facts import CrystalFacts, crystal_facts
from crystalign.physics.symmetry import conventional, symmetry, unique_lengths
from crystalign.sources.prototypes import library

EDGES = {"cubic": 1, "tetragonal": 2, "trigonal": 2, "hexagonal": 2, "orthorhombic": 3, "monoclinic": 0, "triclinic": 0}


def test_each_crystal_system_has_its_number_of_unique_lengths():
    seen = set()
    for label, crystal in library():
        system = symmetry(crystal).crystal_system
        seen.add(system)
        assert len(unique_lengths(crystal)) == EDGES[system], label
    assert set(EDGES) - {"triclinic"} <= seen


def test_lengths_are_those_of_the_conventional_cell_in_every_cell(transform):
    by_system: dict[str, Crystal] = {}
    for _, crystal in library():
        if len(crystal) <= 12:
            by_system.setdefault(symmetry(crystal).crystal_system, crystal)
    assert len(by_system) >= 6
    for system, crystal in by_system.items():
        edges = np.linalg.norm(conventional(crystal).lattice, axis=1)
        expected = {1: edges[:1], 2: edges[[0, 2]], 3: np.sort(edges), 0: []}[EDGES[system]]
        for matrix in (
            [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
            [[0, 1, 0], [0, 0, 1], [1, 0, 0]],
            [[1, 1, 0], [0, 1, 0], [0, 0, 2]],
        ):
            assert unique_lengths(transform(crystal, matrix)) == pytest.approx(tuple(expected), abs=2e-3), system


def test_facts_hold_the_lengths_and_the_joined_polyhedra(textbook):
    facts = crystal_facts(textbook["NaCl"], symmetry(textbook["NaCl"]))
    assert facts.lattice == (5.64,)
    assert [(one.one, one.shared) for one in facts.linkages] == [("NaCl6", ("corner", "edge"))]


def test_facts_stored_before_lengths_and_polyhedra_were_added_are_read(known):
    facts = crystal_facts(known, symmetry(known))
    earlier = json.dumps(facts.model_dump(mode="json", exclude={"linkages", "lattice"}))
    read = CrystalFacts.model_validate_json(earlier)
    assert (read.linkages, read.lattice) == ((), ())
    assert caption_of(read) == caption_of(facts.model_copy(update={"lattice": ()}))
    assert "lattice" not in caption_of(read)
