"""Crystals as JSON documents: pymatgen's, the Materials Project's, JARVIS's and OPTIMADE's.

Documents are read field by field. monty's decoder is not used: it imports whatever class a document names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from crystalign.crystal import SYMBOLS, Crystal, Occupancy
from crystalign.errors import CrystalError, FileFormatError
from crystalign.readers.structures.agreement import Statements, compare, parse_stated_formula
from crystalign.readers.structures.reading import Reading

MAX_SPECIES_PER_SITE = 32
COORDINATE_TOLERANCE = 0.02
"""Å; fractional and Cartesian coordinates of one site that differ by more contradict each other."""
IDS = ("material_id", "entry_id", "task_id", "jid", "id", "_id")
"""Fields that may hold the id of a document, the first found counts."""
STRUCTURE_KEYS = frozenset(
    {
        "lattice",
        "sites",
        "structure",
        "final_structure",
        "initial_structure",
        "atoms",
        "attributes",
        "lattice_mat",
        "@module",
        "@class",
    }
)
"""Keys that only a document of one structure has at its top."""
Document = Mapping[str, Any]


def identifier_of(document: Any) -> str | None:
    """The id that a document gives itself; 0 is one."""
    if isinstance(document, Mapping):
        for name in IDS:
            value = document.get(name)
            if isinstance(value, str | int) and not isinstance(value, bool) and value != "":
                return str(value)
    return None


def read_document(document: Any, *, max_sites: int) -> Reading:
    """The structure of a document, compared with the formula, volume, density and number of sites that it states.

    Raises:
        CrystalError: it holds no structure of a known form, or a broken one.
    """
    if not isinstance(document, Mapping):
        message = f"the entry is {_kind(document)}, not a document with a structure"
        raise CrystalError(message, reason="unreadable-structure")
    try:
        reading, around = _found(document, max_sites)
    except (OverflowError, ValueError) as error:  # numbers of hundreds of digits
        if isinstance(error, CrystalError):
            raise
        message = f"a number of the structure is not usable: {str(error)[:100]}"
        raise CrystalError(message, reason="unreadable-structure") from error
    crystal = reading.crystal
    stated = _statements(around)
    agreement = compare(crystal.composition, crystal.volume, stated)
    count = next((around[name] for name in ("nsites", "nat") if isinstance(around.get(name), int)), None)
    if count is not None and count != len(crystal):
        message = f"the document states {count} sites and holds {len(crystal)}"
        raise CrystalError(message, reason="sites-disagree")
    return Reading(crystal, (*reading.remarks, *agreement.remarks), (*reading.objections, *agreement.objections))


def _found(document: Document, max_sites: int) -> tuple[Reading, Document]:
    """Return the structure, and the mapping whose other fields describe it."""
    for name in ("structure", "final_structure", "atoms"):
        if name in document:
            inner = document[name]
            if isinstance(inner, str):
                inner = _decoded(inner, name, max_sites)
                if isinstance(inner, Reading):
                    return inner, document
            if not isinstance(inner, Mapping):
                message = f"the {name} of the entry is {_kind(inner)}"
                raise CrystalError(message, reason="unreadable-structure")
            if (
                name == "structure"
                and "lattice" not in inner
                and inner
                and all(isinstance(v, Mapping) for v in inner.values())
            ):
                message = "the file lists columns, as pandas does by default; write it with orient='records'"
                raise CrystalError(message, reason="unsupported-layout")
            return Reading(_crystal(inner, max_sites)), document
    if isinstance(document.get("attributes"), Mapping):
        return _optimade(document["attributes"], max_sites), document["attributes"]
    if "lattice_vectors" in document:
        return _optimade(document, max_sites), document
    return Reading(_crystal(document, max_sites)), document


def _decoded(text: str, name: str, max_sites: int) -> Any:
    """Parse a structure that is stored as a string: JSON or a CIF."""
    if text.lstrip().startswith("{"):
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            message = f"the {name} of the entry is text that is not JSON: {str(error)[:100]}"
            raise CrystalError(message, reason="unreadable-structure") from error
    from crystalign.readers.structures.cif import read_cif

    try:
        _, first = next(read_cif(text, max_sites=max_sites, max_positions=200 * max_sites))
    except FileFormatError as error:
        message = f"the {name} of the entry is text, but neither JSON nor a CIF with atoms: {error}"
        raise CrystalError(message, reason="unreadable-structure") from error
    if isinstance(first, CrystalError):
        raise first
    return first


def _crystal(document: Document, max_sites: int) -> Crystal:
    """Convert a pymatgen Structure or JARVIS Atoms."""
    if "lattice" in document and "sites" in document:
        _check_count(document["sites"], max_sites)
        return crystal_of_dict(document)
    if "lattice_mat" in document:
        return _jarvis(document, max_sites)
    keys = ", ".join(map(str, list(document)[:6]))
    message = f"no structure that is known: a document with {keys or 'no keys'}"
    raise CrystalError(message, reason="unreadable-structure")


def _check_count(sites: Any, max_sites: int) -> None:
    if isinstance(sites, Sequence) and len(sites) > max_sites:
        message = f"{len(sites)} sites are listed; the limit is {max_sites}. Use a smaller cell, or raise the limit"
        raise CrystalError(message, reason="too-many-sites")


def crystal_of_dict(document: Document) -> Crystal:
    """A crystal from pymatgen's `Structure.as_dict()`, read field by field.

    Raises:
        CrystalError: a field is missing or malformed, coordinates contradict each other, or it is not periodic.
    """
    try:
        lattice = _lattice(document["lattice"])
        sites = document["sites"]
        frac_coords = np.array([_position(site, lattice) for site in sites], dtype=np.float64)
        species = [_species(site["species"]) for site in sites]
    except CrystalError:
        raise
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError, np.linalg.LinAlgError) as error:
        message = f"not a pymatgen Structure: {type(error).__name__}: {str(error)[:200]}"
        raise CrystalError(message, reason="unreadable-structure") from error
    return _assembled(lattice, frac_coords, species)


def _lattice(lattice: Document) -> Any:
    """(3, 3) from the matrix, or from lengths and angles."""
    if not all(lattice.get("pbc", (True, True, True))):
        message = f"the lattice has pbc = {list(lattice['pbc'])}; a crystal repeats along all three vectors"
        raise CrystalError(message, reason="not-periodic")
    if "matrix" in lattice:
        matrix = np.array(lattice["matrix"], dtype=np.float64)
        volume = lattice.get("volume")
        if isinstance(volume, int | float) and volume > 0 and abs(abs(np.linalg.det(matrix)) / volume - 1.0) > 0.01:
            message = f"the lattice states {volume:g} Å³ and its matrix has {abs(np.linalg.det(matrix)):g} Å³"
            raise CrystalError(message, reason="volume-disagrees")
        return matrix
    import gemmi

    cell = gemmi.UnitCell(*(float(lattice[name]) for name in ("a", "b", "c", "alpha", "beta", "gamma")))
    return np.array(cell.orth.mat.tolist()).T


def _position(site: Document, lattice: Any) -> Any:
    """Return fractional coordinates (3,). Cartesian ones are converted if they are alone, otherwise compared."""
    cartesian = None if site.get("xyz") is None else np.array(site["xyz"], dtype=np.float64)
    if site.get("abc") is None:
        if cartesian is None:
            raise KeyError("abc")
        return np.linalg.solve(lattice.T, cartesian)
    frac = np.array(site["abc"], dtype=np.float64)
    if cartesian is not None and cartesian.shape == frac.shape == (3,):
        step = frac - np.linalg.solve(lattice.T, cartesian)
        step -= np.rint(step)
        apart = float(np.linalg.norm(step @ lattice))
        if apart > COORDINATE_TOLERANCE:
            message = f"abc and xyz of a site are {apart:.2f} Å apart: they belong to different lattices"
            raise CrystalError(message, reason="coordinates-disagree")
    return frac


def _species(entries: list[Document]) -> Occupancy:
    """(atomic number, fraction) pairs of one site; isotopes and oxidation states of an element are merged."""
    if not entries or len(entries) > MAX_SPECIES_PER_SITE:
        message = f"{len(entries)} species on one site"
        raise CrystalError(message, reason="bad-sites")
    return _occupancy([(entry["element"], float(entry["occu"])) for entry in entries])


def _occupancy(pairs: Sequence[tuple[Any, float]]) -> Occupancy:
    amounts: dict[int, float] = {}
    for name, fraction in pairs:
        symbol = {"D": "H", "T": "H"}.get(name, name)
        if symbol not in SYMBOLS[1:]:
            message = f"{str(name)[:40]!r} is not an element"
            raise CrystalError(message, reason="unknown-element")
        if not 0.0 < fraction <= 1.0 + 1e-3:
            message = f"{symbol} occupies a fraction {fraction} of a site"
            raise CrystalError(message, reason="bad-sites")
        z = SYMBOLS.index(symbol)
        amounts[z] = amounts.get(z, 0.0) + fraction
    total = sum(amounts.values())
    if total > 1.02:
        message = f"the species of one site add up to {total:.3f}; at most 1 is possible"
        raise CrystalError(message, reason="bad-sites")
    scale = max(total, 1.0)
    return tuple(sorted((z, x / scale) for z, x in amounts.items()))


def _assembled(lattice: Any, frac_coords: Any, species: Sequence[Occupancy]) -> Crystal:
    mixed = any(len(site) != 1 or abs(site[0][1] - 1.0) > 1e-6 for site in species)
    numbers = [max(site, key=lambda pair: (pair[1], -pair[0]))[0] for site in species]
    try:
        return Crystal(lattice, frac_coords, np.array(numbers, int), tuple(species) if mixed else None)
    except CrystalError:
        raise
    except (TypeError, ValueError) as error:  # ragged or non-numeric arrays
        message = f"lattice or coordinates are not arrays of numbers: {error}"
        raise CrystalError(message, reason="unreadable-structure") from error


def _jarvis(atoms: Document, max_sites: int) -> Crystal:
    """Convert JARVIS Atoms, with the fields `lattice_mat`, `coords`, `elements` and `cartesian` (bool)."""
    try:
        lattice = np.array(atoms["lattice_mat"], dtype=np.float64)
        _check_count(atoms["elements"], max_sites)
        coords = np.array(atoms["coords"], dtype=np.float64)
        frac = np.linalg.solve(lattice.T, coords.T).T if atoms.get("cartesian") else coords
        species = [_occupancy([(str(symbol).strip(), 1.0)]) for symbol in atoms["elements"]]
    except CrystalError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, np.linalg.LinAlgError) as error:
        message = f"not the atoms of JARVIS: {type(error).__name__}: {str(error)[:200]}"
        raise CrystalError(message, reason="unreadable-structure") from error
    lengths = atoms.get("abc")
    if (
        isinstance(lengths, list)
        and len(lengths) == 3
        and not np.allclose(np.linalg.norm(lattice, axis=1), np.array(lengths, dtype=np.float64), rtol=0.01)
    ):
        message = f"abc says {lengths}, lattice_mat has {np.linalg.norm(lattice, axis=1).round(3).tolist()} Å"
        raise CrystalError(message, reason="volume-disagrees")
    return _assembled(lattice, frac, species)


def _optimade(entry: Document, max_sites: int) -> Reading:
    """Convert the attributes of an OPTIMADE structure; sites that are only vacancies are left out."""
    if entry.get("assemblies"):
        message = "the structure has assemblies of alternative sites, which are not read; choose one alternative"
        raise CrystalError(message, reason="unsupported-structure")
    directions = entry.get("dimension_types")
    if directions not in (None, [1, 1, 1]):
        message = f"dimension_types is {str(directions)[:60]}; a crystal repeats along all three vectors"
        raise CrystalError(message, reason="not-periodic")
    try:
        lattice = np.array(entry["lattice_vectors"], dtype=np.float64)
        names = entry["species_at_sites"]
        _check_count(names, max_sites)
        kinds = {one["name"]: one for one in entry["species"]} if entry.get("species") else {}
        species = [_optimade_species(kinds.get(name), name) for name in names]
        coords = np.array(entry["cartesian_site_positions"], dtype=np.float64)
        frac = np.linalg.solve(lattice.T, coords.T).T
        if len(frac) != len(species):
            raise ValueError(f"{len(frac)} positions for {len(species)} sites")  # noqa: TRY301 (one message for all)
    except CrystalError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, np.linalg.LinAlgError) as error:
        message = f"not the attributes of an OPTIMADE structure: {type(error).__name__}: {str(error)[:200]}"
        raise CrystalError(message, reason="unreadable-structure") from error
    full = [n for n, site in enumerate(species) if site]
    attached = [str(one.get("name")) for one in kinds.values() if one.get("attached")]
    remarks = (f"hydrogen missing: atoms attached to {', '.join(attached[:5])} have no site",) if attached else ()
    return Reading(_assembled(lattice, frac[full], [species[n] for n in full]), remarks)


def _optimade_species(kind: Document | None, name: str) -> Occupancy:
    """Return the occupancy of one site, without vacancies, so that it may sum to less than 1."""
    if kind is None:
        return _occupancy([(name, 1.0)])
    pairs = zip(kind["chemical_symbols"], kind.get("concentration") or [1.0], strict=True)
    held = [(symbol, float(x)) for symbol, x in pairs if symbol != "vacancy"]
    return _occupancy(held) if held else ()


def _statements(document: Document) -> Statements:
    def number(name: str) -> float | None:
        value = document.get(name)
        usable = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e9
        return float(str(value)) if usable else None

    formula = next(
        (document[n] for n in ("formula_pretty", "formula", "chemical_formula_reduced") if n in document), None
    )
    return Statements(
        formula=parse_stated_formula(formula) if isinstance(formula, str) else None,
        volume=number("volume"),
        density=number("density"),
    )


def _kind(value: Any) -> str:
    return "empty" if value is None else f"a {type(value).__name__}"
