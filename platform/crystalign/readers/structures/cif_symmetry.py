"""The symmetry operations of a CIF: listed, or found by Hall symbol, Hermann–Mauguin name or number.

A name does not always tell the operations: `F d -3 m` has two origins, `R -3 c` two sets of axes, `P 21/c` three
unique axes. So the answer is a list of candidates, each of which fits the cell; what else the file states decides
between them (`crystalign.readers.structures.cif`).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crystalign.crystal import Crystal
from crystalign.errors import CrystalError

METRIC_TOLERANCE = 0.005
"""An operation fits a cell if no component of the metric tensor changes by more than this, relative to the lengths."""
MAX_OPERATIONS = 192

_XYZ = (
    "_space_group_symop_operation_xyz",
    "_symmetry_equiv_pos_as_xyz",
)
_HALL = ("_space_group_name_Hall", "_symmetry_space_group_name_Hall")
_NAMES = (
    "_space_group_name_H-M_alt",
    "_symmetry_space_group_name_H-M",
    "_space_group_name_H-M_full",
    "_space_group_name_H-M",
)
_NUMBERS = (
    "_space_group_IT_number",
    "_symmetry_Int_Tables_number",
)
_CODES = ("_space_group_IT_coordinate_system_code",)
_MAGNETIC = "_space_group_symop_magn_operation_xyz"
_MAGNETIC_CENTRING = "_space_group_symop_magn_centering_xyz"
_DECIMAL = re.compile(r"\d*\.\d+")
_UNKNOWN = {"", "?", ".", "unknown", "none", "n/a"}
_EXTENSIONS = {"1": "1", "2": "2", "s": "1", "z": "2", "h": "H", "r": "R", "hr": "H", "rs": "R", "rz": "R", "hz": "H"}


@dataclass(frozen=True, eq=False)
class Operations:
    """A space group as its operations x → R x + t on fractional coordinates, modulo the lattice."""

    rotations: NDArray[np.int64]
    """(M, 3, 3)."""
    translations: NDArray[np.float64]
    """(M, 3) in [0, 1)."""
    known_by: str
    """Source of the operations in the file, for messages."""
    number: int | None
    """Number of the space group; None if the setting is not tabulated."""
    axis: str = ""
    """The unique axis of a monoclinic setting, where a table gives it."""

    def __len__(self) -> int:
        """The number of operations, M."""
        return len(self.rotations)


class Symmetry(NamedTuple):
    """Symmetry stated in a CIF."""

    candidates: tuple[Operations, ...]
    """Every reading that fits the cell; one where operations or a Hall symbol are given."""
    number: int | None
    """Number of the space group that the file states."""
    name: str
    """Name of the space group as the file writes it."""
    named: tuple[Operations, ...] = ()
    """The settings that the name may mean; none where there is no name."""
    conflict: str = ""
    """How the statements contradict each other; empty where they do not."""
    assumed: str = ""
    """Assumptions made for missing statements; empty if everything is stated."""
    missing: bool = False
    """Whether no symmetry is stated, so that the only candidate is P 1."""


def symmetry_of(block: Any, lattice: NDArray[np.float64]) -> Symmetry:
    """The candidates of a CIF block.

    Args:
        block: a `gemmi.cif.Block`.
        lattice: (3, 3) Å, rows are vectors.

    Raises:
        CrystalError: what is said cannot be understood, or does not fit the cell.
    """
    names = [text for tag in _NAMES if (text := _text(block, tag))]
    number, named_groups = _stated_number(block), [groups for name in names if (groups := _of_name(name))]
    hall = next((text for tag in _HALL if (text := _text(block, tag))), "")
    spoken = names[0] if names else ("" if number is None else f"number {number}")
    code = _code(block, names)
    conflict = _conflict_of_numbers(named_groups, number, names)
    named = _settings(named_groups[0], f"the space group {names[0]!r}", code) if named_groups else []
    explicit = _listed(block) or _of_hall(hall)
    if explicit is not None:
        if not _fits(explicit, lattice):
            message = f"{explicit.known_by} do not fit the cell: its lengths or angles do not have that symmetry"
            raise CrystalError(message, reason="symmetry-does-not-fit-cell")
        stated = number or (named[0].number if named else None)
        conflict = conflict or _conflict_of_setting(explicit, named, spoken)
        return Symmetry((explicit,), stated, spoken, tuple(named), conflict)
    if named:
        return Symmetry(_fitting(named, lattice), named[0].number, spoken, tuple(named), conflict)
    if number is not None:
        candidates = _fitting(_settings(_of_number(number), f"space group number {number}", code), lattice)
        return Symmetry(candidates, number, spoken, (), conflict, _assumed(number, candidates, lattice))
    if names or hall:
        said = ", ".join(repr(x) for x in [*([hall] if hall else []), *names[:1]])
        message = f"the space group {said} is not known and no operations are listed; list them in the file"
        raise CrystalError(message, reason="unknown-space-group")
    return Symmetry((_operations([], "no symmetry statement", 1),), None, "", missing=True)


def _settings(groups: list[Any], text: str, code: str) -> list[Operations]:
    """Return tabulated settings as operations; only those of the stated origin or axes, if there are any."""
    if any(group.ext == code for group in groups):
        groups = [group for group in groups if group.ext == code]
    return [
        _operations(group.operations(), f"{text} ({group.xhm()})", group.number, _unique_axis(group))
        for group in groups
    ]


def _fitting(settings: list[Operations], lattice: NDArray[np.float64]) -> tuple[Operations, ...]:
    """Return the settings that fit the cell; if several unique axes fit, those of the conventional one.

    Raises:
        CrystalError: none fits.
    """
    fits = [operations for operations in settings if _fits(operations, lattice)]
    if not fits:
        message = (
            f"{settings[0].known_by.partition(' (')[0]} does not fit the cell: its lengths and angles do not have that "
            "symmetry in any setting known"
        )
        raise CrystalError(message, reason="symmetry-does-not-fit-cell")
    axis = next(axis for axis in ("b", "c", "a", "") if any(operations.axis == axis for operations in fits))
    return tuple(operations for operations in fits if operations.axis == axis)


# --- contradictions between statements ------------------------------------------------------------------------------


def _conflict_of_numbers(named_groups: list[list[Any]], number: int | None, names: list[str]) -> str:
    """Message if the names and the number mean different space groups; else empty."""
    numbers = {group.number for groups in named_groups for group in groups} | (
        {number} if number is not None else set()
    )
    if len(numbers) <= 1:
        return ""
    said = " and ".join([*(repr(name) for name in dict.fromkeys(names)), *([f"number {number}"] if number else [])])
    return f"the file names different space groups: {said}"


def _conflict_of_setting(explicit: Operations, named: list[Operations], spoken: str) -> str:
    """Message if the given operations are a tabulated setting of the named group, but not the named one; else empty."""
    own = _code_set(explicit)
    if not named or explicit.number is None or any(_code_set(one) == own for one in named):
        return ""
    if explicit.number != named[0].number:
        return ""  # fewer or other operations: the atoms decide (`named_group_holds`)
    return f"{explicit.known_by} are those of another setting (axes or origin) of the group than {spoken!r}"


def _code_set(operations: Operations) -> frozenset[int]:
    return frozenset(_encoded(operations.rotations, operations.translations).tolist())


def _assumed(number: int, candidates: tuple[Operations, ...], lattice: NDArray[np.float64]) -> str:
    """Message if other settings of the number fit the cell as well as the standard one; else empty."""
    import gemmi

    standard = gemmi.find_spacegroup_by_number(number).hm
    others = [group for group in gemmi.spacegroup_table() if group.number == number and group.hm != standard]
    taken = {_code_set(one) for one in candidates}
    fitting = []
    for group in others:
        operations = _operations(group.operations(), "", number)
        if _fits(operations, lattice) and _code_set(operations) not in taken:
            fitting.append(group.xhm())
    if not fitting:
        return ""
    return f"only the number {number} is stated: {standard} was taken, but {', '.join(fitting[:3])} fit the cell, too"


def named_group_holds(crystal: Crystal, symmetry: Symmetry) -> bool:
    """Whether the operations of a structure, or at least its atoms, have the symmetry of the named space group.

    Operations of the named group's type are enough. A structure may also have the symmetry without listing it, such
    as a whole cell listed with the centring operations alone. Then the named group must map the sites of each
    occupancy onto each other, except for split sites less than 1 Å apart.
    """
    operations, number = symmetry.candidates[0], symmetry.number
    if number is None or operations.number == number:
        return True
    rotations = len(np.unique(operations.rotations.reshape(-1, 9), axis=0))
    tabulated = _operations(_of_number(number)[0].operations(), "", number)
    same_type = rotations == len(np.unique(tabulated.rotations.reshape(-1, 9), axis=0))
    if operations.number is None and same_type and len(operations) >= len(tabulated):
        return True  # a setting that is not tabulated
    if rotations > len(np.unique(tabulated.rotations.reshape(-1, 9), axis=0)):
        return False
    settings = list(symmetry.named) or _all_settings(number)
    parts = _parts(crystal)
    for setting in settings:
        if _fits(setting, crystal.lattice) and all(_unchanged(part, setting) for part in parts):
            return True
    return not symmetry.named and _found_number(crystal) == number


def _all_settings(number: int) -> list[Operations]:
    import gemmi

    return [_operations(g.operations(), "", number) for g in gemmi.spacegroup_table() if g.number == number]


def _found_number(crystal: Crystal) -> int | None:
    from crystalign.physics.symmetry import symmetry

    try:
        return symmetry(crystal).number
    except CrystalError:
        return None


def _parts(crystal: Crystal) -> list[Crystal]:
    """One crystal for each kind of site occupancy, without split sites less than 1 Å apart."""
    from crystalign.physics.neighbour_list import within

    if crystal.occupancies is None:
        return [crystal]
    contents = [tuple((z, round(x, 3)) for z, x in site) for site in crystal.occupancies]
    pairs = within(crystal, 1.0)
    near = {int(r) for s, r in zip(pairs.senders, pairs.receivers, strict=True) if contents[s] == contents[r]}
    parts = []
    for content in dict.fromkeys(contents):
        members = [n for n, own in enumerate(contents) if own == content and n not in near]
        if members:
            parts.append(Crystal(crystal.lattice, crystal.frac_coords[members], crystal.atomic_numbers[members]))
    return parts


def _unchanged(crystal: Crystal, operations: Operations, tolerance: float = 0.1) -> bool:
    """Whether every operation moves each atom to within `tolerance` (Å) of an atom of its element."""
    from scipy.spatial import cKDTree

    length = float(np.linalg.norm(crystal.lattice, axis=1).min())
    for z in np.unique(crystal.atomic_numbers):
        here = crystal.frac_coords[crystal.atomic_numbers == z]
        tree = cKDTree(here, boxsize=1.0)
        for rotation, translation in zip(operations.rotations, operations.translations, strict=True):
            moved = (here @ rotation.T + translation) % 1.0
            moved[moved >= 1.0] = 0.0
            if tree.query(moved, p=np.inf)[0].max() > tolerance / length:
                return False
    return True


# --- statements of a file -------------------------------------------------------------------------------------------


def _text(block: Any, tag: str) -> str:
    from gemmi import cif

    value = block.find_value(tag)
    text = " ".join(cif.as_string(value).split()) if value else ""
    return "" if text.lower() in _UNKNOWN else text


def _stated_number(block: Any) -> int | None:
    for tag in _NUMBERS:
        text = _text(block, tag)
        if re.fullmatch("[0-9]{1,3}", text) and 1 <= int(text) <= 230:
            return int(text)
    return None


def _code(block: Any, names: list[str]) -> str:
    """Return the stated origin (`1`, `2`) or axes (`H`, `R`), from a name or a code; empty if none is stated."""
    codes = [_split(name)[1] for name in names] + [_EXTENSIONS.get(_text(block, tag).lower(), "") for tag in _CODES]
    return next((code for code in codes if code), "")


def _listed(block: Any) -> Operations | None:
    """Return the listed operations after checking that they form a group; None if none are listed.

    Raises:
        CrystalError: one cannot be read, or they are no group.
    """
    from gemmi import cif

    for tag in (*_XYZ, _MAGNETIC):
        words = [cif.as_string(value) for value in block.find_values(tag)]
        words = [word for word in words if word.strip().lower() not in _UNKNOWN]
        if not words:
            continue
        if tag == _MAGNETIC:  # the last entry is time reversal, which moves no atom
            centring = [cif.as_string(value) for value in block.find_values(_MAGNETIC_CENTRING)]
            words = [",".join(word.split(",")[:3]) for word in (*words, *centring)]
        words = list(dict.fromkeys("".join(word.split()).lower() for word in words))
        if len(words) > MAX_OPERATIONS:
            message = f"{len(words)} symmetry operations are listed; a space group has at most {MAX_OPERATIONS}"
            raise CrystalError(message, reason="bad-symmetry-operations")
        known_by = f"the {len(words)} listed operations"
        operations = _operations([_operation(word) for word in ("x,y,z", *words)], known_by, None)
        operations = _generated(operations) if tag == _MAGNETIC else operations
        if not _closed(operations):
            message = f"{known_by} form no group: products of them are not listed. Some are missing or mistyped"
            raise CrystalError(message, reason="bad-symmetry-operations")
        return replace(operations, number=_number_of(operations))
    return None


def _number_of(operations: Operations) -> int | None:
    """Return the number of the space group with these operations; None if no tabulated setting has them."""
    import gemmi

    group = gemmi.GroupOps(
        [_as_gemmi(r, t) for r, t in zip(operations.rotations, operations.translations, strict=True)]
    )
    tabulated = gemmi.find_spacegroup_by_ops(group)
    return None if tabulated is None else int(tabulated.number)


def _as_gemmi(rotation: NDArray[np.int64], translation: NDArray[np.float64]) -> Any:
    import gemmi

    operation = gemmi.Op()
    operation.rot = (rotation * gemmi.Op.DEN).tolist()
    operation.tran = np.rint(translation * gemmi.Op.DEN).astype(int).tolist()
    return operation


def _operation(word: str) -> Any:
    """Parse an operation such as `-x,y+1/2,z`; a decimal within 0.005 of a multiple of 1/24 is replaced by it."""
    import gemmi

    try:
        operation = gemmi.Op(_DECIMAL.sub(_fraction, word))
    except (RuntimeError, ValueError) as error:
        message = f"the symmetry operation {word[:60]!r} cannot be read: {error}"
        raise CrystalError(message, reason="bad-symmetry-operations") from error
    if abs(operation.det_rot()) != gemmi.Op.DEN**3:
        message = f"the symmetry operation {word[:60]!r} does not keep the volume"
        raise CrystalError(message, reason="bad-symmetry-operations")
    return operation


def _fraction(match: re.Match[str]) -> str:
    value = float(match.group())
    parts = round(value * 24)
    return f"{parts}/24" if abs(value - parts / 24) <= 0.005 else match.group()


def _operations(operations: Iterable[Any], known_by: str, number: int | None, axis: str = "") -> Operations:
    """Convert distinct operations to arrays; the identity if there are none."""
    from gemmi import Op

    pairs = {(tuple(np.ravel(op.rot) // Op.DEN), tuple(t % Op.DEN for t in op.tran)): None for op in operations} or {
        ((1, 0, 0, 0, 1, 0, 0, 0, 1), (0, 0, 0)): None
    }
    rotations = np.array([rotation for rotation, _ in pairs], np.int64).reshape(-1, 3, 3)
    translations = np.array([translation for _, translation in pairs], np.float64) / Op.DEN
    return Operations(rotations, translations, known_by, number, axis)


def _encoded(rotations: NDArray[np.int64], translations: NDArray[np.float64]) -> NDArray[np.int64]:
    """One integer for each operation modulo the lattice: nine digits of base 8 and three of base 24."""
    code = np.zeros(rotations.shape[:-2], np.int64)
    for digit in np.moveaxis(rotations.reshape(*rotations.shape[:-2], 9), -1, 0):
        code = code * 8 + np.clip(digit, -3, 4) + 3
    for digit in np.moveaxis(np.rint(translations * 24).astype(np.int64) % 24, -1, 0):
        code = code * 24 + digit
    return code


def _products(a: Operations) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    rotations = np.einsum("iab,jbc->ijac", a.rotations, a.rotations)
    translations = np.einsum("iab,jb->ija", a.rotations.astype(np.float64), a.translations) + a.translations[:, None]
    return rotations.reshape(-1, 3, 3), translations.reshape(-1, 3) % 1.0


def _closed(operations: Operations) -> bool:
    rotations, translations = _products(operations)
    codes = _encoded(operations.rotations, operations.translations)
    return bool(np.isin(_encoded(rotations, translations), codes).all())


def _generated(operations: Operations) -> Operations:
    """Return the group that the operations generate, or a part of it if it exceeds `MAX_OPERATIONS`."""
    while not _closed(operations) and len(operations) <= MAX_OPERATIONS:
        rotations, translations = _products(operations)
        _, first = np.unique(_encoded(rotations, translations), return_index=True)
        operations = replace(operations, rotations=rotations[first], translations=translations[first])
    return operations


def _fits(operations: Operations, lattice: NDArray[np.float64]) -> bool:
    """Whether Rᵀ G R = G for the metric tensor G of the cell and every rotation R, within `METRIC_TOLERANCE`."""
    metric = lattice @ lattice.T
    scale = np.sqrt(np.outer(np.diag(metric), np.diag(metric)))
    moved = np.einsum("mji,jk,mkl->mil", operations.rotations, metric, operations.rotations)
    return bool((np.abs(moved - metric) <= METRIC_TOLERANCE * scale).all())


# --- tables ---------------------------------------------------------------------------------------------------------


def _split(name: str) -> tuple[str, str]:
    """Split a Hermann–Mauguin name into symbol and code of origin or axes: `F d -3 m Z` → (`fd-3m`, `2`)."""
    text = re.sub("(\\d)[\u0304\u0305]", r"-\1", name.lower())  # a bar over its number
    text = re.sub("[\u2010-\u2015\u2212]", "-", re.sub(r"[\s_()~]", "", text))
    body, colon, code = text.partition(":")
    if not colon:
        match = re.fullmatch(r"(.{2,}?)(hr|rs|rz|hz|[szhr])", text)
        body, code = match.groups() if match else (text, "")
    return body, _EXTENSIONS.get(code, "")


@functools.cache
def _table() -> dict[str, list[Any]]:
    """Return the settings by every spelling of their name: short and full, monoclinic ones also without each `1`."""
    import gemmi
    from moyopy import HallSymbolEntry

    table: dict[str, list[Any]] = {}
    for group in gemmi.spacegroup_table():
        words = group.hm.split()
        spellings = {_split(group.hm)[0]}
        if 3 <= group.number <= 15:
            spellings.add(_split("".join([words[0], *(word for word in words[1:] if word != "1")]))[0])
        for spelling in spellings:
            table.setdefault(spelling, []).append(group)
    for number in range(1, 531):
        entry = HallSymbolEntry(number)
        full, short = _split(entry.hm_full)[0], _split(entry.hm_short)[0]
        if full not in table and short in table:
            table[full] = [group for group in table[short] if group.number == entry.number]
    return table


def _of_name(name: str) -> list[Any]:
    """Return the settings that a name may mean, with all origins and axes; empty if it is not understood."""
    import gemmi

    body, _ = _split(name)
    groups = _table().get(body, [])
    if groups:
        return groups
    group = gemmi.find_spacegroup_by_name(body)  # knows old symbols, such as F m 3 m
    return [] if group is None else _table().get(_split(group.hm)[0], [group])


def _unique_axis(group: Any) -> str:
    """Return the unique axis, `a`, `b` or `c`, of a monoclinic setting; else an empty string."""
    return str(group.monoclinic_unique_axis()).strip("\x00")


def _of_hall(symbol: str) -> Operations | None:
    import gemmi

    try:
        operations = gemmi.symops_from_hall(symbol) if symbol else None
    except (RuntimeError, ValueError):
        return None
    if operations is None:
        return None
    group = gemmi.find_spacegroup_by_ops(operations)
    number = None if group is None else int(group.number)
    return _operations(operations, f"the operations of the Hall symbol {symbol!r}", number)


def _of_number(number: int) -> list[Any]:
    """Return the standard setting of a number; both if it has two origins or two kinds of axes."""
    import gemmi

    standard = gemmi.find_spacegroup_by_number(number)
    return [group for group in gemmi.spacegroup_table() if group.number == number and group.hm == standard.hm]
