"""Which crystals answer a text query: the judge of the text benchmark, which knows nothing of the search.

    CRYSTALIGN_DATA=DATA python tests/benchmarks/text_relevance.py [--limit 25000] [--sample 5] [--only "rutile"]

A query of `text_queries.yaml` states its relevant crystals as a predicate on what is known of each: elements, formula,
space group, properties, structure type, bonds. All conditions of a predicate must hold. This command prints how many
crystals each query has among the first 25,000 and among all; with `--sample`, some of them.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from pymatgen.core import Composition, Element
from text_metadata import Metadata, Rows, load_metadata

QUERIES = Path(__file__).with_name("text_queries.yaml")
POOL = 25_000  # the first rows, which are one of the two pools
SYSTEMS = {"triclinic": (1, 2), "monoclinic": (3, 15), "orthorhombic": (16, 74), "tetragonal": (75, 142)}
SYSTEMS |= {"trigonal": (143, 167), "hexagonal": (168, 194), "cubic": (195, 230)}
FAMILIES: dict[str, frozenset[str]] = {
    name: frozenset(symbols.split())
    for name, symbols in {
        "alkali": "Li Na K Rb Cs Fr",
        "alkaline_earth": "Be Mg Ca Sr Ba Ra",
        "lanthanide": "La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu",
        "actinide": "Ac Th Pa U Np Pu Am Cm Bk Cf",
        "rare_earth": "Sc Y La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu",
        "transition_metal": "Sc Ti V Cr Mn Fe Co Ni Cu Zn Y Zr Nb Mo Tc Ru Rh Pd Ag Cd Hf Ta W Re Os Ir Pt Au Hg",
        "halogen": "F Cl Br I",
        "chalcogen": "S Se Te",
        "noble_gas": "He Ne Ar Kr Xe",
        "nonmetal": "H B C N O F Si P S Cl Ge As Se Br Sb Te I He Ne Ar Kr Xe",
    }.items()
}
FAMILIES["metal"] = frozenset(e.symbol for e in Element) - FAMILIES["nonmetal"] - {"D", "T"}


class Part(BaseModel):
    """A part of the predicate language: unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Between(Part):
    """A range, with its ends."""

    min: float = -math.inf
    max: float = math.inf


class Elements(Part):
    """Symbols or names of `FAMILIES`: all are there, one at least, none, nothing but these."""

    all: tuple[str, ...] = ()
    any: tuple[str, ...] = ()
    none: tuple[str, ...] = ()
    only: tuple[str, ...] = ()


class Coordination(Part):
    """Every atom of `centre` has so many bonds to `ligand`; in a structure type, these are letters of its formula."""

    centre: tuple[str, ...]
    ligand: str
    count: tuple[int, ...]
    corners: bool = False
    """Each of the bonds leads to another centre: the polyhedra share corners alone, and all of them."""


class StructureType(Part):
    """A formula such as AB2 (amounts rise), with space groups; letters of equal amount are tried in each order."""

    anonymous: tuple[str, ...]
    space_groups: tuple[int, ...] = ()
    roles: dict[str, tuple[str, ...]] = {}
    """What elements a letter may be."""
    sites: tuple[int, ...] = ()
    """In the primitive cell."""
    coordination: tuple[Coordination, ...] = ()


class Predicate(Part):
    """Holds where each condition that is given does; a property that is unknown fulfils no condition."""

    all_of: tuple[Predicate, ...] = ()
    any_of: tuple[Predicate, ...] = ()
    not_: Predicate | None = None
    elements: Elements = Elements()
    n_elements: Between | None = None
    formula: tuple[str, ...] = ()
    """One of these, in any multiple."""
    anonymous_formula: tuple[str, ...] = ()
    space_group: tuple[int | str, ...] = ()
    """Numbers, or ranges such as "195-230"."""
    crystal_system: tuple[str, ...] = ()
    property: dict[str, Between] = {}
    """A numerical column of `Metadata.columns`."""
    structure_type: tuple[StructureType, ...] = ()
    """One of these."""
    coordination: tuple[Coordination, ...] = ()
    """All of these; centre and ligand are elements."""
    layered: Literal["weakly", "any"] | None = None
    """weakly: nothing bonds the layers; any: or only alkali metals do."""


class Query(Part):
    """What is typed, what for, and what it should find."""

    query: str
    half: Literal["development", "test"]
    kind: str
    pool: Literal["both", "all"] = "both"
    """all: too few relevant among the first rows."""
    relevant: Predicate


def load_queries(paths: Sequence[str | Path] = (QUERIES,)) -> list[Query]:
    """The queries of all files; `use: [NAME]` stands for predicates of the `definitions`, all of which must hold.

    A file may use the definitions of the others.

    Raises:
        KeyError: a definition is missing.
        ValueError: two files define the same name, or hold the same query.
        pydantic.ValidationError: a query or predicate has an unknown key or a wrong value.
    """
    contents = [yaml.safe_load(Path(path).read_text(encoding="utf-8")) for path in paths]
    named = _once((name, value) for one in contents for name, value in one["definitions"].items())
    queries = _once((value["query"], value) for one in contents for value in one["queries"])
    return [Query.model_validate(_inlined(value, named)) for value in queries.values()]


def _once(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name!r} is there twice; remove one, or give it another name")
        found[name] = value
    return found


def relevant(predicate: Predicate, metadata: Metadata) -> set[str]:
    """The identifiers of the crystals for which the predicate holds."""
    return {metadata.ids[row] for row in _hold(predicate, metadata, np.arange(len(metadata.ids)))}


def precision_at_10(ranked: Sequence[str], found: set[str]) -> float:
    """The share of the first ten that is relevant; of as many as are relevant, where these are fewer."""
    return len(set(ranked[:10]) & found) / max(1, min(10, len(found)))


def _inlined(value: Any, named: dict[str, Any]) -> Any:
    if isinstance(value, list):
        return [_inlined(part, named) for part in value]
    if not isinstance(value, dict):
        return value
    plain = {key: _inlined(part, named) for key, part in value.items() if key != "use"}
    if "use" in value:
        plain["all_of"] = [*(_inlined(named[name], named) for name in value["use"]), *plain.get("all_of", [])]
    return plain


def _hold(predicate: Predicate, data: Metadata, rows: Rows) -> Rows:
    """The rows among `rows` for which it holds; what is cheap is asked first."""
    rows = rows[_cheap(predicate, data, rows)]
    for part in predicate.all_of:
        rows = _hold(part, data, rows)
    if predicate.any_of:
        rows = np.unique(np.concatenate([_hold(part, data, rows) for part in predicate.any_of]))
    if predicate.not_ is not None:
        rows = np.setdiff1d(rows, _hold(predicate.not_, data, rows))
    if predicate.structure_type:
        rows = np.array([r for r in rows if any(_typed(t, data, r) for t in predicate.structure_type)], dtype=np.int64)
    for one in predicate.coordination:
        rows = np.array([r for r in rows if _coordinated(one, data, r, {})], dtype=np.int64)
    if predicate.layered:
        kinds = ("weakly",) if predicate.layered == "weakly" else ("weakly", "alkali")
        rows = np.array([r for r in rows if data.layers(int(r)) in kinds], dtype=np.int64)
    return rows


def _cheap(predicate: Predicate, data: Metadata, rows: Rows) -> NDArray[np.bool_]:
    amounts = data.amounts[rows]
    there = amounts > 0
    kept = np.ones(len(rows), dtype=bool)
    elements = predicate.elements
    for symbol in elements.all:
        kept &= there[:, _numbers((symbol,))].any(axis=1)
    if elements.any:
        kept &= there[:, _numbers(elements.any)].any(axis=1)
    kept &= ~there[:, _numbers(elements.none)].any(axis=1)
    if elements.only:
        kept &= there[:, _numbers(elements.only)].sum(axis=1) == there.sum(axis=1)
    if predicate.n_elements:
        kept &= _between(there.sum(axis=1).astype(float), predicate.n_elements)
    if predicate.formula:
        wanted = np.array([_reduced(formula) for formula in predicate.formula])
        kept &= np.array([(amounts == one).all(axis=1) for one in wanted]).any(axis=0)
    if predicate.anonymous_formula:
        kept &= np.isin(data.anonymous[rows], predicate.anonymous_formula)
    ranges = [*predicate.space_group, *(f"{a}-{b}" for a, b in (SYSTEMS[name] for name in predicate.crystal_system))]
    if ranges:
        kept &= np.isin(data.space_group[rows], [n for part in ranges for n in _span(part)])
    for name, between in predicate.property.items():
        kept &= _between(data.columns[name][rows], between)
    if predicate.structure_type:
        kept &= np.isin(data.anonymous[rows], [name for one in predicate.structure_type for name in one.anonymous])
    return kept


def _typed(kind: StructureType, data: Metadata, row: int) -> bool:
    """Whether the row is of this type, with some assignment of its elements to the letters of the formula."""
    if data.anonymous[row] not in kind.anonymous or (
        kind.space_groups and data.space_group[row] not in kind.space_groups
    ):
        return False
    there = np.flatnonzero(data.amounts[row])
    for order in itertools.permutations(there.tolist()):
        amounts = data.amounts[row, list(order)]
        role = dict(zip("ABCDEFGH", order, strict=False))
        if (np.diff(amounts) < 0).any() or not all(role[a] in _numbers(of) for a, of in kind.roles.items()):
            continue
        if kind.sites and data.primitive(int(row)) not in kind.sites:
            return False
        if all(_coordinated(one, data, row, role) for one in kind.coordination):
            return True
    return False


def _coordinated(one: Coordination, data: Metadata, row: int, role: dict[str, int]) -> bool:
    *centres, ligand = (role.get(name) or _numbers((name,))[0] for name in (*one.centre, one.ligand))
    return data.bonds(int(row)).coordinated(centres, ligand, one.count, corners=one.corners)


def _numbers(names: Iterable[str]) -> list[int]:
    return sorted({Element(symbol).Z for name in names for symbol in FAMILIES.get(name, (name,))})


def _reduced(formula: str) -> NDArray[np.int16]:
    amounts = np.zeros(120, dtype=np.int16)
    whole, _ = Composition(formula).get_integer_formula_and_factor()
    for symbol, amount in Composition(whole).get_el_amt_dict().items():
        amounts[Element(symbol).Z] = int(amount)
    return np.asarray(amounts // np.gcd.reduce(amounts))


def _span(part: int | str) -> range:
    first, _, last = str(part).partition("-")
    return range(int(first), int(last or first) + 1)


def _between(values: NDArray[np.float64], between: Between) -> NDArray[np.bool_]:
    return np.asarray((values >= between.min) & (values <= between.max))


def main() -> None:
    """Print the number of relevant crystals of each query."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--data", default=os.environ.get("CRYSTALIGN_DATA"), help="folder that holds materials_project/"
    )
    parser.add_argument("--limit", type=int, help="first rows alone")
    parser.add_argument("--sample", type=int, default=0, help="relevant crystals to show of each query")
    parser.add_argument("--queries", nargs="+", default=[QUERIES], help="YAML files, which share their definitions")
    parser.add_argument("--only", default="", help="queries that contain this text")
    wanted = parser.parse_args()
    if wanted.data is None:
        parser.error("say where the data are: --data, or CRYSTALIGN_DATA")
    folder = Path(wanted.data) / "materials_project"
    data = load_metadata(folder / "crystals.parquet", folder / "properties.parquet", wanted.limit)
    queries = load_queries(wanted.queries)
    rows = {name: row for row, name in enumerate(data.ids)}
    for query in queries:
        if wanted.only not in query.query:
            continue
        found = sorted(relevant(query.relevant, data), key=rows.__getitem__)
        first = sum(rows[name] < POOL for name in found)
        print(f"{first:6} {len(found):7}  {query.half:11} {query.kind:12} {query.query}", flush=True)
        for name in random.Random(0).sample(found, min(wanted.sample, len(found))):
            print(f"{'':34}{name:12} {data.names[rows[name]]} {data.space_group[rows[name]]}")


if __name__ == "__main__":
    main()
