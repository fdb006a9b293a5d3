"""The symmetry operations of a CIF: listed, or found by Hall symbol, Hermann–Mauguin name or number.

A name does not always tell the operations: `F d -3 m` has two origins, `R -3 c` two sets of axes, `P 21/c` three
unique axes. So the answer is a list of candidates, each of which fits the cell; what else the file states decides
between them (`crystalign.sources.cif`).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crystalign.crystal import Crystal
from crystalign.errors import CrystalError

METRIC_TOLERANCE = 0.02
"""An operation fits a cell if no component of the metric tensor changes by more than this, relative to the lengths."""
MAX_OPERATIONS = 192

_XYZ = (
    "_space_group_symop_operation_xyz",
    "_space_group_symop.operation_xyz",
    "_symmetry_equiv_pos_as_xyz",
    "_symmetry_equiv.pos_as_xyz",
)
_HALL = ("_space_group_name_Hall", "_space_group.name_Hall", "_symmetry_space_group_name_Hall")
_NAMES = (
    "_space_group_name_H-M_alt",
    "_space_group.name_H-M_alt",
    "_symmetry_space_group_name_H-M",
    "_symmetry.space_group_name_H-M",
    "_space_group_name_H-M_full",
    "_space_group_name_H-M",
)
_NUMBERS = (
    "_space_group_IT_number",
    "_space_group.IT_number",
    "_symmetry_Int_Tables_number",
    "_symmetry.Int_Tables_number",
)
_CODES = ("_space_group.IT_coordinate_system_code", "_space_group_IT_coordinate_system_code")
_MAGNETIC = "_space_group_symop_magn_operation.xyz"
_MAGNETIC_CENTRING = "_space_group_symop_magn_centering.xyz"
_UNKNOWN = {"", "?", ".", "unknown", "none", "n/a"}
_EXTENSIONS = {"1": "1", "2": "2", "s": "1", "z": "2", "h": "H", "r": "R", "hr": "H", "rs": "R", "rz": "R", "hz": "H"}


class Operations(NamedTuple):
    """A space group as its operations x → R x + t on fractional coordinates, modulo the lattice."""

    rotations: NDArray[np.int64]
    """(M, 3, 3)."""
    translations: NDArray[np.float64]
    """(M, 3) in [0, 1)."""
    known_by: str
    """How the file tells it, for messages."""
    number: int | None
    """Of the space group, where a table has this setting."""

    def __len__(self) -> int:
        """The number of operations, M."""
        return len(self.rotations)


class Symmetry(NamedTuple):
    """What a CIF says of its symmetry."""

    candidates: tuple[Operations, ...]
    """Every reading that fits the cell; one where operations are listed."""
    number: int | None
    """Of the space group that the file names, whether or not operations are listed."""
    name: str
    """As the file writes it."""
    missing: bool = False
    """Nothing is said: the one candidate is P 1."""


def symmetry_of(block: Any, lattice: NDArray[np.float64]) -> Symmetry:
    """The candidates of a CIF block.

    Args:
        block: a `gemmi.cif.Block`.
        lattice: (3, 3) Å, rows are vectors.

    Raises:
        CrystalError: what is said cannot be understood, or does not fit the cell.
    """
    names = [text for tag in _NAMES if (text := _text(block, tag))]
    number, named = _stated_number(block), _first_known(names)
    spoken = names[0] if names else ("" if number is None else f"number {number}")
    listed = _listed(block)
    if listed is not None:
        if not _fits(listed, lattice):
            message = f"{listed.known_by} do not keep the cell: its lengths or angles do not have that symmetry"
            raise CrystalError(message, reason="symmetry-does-not-fit-cell")
        return Symmetry((listed,), number or (named[0].number if named else None), spoken)
    halls = [text for tag in _HALL if (text := _text(block, tag))]
    for text, groups in (
        (f"the Hall symbol {halls[0]!r}" if halls else "", _of_hall(halls[0]) if halls else []),
        (f"the space group {names[0]!r}" if names else "", named),
        (f"space group number {number}", _of_number(number)),
    ):
        if groups:
            return _chosen(text, groups, _code(block, names), lattice, number, spoken)
    if names or halls or number is not None:
        said = ", ".join(repr(x) for x in [*halls[:1], *names[:1], *([number] if number is not None else [])])
        message = f"the space group {said} is not known and no operations are listed; list them in the file"
        raise CrystalError(message, reason="unknown-space-group")
    return Symmetry((_operations([], "no symmetry statement", 1),), None, "", missing=True)


def _chosen(
    text: str, groups: list[Any], code: str, lattice: NDArray[np.float64], number: int | None, spoken: str
) -> Symmetry:
    """The settings of named groups that agree with the stated origin or axes and fit the cell."""
    if any(group.ext == code for group in groups):
        groups = [group for group in groups if group.ext == code]
    axes = [_unique_axis(group) for group in groups]
    found = [_operations(group.operations(), f"{text} ({group.xhm()})", group.number) for group in groups]
    fits = [_fits(operations, lattice) for operations in found]
    convention = next(
        (axis for axis in ("b", "c", "a", "") if axis in {a for a, f in zip(axes, fits, strict=True) if f}), ""
    )
    fitting = [one for one, axis, fit in zip(found, axes, fits, strict=True) if fit and axis == convention]
    if not fitting:
        message = f"{text} does not fit the cell: its lengths and angles do not have that symmetry in any setting known"
        raise CrystalError(message, reason="symmetry-does-not-fit-cell")
    return Symmetry(tuple(fitting), number or groups[0].number, spoken)


def named_group_holds(crystal: Crystal, number: int, operations: Operations) -> bool:
    """Whether listed operations, or at least the atoms that they make, have the symmetry of a named space group.

    Operations with as many rotations as the named group's point group are taken for that group. Fewer may still
    make a structure that has the rest of the symmetry, such as a whole cell listed with centring alone. Split,
    partly occupied sites may break it; then the best occupied sites decide.
    """
    wanted, listed = _order(number), len(np.unique(operations.rotations.reshape(-1, 9), axis=0))
    if listed == wanted:
        return True
    if listed > wanted:
        return False
    share = np.ones(len(crystal))
    if crystal.occupancies is not None:
        share = np.array([sum(x for _, x in site) for site in crystal.occupancies])
    best = share > 0.9 * share.max()
    part = Crystal(crystal.lattice, crystal.frac_coords[best], crystal.atomic_numbers[best])
    return any(_has_symmetry(one, number) for one in (crystal, part))


def _has_symmetry(crystal: Crystal, number: int) -> bool:
    """Whether a crystal is unchanged by a space group in a setting that is tabulated, or is found to have it."""
    import gemmi

    from crystalign.physics.symmetry import symmetry

    for group in gemmi.spacegroup_table():
        if group.number == number:
            operations = _operations(group.operations(), "", number)
            if _fits(operations, crystal.lattice) and _unchanged(crystal, operations):
                return True
    try:
        return symmetry(crystal).number == number
    except CrystalError:
        return False


def _unchanged(crystal: Crystal, operations: Operations, tolerance: float = 0.05) -> bool:
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


@functools.cache
def _order(number: int) -> int:
    """How many rotations the point group of a space group has."""
    import gemmi

    return len(gemmi.find_spacegroup_by_number(number).operations().sym_ops)


# --- what a file says -----------------------------------------------------------------------------------------------


def _text(block: Any, tag: str) -> str:
    from gemmi import cif

    value = block.find_value(tag)
    text = " ".join(cif.as_string(value).split()) if value else ""
    return "" if text.lower() in _UNKNOWN else text


def _stated_number(block: Any) -> int | None:
    for tag in _NUMBERS:
        text = _text(block, tag)
        if text.isdigit() and 1 <= int(text) <= 230:
            return int(text)
    return None


def _code(block: Any, names: list[str]) -> str:
    """`1`, `2`, `H`, `R` or nothing: the origin or the axes that a name or a code tells."""
    told = [_split(name)[1] for name in names] + [_EXTENSIONS.get(_text(block, tag).lower(), "") for tag in _CODES]
    return next((code for code in told if code), "")


def _listed(block: Any) -> Operations | None:
    """The listed operations, checked to be a group.

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
            words = [",".join(word.split(",")[:3]) for word in words]
            words += [",".join(word.split(",")[:3]) for word in centring]
        if len(words) > MAX_OPERATIONS:
            message = f"{len(words)} symmetry operations are listed; a space group has at most {MAX_OPERATIONS}"
            raise CrystalError(message, reason="bad-symmetry-operations")
        operations = _operations([_operation(word) for word in words], f"the {len(words)} listed operations", None)
        operations = _generated(operations) if tag == _MAGNETIC else operations
        if not _closed(operations):
            message = (
                f"the {len(words)} listed symmetry operations are no group: applied twice they give others. Some are "
                "missing or mistyped"
            )
            raise CrystalError(message, reason="bad-symmetry-operations")
        return operations
    return None


def _operation(word: str) -> Any:
    import gemmi

    try:
        operation = gemmi.Op(word.strip())
    except (RuntimeError, ValueError) as error:
        message = f"the symmetry operation {word[:60]!r} cannot be read: {error}"
        raise CrystalError(message, reason="bad-symmetry-operations") from error
    if abs(operation.det_rot()) != gemmi.Op.DEN**3:
        message = f"the symmetry operation {word[:60]!r} does not keep the volume"
        raise CrystalError(message, reason="bad-symmetry-operations")
    return operation


def _operations(found: Iterable[Any], known_by: str, number: int | None) -> Operations:
    """Distinct operations as arrays; the identity alone where there is none."""
    from gemmi import Op

    pairs = {(tuple(np.ravel(op.rot) // Op.DEN), tuple(t % Op.DEN for t in op.tran)): None for op in found} or {
        ((1, 0, 0, 0, 1, 0, 0, 0, 1), (0, 0, 0)): None
    }
    rotations = np.array([rotation for rotation, _ in pairs], np.int64).reshape(-1, 3, 3)
    translations = np.array([translation for _, translation in pairs], np.float64) / Op.DEN
    return Operations(rotations, translations, known_by, number)


def _encoded(rotations: NDArray[np.int64], translations: NDArray[np.float64]) -> NDArray[np.int64]:
    """One integer for each operation modulo the lattice: nine base-4 digits and three of base 24."""
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
    known = _encoded(operations.rotations, operations.translations)
    return bool(np.isin(_encoded(rotations, translations), known).all())


def _generated(operations: Operations) -> Operations:
    """The group that some operations generate, as far as `MAX_OPERATIONS`."""
    while not _closed(operations) and len(operations) <= MAX_OPERATIONS:
        rotations, translations = _products(operations)
        _, first = np.unique(_encoded(rotations, translations), return_index=True)
        operations = operations._replace(rotations=rotations[first], translations=translations[first])
    return operations


def _fits(operations: Operations, lattice: NDArray[np.float64]) -> bool:
    """Whether Rᵀ G R = G for the metric tensor G of the cell and every rotation R, within `METRIC_TOLERANCE`."""
    metric = lattice @ lattice.T
    scale = np.sqrt(np.outer(np.diag(metric), np.diag(metric)))
    moved = np.einsum("mji,jk,mkl->mil", operations.rotations, metric, operations.rotations)
    return bool((np.abs(moved - metric) <= METRIC_TOLERANCE * scale).all())


# --- tables ---------------------------------------------------------------------------------------------------------


def _split(name: str) -> tuple[str, str]:
    """A Hermann–Mauguin name without what tells its origin or axes, and that: `F d -3 m Z` → (`fd-3m`, `2`)."""
    text = re.sub(r"[\s_()~]", "", name.lower())
    body, colon, code = text.partition(":")
    if not colon:
        match = re.fullmatch(r"(.{2,}?)(hr|rs|rz|hz|[szhr])", text)
        body, code = match.groups() if match else (text, "")
    return body, _EXTENSIONS.get(code, "")


@functools.cache
def _table() -> dict[str, list[Any]]:
    """Settings by every spelling of their name: with and without the ones of monoclinic symbols, short and full."""
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


def _first_known(names: list[str]) -> list[Any]:
    """The settings that the first understandable name may mean."""
    import gemmi

    for name in names:
        body, _ = _split(name)
        groups = _table().get(body, [])
        if not groups:
            found = gemmi.find_spacegroup_by_name(body)  # knows old symbols, such as F m 3 m
            groups = [] if found is None else _table().get(_split(found.hm)[0], [found])
        if groups:
            return groups
    return []


def _unique_axis(group: Any) -> str:
    """`a`, `b` or `c` of a monoclinic setting, else nothing. A short name means b where the cell fits several."""
    return "" if isinstance(group, _Generated) else group.monoclinic_unique_axis().strip("\x00")


def _of_hall(symbol: str) -> list[Any]:
    import gemmi

    try:
        operations = gemmi.symops_from_hall(symbol)
    except (RuntimeError, ValueError):
        return []
    group = gemmi.find_spacegroup_by_ops(operations)
    return [_Generated(symbol, operations, group)]


class _Generated:
    """A Hall symbol in the form of a table's setting."""

    ext = ""

    def __init__(self, symbol: str, operations: Any, group: Any) -> None:
        self.symbol, self._operations = symbol, operations
        self.number = None if group is None else group.number

    def operations(self) -> Any:
        return self._operations

    def xhm(self) -> str:
        return self.symbol


def _of_number(number: int | None) -> list[Any]:
    """The standard setting of a number, in both origins or on both kinds of axes where there are two."""
    import gemmi

    if number is None:
        return []
    standard = gemmi.find_spacegroup_by_number(number)
    return [group for group in gemmi.spacegroup_table() if group.number == number and group.hm == standard.hm]
