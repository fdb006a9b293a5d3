"""Crystalign's readers beside gemmi, ASE and pymatgen, over a folder of structure files.

    python tests/benchmarks/compare_readers.py FOLDER                 differences of every file, and a table
    python tests/benchmarks/compare_readers.py reading_cases          with expected.csv: right, refused or wrong

Two readings agree if composition (ratios to 0.2 %), number of sites and volume (to 0.1 %) do. A file that
Crystalign refuses is listed with its reason. gemmi means its SmallStructure with all images of its sites.
"""

from __future__ import annotations

import argparse
import csv
import re
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from crystalign.crystal import SYMBOLS
from crystalign.errors import InputError
from crystalign.readers.structures.structure_file import file_kind, read_structures


class Reading(NamedTuple):
    """What a reader made of the first structure of a file."""

    fractions: dict[str, float]
    sites: int
    volume: float


def normalised(amounts: dict[str, float]) -> dict[str, float]:
    """Fractions of elements; isotopes count as hydrogen."""
    merged: Counter[str] = Counter()
    for symbol, amount in amounts.items():
        merged[{"D": "H", "T": "H"}.get(symbol, symbol)] += amount  # type: ignore[assignment]
    total = sum(merged.values()) or 1.0
    return {symbol: amount / total for symbol, amount in merged.items() if amount}


def agree(a: Reading, b: Reading) -> bool:
    """Whether two readings are the same structure, as far as counts tell."""
    same = a.fractions.keys() == b.fractions.keys()
    return (
        same
        and all(abs(a.fractions[s] - b.fractions[s]) < 2e-3 for s in a.fractions)
        and a.sites == b.sites
        and abs(a.volume / b.volume - 1.0) < 1e-3
    )


def by_crystalign(path: Path) -> Reading:
    """The first structure that is not refused; the refusal where there is none."""
    refusal: InputError | None = None
    for _, reading in read_structures(path.read_bytes(), path.name):
        try:
            if isinstance(reading, InputError):
                raise reading
            crystal = reading.accepted().crystal.check(max_sites=10_000)
            break
        except InputError as error:
            refusal = refusal or error
    else:
        raise refusal or InputError("no structure")
    amounts = {SYMBOLS[z]: x for z, x in crystal.composition.items()}
    return Reading(normalised(amounts), len(crystal), crystal.volume)


def by_pymatgen(path: Path) -> Reading:
    """`Structure.from_file`."""
    from pymatgen.core import Structure

    structure = Structure.from_file(path)
    amounts = {e.symbol: float(x) for e, x in structure.composition.element_composition.items()}
    return Reading(normalised(amounts), len(structure), structure.volume)


def by_ase(path: Path) -> Reading:
    """`ase.io.read`; the last image of a file."""
    from ase.io import read

    kind = {"cif": "cif", "poscar": "vasp", "xdatcar": "vasp-xdatcar", "vasprun": "vasp-xml", "extxyz": "extxyz"}
    atoms = read(path, format=kind.get(file_kind(path.name)))
    amounts = Counter(atoms.get_chemical_symbols())
    return Reading(normalised(dict(amounts)), len(atoms), abs(atoms.cell.volume))


def by_gemmi(path: Path) -> Reading:
    """`read_small_structure` and `get_all_unit_cell_sites`."""
    import gemmi

    structure = gemmi.read_small_structure(str(path))
    structure.setup_cell_images()
    sites = structure.get_all_unit_cell_sites()
    amounts: dict[str, float] = {}
    for site in sites:
        amounts[site.element.name] = amounts.get(site.element.name, 0.0) + site.occ
    places = {tuple(round(x % 1.0, 3) % 1.0 for x in (s.fract.x, s.fract.y, s.fract.z)) for s in sites}
    if not sites:
        raise ValueError("no sites")
    return Reading(normalised(amounts), len(places), structure.cell.volume)


READERS: dict[str, Callable[[Path], Reading]] = {
    "crystalign": by_crystalign,
    "gemmi": by_gemmi,
    "ASE": by_ase,
    "pymatgen": by_pymatgen,
}


def outcome(read: Callable[[Path], Reading], path: Path) -> Reading | str:
    """A reading, or why there is none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return read(path)
    except Exception as error:  # noqa: BLE001 (whatever a reader raises is its outcome)
        return " ".join(f"{getattr(error, 'reason', type(error).__name__)}: {error}".split())[:160]


def expected(folder: Path) -> dict[str, dict[str, str]]:
    """Rows of expected.csv for structures, by path; empty where there is none."""
    if not (folder / "expected.csv").is_file():
        return {}
    with (folder / "expected.csv").open(encoding="utf-8") as file:
        return {row["path"]: row for row in csv.DictReader(file) if row["kind"] in {"structure", "not-data"}}


def verdict(found: Reading | str, row: dict[str, str]) -> str:
    """`right`, `refused` or `wrong`, by a row of expected.csv."""
    if isinstance(found, str):
        return "refused rightly" if row["outcome"] != "accept" else "refused without need"
    if row["outcome"] == "refuse":
        return "wrong"
    formulas = [normalised(_parts(formula)) for formula in row["formula"].split("|")]
    close = any(
        formula.keys() == found.fractions.keys() and all(abs(formula[s] - found.fractions[s]) < 5e-3 for s in formula)
        for formula in formulas
    )
    sites, volume = row["n_atoms_conventional_or_as_file"], row["volume_A3"]
    right = (
        close and (not sites or int(sites) == found.sites) and (not volume or abs(float(volume) - found.volume) < 0.1)
    )
    return "right" if right else "wrong"


def _parts(formula: str) -> dict[str, float]:
    amounts: dict[str, float] = {}
    for symbol, amount in re.findall(r"([A-Z][a-z]?)(\d*\.?\d*)", formula):
        amounts[symbol] = amounts.get(symbol, 0.0) + float(amount or 1)
    return amounts


def main() -> None:
    """Read every file by every reader, print what differs, then the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--quiet", action="store_true", help="only the table")
    options = parser.parse_args()
    rows = expected(options.folder)
    paths = [options.folder / path for path in rows] or [
        path for path in sorted(options.folder.rglob("*")) if path.is_file() and file_kind(path.name)
    ]
    table: dict[str, Counter[str]] = {name: Counter() for name in READERS}
    seconds: Counter[str] = Counter()
    for path in paths:
        found = {}
        for name, read in READERS.items():
            began = time.process_time()
            found[name] = outcome(read, path)
            seconds[name] += time.process_time() - began  # type: ignore[assignment]
        where, ours = str(path.relative_to(options.folder)), found["crystalign"]
        for name, reading in found.items():
            if rows:
                kind = verdict(reading, rows[where])
            elif isinstance(reading, str) or isinstance(ours, str):
                both = isinstance(reading, str) and isinstance(ours, str)
                kind = "both refused" if both else "refused" if isinstance(reading, str) else "read, ours refused"
            else:
                kind = "as ours" if agree(ours, reading) else "differs"
            table[name][kind] += 1
            if not options.quiet and name != "crystalign" and kind == "differs":
                print(f"{where}: ours {ours}, {name} {reading}")
        if not options.quiet and isinstance(ours, str):
            print(f"{where}: {ours}")
        if not options.quiet and rows and verdict(ours, rows[where]) in {"wrong", "refused without need"}:
            print(f"{where}: {verdict(ours, rows[where])}: {ours}, expected {rows[where]}")
    kinds = sorted({kind for counts in table.values() for kind in counts})
    print(f"\n| reader | {' | '.join(kinds)} | processor time, s |")
    print(f"|{'---|' * (len(kinds) + 2)}")
    for name, counts in table.items():
        print(f"| {name} | {' | '.join(str(counts[kind]) for kind in kinds)} | {seconds[name]:.1f} |")


if __name__ == "__main__":
    main()
