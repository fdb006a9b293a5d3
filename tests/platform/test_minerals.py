from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

import pytest

from crystalign.crystal import reduced_formula
from crystalign.formula import read_formula
from crystalign.minerals import minerals

CRYSTALS = Path(__file__).parents[3] / "shared/data/materials_project/crystals.parquet"
ENANTIOMORPHS = {144: 145, 151: 153, 152: 154, 169: 170, 171: 172, 178: 179, 180: 181, 212: 213, 91: 95, 92: 96, 76: 78}


def test_names_are_unique_and_every_formula_is_read():
    names = [mineral.name for mineral in minerals()]
    assert len(set(names)) == len(names) > 300
    for mineral in minerals():
        assert mineral.name.isalpha()
        assert mineral.name.islower()
        assert len(read_formula(mineral.formula).amounts) > 0
        assert 1 <= mineral.spacegroup_number <= 230


def test_polymorphs_differ_in_their_space_group():
    seen = Counter((read_formula(m.formula).reduced, m.spacegroup_number) for m in minerals())
    shared = {key for key, count in seen.items() if count > 1}
    assert shared == {("MnO3Si", 2), ("AlHO2", 62)} & shared  # rhodonite and pyroxmangite differ in their chains


@pytest.mark.skipif(not CRYSTALS.exists(), reason="the Materials Project's structures are not on this machine")
def test_most_minerals_are_in_the_materials_project_with_their_space_group():
    import pyarrow.parquet as pq

    table = pq.read_table(CRYSTALS, columns=["atomic_numbers", "spacegroup_number"])
    wanted = {tuple(sorted(read_formula(m.formula).amounts)) for m in minerals()}
    groups: dict[str, set[int]] = defaultdict(set)
    for numbers, group in zip(table.column(0).to_pylist(), table.column(1).to_pylist(), strict=True):
        if tuple(sorted(set(numbers))) in wanted:
            groups[reduced_formula(dict(Counter(numbers)))].add(group)
    known = [(m, groups[read_formula(m.formula).reduced]) for m in minerals()]
    same = sum(bool({m.spacegroup_number, ENANTIOMORPHS.get(m.spacegroup_number)} & found) for m, found in known)
    assert same >= 265
