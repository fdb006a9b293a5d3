"""Describe the crystals of a dataset with robocrystallographer, in a Python environment of its own.

    python -m venv robo && robo/bin/pip install robocrys 'pandas<3' pyarrow
    robo/bin/python docs/howto/describe.py DATASET descriptions.parquet --limit 2000 --max-sites 20

Robocrystallographer (Ganose & Jain, MRS Communications 9, 874 (2019)) needs pandas below 3, Crystalign does not. The
script reads the shards of a dataset on a local disk. It goes on where it stopped: crystals that the table already has
are skipped. A description takes seconds, more for large cells.
"""

from __future__ import annotations

import argparse
import json
import re
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

SAVE_EVERY = 60.0
"""Seconds between two writes of the table."""
SCHEMA = pa.schema([("id", pa.string()), ("description", pa.string())])


def main() -> None:
    """Describe crystals until the limit is reached."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("dataset", type=Path, help="folder of the dataset")
    parser.add_argument("out", type=Path, help="Parquet table with the columns id and description")
    parser.add_argument("--limit", type=int, default=2000, help="most crystals to describe")
    parser.add_argument("--max-sites", type=int, default=20, help="leave out crystals with more sites in the cell")
    wanted = parser.parse_args()
    done = dict(_rows(wanted.out)) if wanted.out.exists() else {}
    saved, failed = time.monotonic(), 0
    for name, structure in _crystals(wanted.dataset, wanted.max_sites):
        if len(done) >= wanted.limit:
            break
        if name in done:
            continue
        try:
            done[name] = describe(structure)
        except Exception as error:  # noqa: BLE001 (one crystal must not stop the others)
            failed += 1
            print(f"{name}: {type(error).__name__}: {error}", flush=True)
        if time.monotonic() - saved > SAVE_EVERY:
            _save(done, wanted.out)
            saved = time.monotonic()
            print(f"{len(done)} of {wanted.limit}", flush=True)
    _save(done, wanted.out)
    print(f"{len(done)} descriptions in {wanted.out}, {failed} crystals failed")
    print(f"next: crystalign derive {wanted.dataset} --modalities text --descriptions {wanted.out}")


def describe(structure: Any) -> str:
    """The description, with numbers as people write them."""
    from robocrys import StructureCondenser, StructureDescriber

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        condensed = StructureCondenser().condense_structure(structure)
        text: str = StructureDescriber(describe_symmetry_labels=False).describe(condensed)
    return re.sub(r"np\.\w+\((-?[\d.]+)\)", r"\1", text)


def _crystals(dataset: Path, max_sites: int) -> Iterator[tuple[str, Any]]:
    """Id and pymatgen structure of the ordered crystals, in the order of the shards."""
    from pymatgen.core import Structure

    manifest = json.loads((dataset / "manifest.json").read_text())
    for shard in manifest["shards"]:
        table = pq.read_table(dataset / shard["path"], columns=["id", "n_sites", "crystal"])
        for row in table.to_pylist():
            crystal = row["crystal"]
            if row["n_sites"] > max_sites or crystal.get("occupancies"):
                continue
            lattice, places = (_triples(crystal[name]) for name in ("lattice", "frac_coords"))
            yield row["id"], Structure(lattice, crystal["atomic_numbers"], places)


def _triples(numbers: list[Any]) -> list[Any]:
    """Rows of three, from a flat list or rows."""
    return numbers if isinstance(numbers[0], list) else [numbers[i : i + 3] for i in range(0, len(numbers), 3)]


def _rows(table: Path) -> Iterator[tuple[str, str]]:
    for row in pq.read_table(table).to_pylist():
        yield row["id"], row["description"]


def _save(done: dict[str, str], out: Path) -> None:
    """Replace the table as a whole, so that an interruption never leaves half of it."""
    temporary = out.with_name(out.name + ".tmp")
    pq.write_table(pa.table({"id": list(done), "description": list(done.values())}, schema=SCHEMA), temporary)
    temporary.replace(out)


if __name__ == "__main__":
    main()
