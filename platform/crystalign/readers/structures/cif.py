"""Read CIF with gemmi and compare the structure with the statements of the file.

gemmi reads the syntax and knows the space groups; this module decides which of several readings of a file is the
right one, and refuses a structure that contradicts its own file (`crystalign.readers.structures.reading`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crystalign.crystal import Crystal, Occupancy
from crystalign.errors import CrystalError, FileFormatError
from crystalign.readers.structures.agreement import Agreement, Statements, compare, parse_stated_formula
from crystalign.readers.structures.cif_elements import assign, is_vacancy, names_group
from crystalign.readers.structures.cif_sites import OCCUPANCY_SLACK, Row, cif_number, site_rows
from crystalign.readers.structures.cif_symmetry import Operations, Symmetry, named_group_holds, symmetry_of
from crystalign.readers.structures.expansion import images, shared_sites
from crystalign.readers.structures.reading import Objection, Reading

MAX_BLOCKS = 10_000
_CELL = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
_SITE = "_atom_site_"
_DOTTED = re.compile(r"(?<!\S)(_[A-Za-z][\w-]*)\.(?=\w)")
_MODULATED = (
    "_cell_modulation_dimension",
    "_cell_wave_vector_x",
    "_space_group_ssg_name",
    "_space_group_symop_ssg_operation_algebraic",
    "_atom_site_fourier_wave_vector_x",
    "_atom_site_displace_Fourier_id",
    "_atom_site_occ_Fourier_id",
)


def read_cif(text: str, *, max_sites: int, max_positions: int) -> Iterator[tuple[str, Reading | CrystalError]]:
    """(name of the block, its structure or what is wrong with it) for each block that lists sites.

    Args:
        text: the file.
        max_sites: rows of the table of sites, and sites of the whole cell.
        max_positions: rows times symmetry operations.

    Raises:
        FileFormatError: the file is no CIF, or no block lists sites.
    """
    document = parse_cif(text)
    blocks = [block for block in document if _sites_table(block)]
    if not blocks:
        held = f"{len(document)} blocks, none with atom sites" if len(document) else "no data block"
        raise FileFormatError(f"the CIF holds {held}", reason="no-structure")
    for block in blocks:
        try:
            yield block.name, _read_block(block, max_sites, max_positions)
        except CrystalError as error:
            yield block.name, error


def parse_cif(text: str) -> Any:
    """The document of gemmi, with the names of newer dictionaries replaced by those of older ones.

    Raises:
        FileFormatError: the text is no CIF, breaks the rules of the format, or has too many blocks.
    """
    from gemmi import cif

    if not re.search(r"^[ \t]*data_", text, re.MULTILINE | re.IGNORECASE):
        start = " ".join(text.split())[:60]
        raise FileFormatError(f"this is no CIF: it has no data_ block and begins with {start!r}", reason="not-cif")
    plain = _DOTTED.sub(r"\1_", text)  # `_cell.length_a` of newer dictionaries is `_cell_length_a`
    try:
        document = cif.read_string(plain, 0)
    except (RuntimeError, ValueError) as error:
        said = " ".join(str(error).replace("string:", "line ").split())
        raise FileFormatError(
            f"the CIF breaks the rules of the format: {said[:200]}", reason="unreadable-cif"
        ) from error
    if len(document) > MAX_BLOCKS:
        raise FileFormatError(f"the CIF has {len(document)} blocks; the limit is {MAX_BLOCKS}", reason="too-large")
    return document


def _read_block(block: Any, max_sites: int, max_positions: int) -> Reading:
    for tag in _MODULATED:
        if block.find_value(tag) or block.find_loop(tag):
            message = "the structure is modulated: three dimensions do not describe it"
            raise CrystalError(message, reason="modulated")
    lattice = _lattice(block)
    rows = site_rows(block, max_sites)
    symmetry = symmetry_of(block, lattice)
    for operations in symmetry.candidates:
        if len(rows) * len(operations) > max_positions:
            message = (
                f"{len(rows)} sites and {len(operations)} symmetry operations are more than {max_positions} positions; "
                "send the primitive cell"
            )
            raise CrystalError(message, reason="too-many-sites")
    stated, objections = _statements(block, rows)
    results = [_built(rows, operations, lattice, stated, max_sites) for operations in symmetry.candidates]
    reading = _decided(results, symmetry)
    return reading._replace(objections=(*reading.objections, *objections))


# --- choice of the reading ------------------------------------------------------------------------------------------


class Built(NamedTuple):
    """A structure under one candidate of the symmetry."""

    reading: Reading
    agreement: Agreement
    operations: Operations


def _decided(results: Sequence[Built | CrystalError], symmetry: Symmetry) -> Reading:
    """Return the reading that agrees with the file's statements, or else the one with the fewest objections.

    Raises:
        CrystalError: none can be built, or several agree and differ.
    """
    built = [one for one in results if isinstance(one, Built)]
    if not built:
        raise next(one for one in results if isinstance(one, CrystalError))
    agreeing = [one for one in built if not one.reading.objections and not _overlaps(one.reading.crystal)]
    if len(agreeing) > 1 and not all(_same(agreeing[0].reading.crystal, one.reading.crystal) for one in agreeing[1:]):
        choices = " or ".join(one.operations.known_by for one in agreeing)
        counts = " or ".join(str(len(one.reading.crystal)) for one in agreeing)
        message = (
            f"the symmetry may be {choices}, with {counts} sites, and nothing in the file decides; list the operations "
            "or state the origin, the axes, or formula and Z"
        )
        raise CrystalError(message, reason="ambiguous-symmetry")
    best = agreeing[0] if agreeing else min(built, key=lambda one: len(one.reading.objections))
    return best.reading._replace(objections=(*best.reading.objections, *_symmetry_objection(best, symmetry)))


def _overlaps(crystal: Crystal) -> bool:
    try:
        crystal.check(max_sites=len(crystal))
    except CrystalError as error:
        return error.reason == "overlapping-atoms"
    return False


def _same(one: Crystal, other: Crystal) -> bool:
    """Whether two readings of one cell have the same atoms at the same positions."""
    if len(one) != len(other):
        return False
    step = one.frac_coords[:, None] - other.frac_coords[None]
    step -= np.rint(step)
    near = np.linalg.norm(step @ one.lattice, axis=2) < 0.01
    return bool((near & (one.atomic_numbers[:, None] == other.atomic_numbers[None])).any(axis=1).all())


def _symmetry_objection(best: Built, symmetry: Symmetry) -> tuple[Objection, ...]:
    """Objection if statements of symmetry are missing, ambiguous, or contradict each other or the atoms."""
    if symmetry.missing:
        message = (
            "the file states no symmetry: neither operations nor a space group. If it lists the whole cell, write "
            "_space_group_name_H-M_alt 'P 1'"
        )
        return () if best.agreement.confirmed else (Objection("symmetry-missing", message),)
    if symmetry.conflict:
        return (Objection("symmetry-disagrees", f"{symmetry.conflict}; correct the file"),)
    if symmetry.assumed:
        return (Objection("setting-assumed", f"{symmetry.assumed}; state its name"),)
    if named_group_holds(best.reading.crystal, symmetry._replace(candidates=(best.operations,))):
        return ()
    message = (
        f"{best.operations.known_by} are not those of the stated space group {symmetry.name!r} (number "
        f"{symmetry.number}), and the atoms do not have that symmetry; list all operations, or correct the name"
    )
    return (Objection("symmetry-disagrees", message),)


# --- one candidate --------------------------------------------------------------------------------------------------


def _built(
    rows: Sequence[Row], operations: Operations, lattice: NDArray[np.float64], stated: Statements, max_sites: int
) -> Built | CrystalError:
    try:
        return _build(rows, operations, lattice, stated, max_sites)
    except CrystalError as error:
        return error


def _build(
    rows: Sequence[Row], operations: Operations, lattice: NDArray[np.float64], stated: Statements, max_sites: int
) -> Built:
    """Build all sites of the cell with their elements, and compare them with the file.

    Raises:
        CrystalError: no site is left, an element is not known, or a position is occupied more than once.
    """
    remarks: list[str] = []
    placed = [row for row in rows if row.site is not None and row.site.occupancy > 0 and not is_vacancy(row.word)]
    if not placed:
        raise CrystalError("no site of the CIF has both coordinates and an atom", reason="no-structure")
    orbits: list[NDArray[np.float64]] = []
    for row in placed:
        assert row.site is not None
        orbits.append(images(row.site, operations, lattice))
        if sum(map(len, orbits)) > 2 * max_sites:
            message = f"the cell has more than {2 * max_sites} sites; the limit is {max_sites}. Use the primitive cell"
            raise CrystalError(message, reason="too-many-sites")
    occupancy = np.array([row.site.occupancy for row in placed if row.site is not None])
    volume = float(abs(np.linalg.det(lattice)))
    words = [(row.word, row.is_type) for row in placed]
    numbers = assign(words, [len(o) * x for o, x in zip(orbits, occupancy, strict=True)], stated, volume)
    site_numbers = np.repeat(np.array(numbers), [len(o) for o in orbits])
    site_occupancy = np.repeat(occupancy, [len(o) for o in orbits])
    crystal, sums = _merged(lattice, np.concatenate(orbits), site_numbers, site_occupancy, remarks)
    agreement = compare(crystal.composition, volume, stated)
    objections = [*agreement.objections, *_without_place(rows, agreement, remarks), *_multiplicities(placed, orbits)]
    _refuse_alternatives(placed)
    remarks += [*_hydrogen_remarks(placed, stated, agreement), *_left_out(rows, stated)]
    if sums > 1.0 + OCCUPANCY_SLACK:
        message = f"the occupancies of one place add up to {sums:.3f}; at most 1 is possible"
        objections.append(Objection("occupancy-above-one", message))
    elif sums > 1.0 + 1e-3:
        remarks.append(f"occupancies of one place add up to {sums:.3f} and were divided by that")
    notices = (*agreement.remarks, *remarks)
    return Built(Reading(crystal, notices, tuple(objections)), agreement, operations)


def _hydrogen_remarks(placed: Sequence[Row], stated: Statements, agreement: Agreement) -> list[str]:
    """Return a remark on hydrogen that the file names but gives no site, unless the formula already shows it."""
    if any(remark.startswith("hydrogen missing") for remark in agreement.remarks):
        return []
    if attached := [row.label for row in placed if row.attached]:
        return [f"hydrogen missing: it is attached to {', '.join(attached[:5])} and has no site"]
    groups = [row.label for row in placed if names_group(row.word)] if stated.formula is None else []
    return [f"hydrogen missing: {', '.join(groups[:5])} name groups whose hydrogen has no site"] if groups else []


def _left_out(rows: Sequence[Row], stated: Statements) -> list[str]:
    """Remark on vacant sites, which are left out if the file has a formula.

    Raises:
        CrystalError: there are such sites and no formula.
    """
    vacant = [row.label for row in rows if is_vacancy(row.word) and row.site and row.site.occupancy > 0]
    if not vacant:
        return []
    if stated.formula is None:
        message = f"the site {vacant[0]!r} names no element; remove it if it is a vacancy"
        raise CrystalError(message, reason="unknown-element")
    return [f"{len(vacant)} sites without an atom left out: {', '.join(vacant[:5])}"]


def _multiplicities(placed: Sequence[Row], orbits: Sequence[NDArray[np.float64]]) -> list[Objection]:
    """Objection if a stated site multiplicity differs from the number of images."""
    pairs = list(zip(placed, orbits, strict=True))
    if any(row.multiplicity is None for row in placed) or all(row.multiplicity == 1 for row in placed):
        return []
    wrong = [(row, orbit) for row, orbit in pairs if row.multiplicity != len(orbit)]
    if not wrong:
        return []
    row, orbit = wrong[0]
    message = f"{row.label} has multiplicity {len(orbit)} under the operations, but {row.multiplicity} in the file"
    return [Objection("multiplicity-disagrees", message)]


def _refuse_alternatives(placed: Sequence[Row]) -> None:
    """Refuse disorder groups that are all fully occupied.

    Raises:
        CrystalError: two groups of alternatives are fully occupied.
    """
    full = {row.alternative for row in placed if row.alternative and row.site and row.site.occupancy > 0.999}
    if len(full) > 1:
        message = f"the disorder groups {', '.join(sorted(full)[:4])} are alternatives and all are fully occupied"
        raise CrystalError(message, reason="bad-sites")


def _merged(
    lattice: NDArray[np.float64],
    coords: NDArray[np.float64],
    numbers: NDArray[np.int64],
    occupancy: NDArray[np.float64],
    remarks: list[str],
) -> tuple[Crystal, float]:
    """Return the crystal, with species at one position as a mixed site, and the largest sum of occupancies."""
    shared = shared_sites(coords, lattice, occupancy, numbers)
    owners = np.unique(shared.owner)
    if shared.repeated.any():
        remarks.append(
            f"{int(shared.repeated.sum())} sites of the cell are listed more than once and were counted once"
        )
    members: dict[int, list[int]] = {int(owner): [] for owner in owners}
    for position in np.flatnonzero(~shared.repeated).tolist():
        members[int(shared.owner[position])].append(position)
    sites: list[Occupancy] = []
    largest = 0.0
    for owner in owners:
        amounts: dict[int, float] = {}
        for index in members[int(owner)]:
            z = int(numbers[index])
            amounts[z] = amounts.get(z, 0.0) + float(occupancy[index])
        total = sum(amounts.values())
        largest = max(largest, total)
        scale = max(1.0, total)
        sites.append(tuple(sorted((z, x / scale) for z, x in amounts.items())))
    mixed = any(len(site) > 1 or abs(site[0][1] - 1.0) > 1e-6 for site in sites)
    first = [max(site, key=lambda pair: (pair[1], -pair[0]))[0] for site in sites]
    return Crystal(lattice, coords[owners], np.array(first, int), tuple(sites) if mixed else None), largest


def _without_place(rows: Sequence[Row], agreement: Agreement, remarks: list[str]) -> list[Objection]:
    """Report sites without coordinates: a remark if hydrogen, or if formula or density agree, else an objection."""
    absent = [row for row in rows if row.site is None]
    if not absent:
        return []
    names = ", ".join(row.label for row in absent[:5])
    hydrogen = all(re.match(r"[HhDdTt](?![a-z])", row.word) for row in absent)
    if hydrogen or agreement.confirmed:
        remarks.append(
            f"{'hydrogen missing: ' if hydrogen else ''}{len(absent)} sites without coordinates left out: {names}"
        )
        return []
    message = f"{len(absent)} sites have no coordinates ({names}); remove them, or accept the structure without them"
    return [Objection("sites-without-coordinates", message)]


# --- contents of a block --------------------------------------------------------------------------------------------


def _sites_table(block: Any) -> bool:
    return any(block.find_values(f"{_SITE}{name}") for name in ("fract_x", "label", "type_symbol", "Cartn_x"))


def _lattice(block: Any) -> NDArray[np.float64]:
    """Return the lattice (3, 3), rows are vectors: a along x, b in the xy plane.

    Raises:
        CrystalError: a length or an angle is missing, no number, or impossible.
    """
    import gemmi

    values = []
    for name in _CELL:
        tag = f"_cell_{name}"
        text = block.find_value(tag)
        value = cif_number(text)
        if not np.isfinite(value) or value <= 0:
            said = "is missing" if not text else f"is {text!r}"
            hint = "; a decimal point is needed, not a comma" if text and "," in text else ""
            raise CrystalError(f"{tag} {said}, not a positive number{hint}", reason="bad-cell")
        values.append(value)
    a, b, c, *angles = values
    cosines = np.cos(np.radians(angles))
    gram = 1.0 - (cosines**2).sum() + 2.0 * cosines.prod()
    if max(angles) >= 180 or gram <= 1e-8 or max(a, b, c) > 1e4:
        message = f"a cell of {a:g}, {b:g}, {c:g} Å and {angles[0]:g}, {angles[1]:g}, {angles[2]:g}° is impossible"
        raise CrystalError(message, reason="bad-cell")
    matrix = np.array(gemmi.UnitCell(a, b, c, *angles).orth.mat.tolist())
    return np.asarray(matrix.T)


def _statements(block: Any, rows: Sequence[Row]) -> tuple[Statements, tuple[Objection, ...]]:
    """Return the formula, Z, volume and density that the file states, and an objection to an unreadable formula."""
    from gemmi import cif

    def number(tag: str) -> float | None:
        value = cif_number(block.find_value(tag))
        return value if np.isfinite(value) and value > 0 else None

    def text_of(tag: str) -> str:
        value = block.find_value(tag)
        text = " ".join(cif.as_string(value).split()) if value else ""
        return "" if text in {"?", "."} else text

    text = text_of("_chemical_formula_sum")
    formula = parse_stated_formula(text) if text else None
    objections: tuple[Objection, ...] = ()
    if text and formula is None:
        message = f"the formula {text[:80]!r} is not understood; write elements and amounts, such as 'C2 Ca Mg O6'"
        objections = (Objection("formula-not-understood", message),)
    named = re.search(r"(?<![A-Za-z])D(?![a-z])", text) or any(re.match(r"D(?![a-z])", row.word) for row in rows)
    stated = Statements(
        formula=formula,
        structural=parse_stated_formula(text_of("_chemical_formula_structural")),
        deuterated=bool(named),
        z=number("_cell_formula_units_Z"),
        volume=number("_cell_volume"),
        density=number("_exptl_crystal_density_diffrn"),
    )
    return stated, objections
