"""`crystalign hull`: the energy above the convex hull of every row, from the energies of the dataset itself.

Energies of different method, source or vintage never share a hull. Chemical systems nest: a phase that is stable in a
system is stable in every larger one, and no other phase of the smaller system can be stable there. So systems are
evaluated in the order of their number of elements, each with its own phases and the stable ones of its subsystems,
which gives the same hull as all phases together and keeps every task small.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from tyro.conf import Positional

from crystalign import storage
from crystalign.config import Config
from crystalign.errors import ConfigError
from crystalign.properties import PropertySpec, Quantity
from crystalign.storage import Uri

if TYPE_CHECKING:
    from crystalign.shards.dataset import Dataset
    from crystalign.shards.manifest import Manifest, ShardEntry

VERSION = 1
"""Increased when the calculation changes, so that no file of an earlier release is taken for a new one."""
ENERGIES = (Quantity.FORMATION_ENERGY_PER_ATOM, Quantity.ENERGY_PER_ATOM)
"""Quantities that have a hull, in the order of preference."""
FORMULAS_PER_TASK = 2000
SECONDS = 0.001
"""Rough time of one row, for the estimate."""
ENOUGH = 0.9
"""Share of the rows with an energy below which the report says that phases may be missing."""
_AMOUNT = re.compile(r"([A-Z][a-z]?)(\d*)")
Phases = dict[str, dict[str, float]]
"""Chemical system → formula → lowest energy per atom, eV/atom."""


class Hull(Config):
    """Add the energy above the convex hull, computed from the formation energies or total energies of the rows.

    Each combination of method, source and vintage gets a hull and a column of its own. With formation energies the
    elements are at zero. With total energies a chemical system has a hull only if the dataset holds each of its
    elements; otherwise the value stays unknown. The hull knows only the phases of the dataset, so that a distance is a
    lower bound: a part of a database gives smaller distances than the whole.

    Example: crystalign hull s3://bucket/mp
    """

    data: Positional[Uri]
    """URI of the dataset, which is extended in place."""
    property: tuple[str, ...] = ()
    """Columns of formation energies or total energies; default: one for each method, source and vintage."""
    address: str | None = None
    """Ray cluster; default: RAY_ADDRESS, or this machine."""


class Coverage(NamedTuple):
    """How many rows have a hull."""

    rows: int
    """Rows of the dataset."""
    energies: int
    """Rows with an energy."""
    known: int
    """Rows with an energy above the hull."""
    disordered: int
    """Rows with an energy and partial occupancies, which are no phase of fixed composition."""
    systems: int
    """Chemical systems with a hull."""
    stable: int
    """Rows on the hull."""


def main(config: Hull) -> Manifest:
    """Compute the hulls, add the columns, report the coverage, and return the manifest.

    Raises:
        ConfigError: there are no energies, a column does not hold energies, or another job writes to the dataset.
        ConflictError: another job changed the dataset meanwhile; its version is kept.
    """
    from crystalign.shards.manifest import Manifest
    from crystalign_ray.driver_lock import driving

    Manifest.read(config.data)  # fails if there is no dataset to lock
    with driving(config.data) as drives:
        return _hull(config, drives)


def _hull(config: Hull, drives: Callable[[], bool]) -> Manifest:
    from crystalign.shards.dataset import Dataset
    from crystalign.shards.manifest import Manifest, ShardEntry
    from crystalign_ray.estimates import Estimate, announce
    from crystalign_ray.progress import Meter
    from crystalign_ray.session import session
    from crystalign_ray.tasks import map_rows

    version = Manifest.version(config.data)  # read before the manifest, so that a change in between is refused below
    dataset = Dataset.open(config.data)
    specs = chosen(dataset.manifest.properties, config.property, config.data)
    shards = dataset.manifest.shards
    print(f"hulls of {', '.join(spec.column for spec in specs)} of {len(dataset):,} crystals")
    announce(Estimate(len(dataset), sum(entry.bytes for entry in shards), len(specs) * SECONDS), config.data)
    with session(config.address):
        hulls = {spec.column: _energies_of_hull(dataset, spec) for spec in specs}
        tasks = [{"number": n, "name": _target(entry, specs)} for n, entry in enumerate(shards)]
        entries: dict[int, ShardEntry] = {}
        coverage: dict[str, list[Coverage]] = defaultdict(list)
        with Meter("write", total=len(dataset), unit="crystals") as meter:
            for result in map_rows(tasks, ColumnWriter(dataset, specs, hulls)):
                entries[result["number"]] = ShardEntry.model_validate(result["shard"])
                for column, counts in result["coverage"].items():
                    coverage[column].append(Coverage(*counts))
                meter.advance(shards[result["number"]].rows)
    manifest = _commit(config.data, dataset.manifest, [entries[n] for n in range(len(shards))], specs, version, drives)
    for spec in specs:
        systems = len({"-".join(sorted(elements(formula))) for formula in hulls[spec.column]})
        _report(spec, Coverage(*map(sum, zip(*coverage[spec.column], strict=True)))._replace(systems=systems))
    print(f"next: crystalign embed --data {config.data}, and `_crystalign_energy_above_hull` filters the index")
    return manifest


def chosen(properties: Sequence[PropertySpec], names: Sequence[str], uri: str) -> list[PropertySpec]:
    """The energies to make hulls of.

    Args:
        properties: properties of the dataset.
        names: columns; if there are none, the formation energies of each method, source and vintage are chosen, or
            the total energies where there are no formation energies.
        uri: URI of the dataset, for messages.

    Raises:
        ConfigError: there are no energies, or a name is not that of a column of energies.
    """
    usable = {spec.column: spec for spec in properties if spec.quantity in ENERGIES}
    if unknown := sorted(set(names) - set(usable)):
        held = f"they are {', '.join(sorted(usable))}" if usable else "there are none"
        raise ConfigError(f"{unknown[0]!r} is not a column of energies of {uri}; {held}")
    if not usable:
        raise ConfigError(f"{uri} has neither formation energies nor total energies; ingest a source that has them")
    if names:
        specs = [usable[name] for name in dict.fromkeys(names)]
    else:
        ranked = sorted(usable.values(), key=lambda spec: ENERGIES.index(spec.quantity))
        specs = list({(spec.method, spec.source, spec.vintage): spec for spec in reversed(ranked)}.values())
        specs.sort(key=lambda spec: spec.column)
    targets = [hull_spec(spec).column for spec in specs]
    if len(set(targets)) < len(targets):
        raise ConfigError(f"two of {', '.join(names)} would fill one column; make their hulls one after the other")
    return specs


def hull_spec(spec: PropertySpec) -> PropertySpec:
    """The property for values from a hull of these energies; values that the database publishes have another one."""
    return PropertySpec(
        quantity=Quantity.ENERGY_ABOVE_HULL,
        method=spec.method,
        source=f"hull of {spec.source}",
        vintage=spec.vintage,
    )


def elements(formula: str) -> dict[str, int]:
    """Element → number of atoms of a reduced formula of the dataset, e.g. `O2Ti`."""
    return {symbol: int(amount or 1) for symbol, amount in _AMOUNT.findall(formula)}


def _energies_of_hull(dataset: Dataset, spec: PropertySpec) -> dict[str, float]:
    """Formula → energy of the hull at this composition, eV/atom, for all formulas that have a hull. Needs Ray."""
    from crystalign.physics.convex_hull import TOLERANCE
    from crystalign_ray.progress import Meter
    from crystalign_ray.tasks import map_rows

    phases = _phases(dataset, spec)
    references = _references(phases, spec)
    found: dict[str, float] = {}
    stable: dict[str, list[tuple[str, float]]] = {
        element: [(element, energy)] for element, energy in references.items()
    }
    found |= {next(iter(held)): references[system] for system, held in phases.items() if system in references}
    compounds = {s: held for s, held in phases.items() if "-" in s and references.keys() >= set(s.split("-"))}
    levels: dict[int, Phases] = defaultdict(dict)
    for system, held in compounds.items():
        levels[system.count("-")][system] = held
    with Meter(spec.column, total=sum(map(len, compounds.values())), unit="compositions") as meter:
        for level in sorted(levels):
            for result in map_rows(list(_tasks(levels[level])), SystemHulls(stable)):
                for system, energies in result["hulls"].items():
                    found |= energies
                    held = levels[level][system]
                    on_hull = [(f, held[f]) for f, energy in energies.items() if held[f] <= energy + TOLERANCE]
                    if on_hull:
                        stable[system] = on_hull
                meter.advance(result["count"])
    return found


def _phases(dataset: Dataset, spec: PropertySpec) -> Phases:
    """The lowest energy of each formula, by chemical system, without disordered crystals."""
    table = dataset.table(["formula", "chemsys", spec.column])
    phases: Phases = defaultdict(dict)
    columns = [table.column(name).to_pylist() for name in ("formula", "chemsys", spec.column)]
    ordered = [one for shard in range(len(dataset.manifest.shards)) for one in dataset.is_ordered(shard).tolist()]
    for formula, system, energy, is_ordered in zip(*columns, ordered, strict=True):
        if energy is None or not math.isfinite(energy) or not is_ordered:
            continue
        held = phases[system]
        held[formula] = min(held.get(formula, math.inf), energy)
    return phases


def _references(phases: Phases, spec: PropertySpec) -> dict[str, float]:
    """Energy of each element, eV/atom. By definition, formation energies of elements are zero; none is higher here."""
    lowest = {system: min(held.values()) for system, held in phases.items() if "-" not in system}
    if spec.quantity is Quantity.ENERGY_PER_ATOM:
        return lowest
    present = {element for system in phases for element in system.split("-")}
    return {element: min(0.0, lowest.get(element, 0.0)) for element in present}


def _tasks(systems: Phases) -> Iterator[dict[str, Any]]:
    """Tasks of about as many compositions each."""
    part: Phases = {}
    count = 0
    for system in sorted(systems):
        part[system] = systems[system]
        count += len(systems[system])
        if count >= FORMULAS_PER_TASK:
            yield {"systems": json.dumps(part), "count": count}
            part, count = {}, 0
    if part:
        yield {"systems": json.dumps(part), "count": count}


class SystemHulls:
    """Computes the hulls of some chemical systems; runs inside a task."""

    def __init__(self, stable: Mapping[str, list[tuple[str, float]]]) -> None:
        self.stable = dict(stable)

    def __call__(self, row: dict[str, Any]) -> dict[str, str]:
        """Return the energy of the hull for each formula of each system as JSON."""
        systems: Phases = json.loads(row["systems"])
        hulls = {system: self._energies(system, held) for system, held in systems.items()}
        return {"result": json.dumps({"hulls": hulls, "count": row["count"]})}

    def _energies(self, system: str, own: Mapping[str, float]) -> dict[str, float]:
        import numpy as np

        from crystalign.physics.convex_hull import hull_energies

        symbols = system.split("-")
        known = [phase for part in self._subsystems(symbols) for phase in self.stable[part]]
        formulas = [*own, *(formula for formula, _ in known)]
        amounts = [elements(formula) for formula in formulas]
        counts = np.array([[held.get(symbol, 0) for symbol in symbols] for held in amounts], np.float64)
        fractions = counts / counts.sum(axis=1, keepdims=True)
        energies = np.array([*own.values(), *(energy for _, energy in known)])
        found = hull_energies(fractions[: len(own)], fractions, energies)
        return dict(zip(own, found.tolist(), strict=True))

    def _subsystems(self, symbols: Sequence[str]) -> list[str]:
        """Smaller systems with stable phases, all of whose elements are among `symbols`."""
        if 2 ** len(symbols) < len(self.stable):
            sizes = range(1, len(symbols))
            names = ("-".join(part) for size in sizes for part in itertools.combinations(symbols, size))
            return [name for name in names if name in self.stable]
        inside = set(symbols)
        return [name for name in self.stable if name.count("-") + 1 < len(symbols) and inside >= set(name.split("-"))]


class ColumnWriter:
    """Writes one shard again with the new columns; runs inside a task."""

    def __init__(
        self, dataset: Dataset, specs: Sequence[PropertySpec], hulls: Mapping[str, Mapping[str, float]]
    ) -> None:
        self.dataset, self.specs, self.hulls = dataset, list(specs), hulls

    def __call__(self, row: dict[str, Any]) -> dict[str, str]:
        """Write the shard with this number under this name; return its entry and the coverage as JSON."""
        import pyarrow as pa

        from crystalign.shards.writer import write_with_columns

        number = int(row["number"])
        table = self.dataset.read(number, columns=["formula", *(spec.column for spec in self.specs)])
        # a mixed crystal may have the formula of a phase, but it has no place on its hull
        ordered = self.dataset.is_ordered(number).tolist()
        formulas = [
            f if is_ordered else "" for f, is_ordered in zip(table["formula"].to_pylist(), ordered, strict=True)
        ]
        columns: dict[str, Any] = {}
        coverage: dict[str, Coverage] = {}
        for spec in self.specs:
            energies = table.column(spec.column).to_pylist()
            values = [_above(f, e, self.hulls[spec.column]) for f, e in zip(formulas, energies, strict=True)]
            columns[hull_spec(spec).column] = pa.array(values, pa.float64())
            coverage[spec.column] = _coverage(formulas, energies, values)
        entry = self.dataset.manifest.shards[number]
        new = write_with_columns(self.dataset.uri, entry, row["name"], columns)
        result = {"number": number, "shard": new.model_dump(mode="json"), "coverage": coverage}
        return {"result": json.dumps(result)}


def _above(formula: str, energy: float | None, hull: Mapping[str, float]) -> float | None:
    """Energy above the hull, eV/atom; exactly zero on it, and None if it is not known."""
    from crystalign.physics.convex_hull import TOLERANCE

    if energy is None or not math.isfinite(energy) or formula not in hull:
        return None
    above = energy - hull[formula]
    return above if above > TOLERANCE else 0.0


def _coverage(formulas: Sequence[str], energies: Sequence[float | None], values: Sequence[float | None]) -> Coverage:
    counts = Counter(value is not None for value in values)
    with_energy = [formula for formula, energy in zip(formulas, energies, strict=True) if energy is not None]
    disordered = sum(not formula for formula in with_energy)
    return Coverage(len(formulas), len(with_energy), counts[True], disordered, 0, sum(v == 0.0 for v in values))


def _target(entry: ShardEntry, specs: Sequence[PropertySpec]) -> str:
    """Name of the new shard, without suffix: stem of the old shard, and a hash of its content and of the request."""
    key = json.dumps([entry.sha256, "hull", VERSION, sorted(spec.column for spec in specs)])
    return f"{entry.path.rpartition('/')[2].partition('.')[0]}.{hashlib.sha256(key.encode()).hexdigest()[:10]}"


def _commit(
    uri: str,
    old: Manifest,
    shards: Sequence[ShardEntry],
    specs: Sequence[PropertySpec],
    version: str | None,
    drives: Callable[[], bool],
) -> Manifest:
    """Replace the manifest, then delete the shards that it no longer lists."""
    from crystalign.shards.writer import commit_manifest

    new = commit_manifest(
        uri,
        shards,
        tuple(dict.fromkeys((*old.properties, *(hull_spec(spec) for spec in specs)))),
        quarantine=old.quarantine,
        quarantined=old.quarantined,
        derived=old.derived,
        structures=old.structures,
        schema_version=old.schema_version,
        expected=version,
    )
    if drives():
        for path in old.files.difference(new.files):
            storage.delete(storage.join(uri, path))
    return new


def _report(spec: PropertySpec, held: Coverage) -> None:
    """Print the coverage of one hull."""
    print(
        f"{hull_spec(spec).column}: {held.known:,} of {held.rows:,} rows in {held.systems:,} chemical systems, "
        f"{held.stable:,} on the hull"
    )
    without = held.energies - held.known - held.disordered
    reasons = {
        held.rows - held.energies: f"have no {spec.column}",
        held.disordered: "are disordered",
        without: "have an element that the dataset does not hold as a phase of its own",
    }
    for count, reason in reasons.items():
        if count:
            print(f"  {count:>7,}  unknown: they {reason}")
    if held.energies < ENOUGH * held.rows:
        share = 100 * held.energies / max(1, held.rows)
        print(f"           {share:.0f} % of the rows have this energy; missing phases make distances too small")
