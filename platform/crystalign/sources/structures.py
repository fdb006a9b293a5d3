"""Crystals out of the text of one file: CIF with any number of blocks, POSCAR, pymatgen's dictionaries."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from crystalign.crystal import Crystal, Occupancy
from crystalign.errors import CrystalError, FileFormatError

MAX_SPECIES_PER_SITE = 32
_BLOCK = re.compile(r"^\s*data_", re.MULTILINE | re.IGNORECASE)


def file_kind(name: str) -> str:
    """`cif`, `poscar`, `vasprun`, `chgcar` or an empty string, by the name of the file."""
    leaf = name.rsplit("/", 1)[-1].lower().removesuffix(".gz")
    if re.match(r"chgcar\b", leaf):
        return "chgcar"
    if leaf.endswith((".cif", ".mcif")):
        return "cif"
    if leaf.endswith((".vasp", ".poscar")) or re.match(r"(poscar|contcar)\b", leaf):
        return "poscar"
    return "vasprun" if leaf.startswith("vasprun") and leaf.endswith(".xml") else ""


def gunzip(data: bytes, *, limit: int, name: str) -> bytes:
    """Decompress, never to more than `limit` bytes; what is not gzip comes back as it is.

    Raises:
        FileFormatError: more than `limit` bytes, truncated, or not gzip inside.
    """
    if not data.startswith(b"\x1f\x8b"):
        return data
    engine = zlib.decompressobj(wbits=31)
    try:
        text = engine.decompress(data, limit + 1)
    except zlib.error as error:
        message = f"{name} is not readable gzip: {error}"
        raise FileFormatError(message, reason="unreadable-gzip") from error
    if len(text) > limit:
        message = f"{name} unpacks to more than {limit} bytes, the limit for its kind"
        raise FileFormatError(message, reason="too-large")
    if not engine.eof:
        message = f"{name} ends in the middle of its gzip stream"
        raise FileFormatError(message, reason="truncated")
    return text


def decode(data: bytes, name: str) -> str:
    """The text of a file; old CIFs are Latin-1.

    Raises:
        FileFormatError: empty, or binary.
    """
    if not data.strip():
        message = f"{name} is empty"
        raise FileFormatError(message, reason="empty-file")
    if b"\x00" in data:
        message = f"{name} holds NUL bytes: it is not text"
        raise FileFormatError(message, reason="not-text")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def declared_sites(text: str, kind: str) -> int:
    """At least how many sites a CIF block or a POSCAR has, read off without parsing it.

    Parsers take time and memory that grow with the square of this number, or with whatever number a POSCAR
    claims, so it is looked at first.
    """
    lines = text.splitlines()
    if kind == "poscar":
        counts = next((line.split() for line in lines[5:7] if line.split()[:1] and line.split()[0].isdigit()), [])
        return sum(int(word) for word in counts if word.isdigit() and len(word) < 12)
    header = [number for number, line in enumerate(lines) if line.strip().lower().startswith("_atom_site_")]
    rows = 0
    for first in (number + 1 for number in header if number + 1 not in header):
        for line in lines[first:]:
            word = line.strip().lower()
            if not word or word.startswith(("_", "loop_", "data_", "#")):
                break
            rows += 1
        if rows:
            return rows
    return rows


def crystals_of_text(text: str, kind: str, *, max_sites: int = 1000) -> Iterator[tuple[str, Crystal | CrystalError]]:
    """(suffix of the id, crystal or what is wrong with it) for each structure of a CIF or POSCAR.

    The first structure has no suffix, the next `#2`, `#3`. Blocks of a CIF without atoms are no structures,
    but a CIF in which no block has atoms is an error.
    """
    if kind == "poscar":
        yield "", _attempt(Crystal.from_poscar, text, kind, max_sites)
        return
    starts = [match.start() for match in _BLOCK.finditer(text)]
    blocks = [text[a:b] for a, b in zip(starts, [*starts[1:], len(text)], strict=True)]
    with_atoms = [block for block in blocks if "_atom_site" in block.lower()] or [text]
    for number, block in enumerate(with_atoms, start=1):
        yield f"#{number}" if number > 1 else "", _attempt(Crystal.from_cif, block, kind, max_sites)


def _attempt(parse: Callable[[str], Crystal], text: str, kind: str, max_sites: int) -> Crystal | CrystalError:
    sites = declared_sites(text, kind)
    if sites > max_sites:
        message = f"{sites} sites are listed; the limit is {max_sites}. Use a smaller cell, or raise the limit"
        return CrystalError(message, reason="too-many-sites")
    try:
        return parse(text)
    except CrystalError as error:
        return error


def crystal_of_dict(document: Mapping[str, Any]) -> Crystal:
    """A crystal from pymatgen's `Structure.as_dict()`, read field by field.

    monty's decoder is not used: it imports whatever class a document names.

    Raises:
        CrystalError: a field is missing or malformed.
    """
    try:
        lattice = document["lattice"]["matrix"]
        sites = document["sites"]
        frac_coords = [site["abc"] for site in sites]
        species = [_species(site["species"]) for site in sites]
    except CrystalError:
        raise
    except (KeyError, TypeError, ValueError, IndexError) as error:
        message = f"not a pymatgen Structure: {type(error).__name__}: {error}"
        raise CrystalError(message, reason="unreadable-structure") from error
    mixed = any(len(site) != 1 or abs(site[0][1] - 1.0) > 1e-6 for site in species)
    numbers = [max(site, key=lambda pair: (pair[1], -pair[0]))[0] for site in species]
    try:
        return Crystal(lattice, frac_coords, numbers, tuple(species) if mixed else None)  # type: ignore[arg-type]
    except CrystalError:
        raise
    except (TypeError, ValueError) as error:  # ragged or non-numeric arrays
        message = f"lattice or coordinates are not arrays of numbers: {error}"
        raise CrystalError(message, reason="unreadable-structure") from error


def _species(entries: list[Mapping[str, Any]]) -> Occupancy:
    """(atomic number, fraction) pairs of one site; isotopes and oxidation states of an element are one."""
    from crystalign.crystal import SYMBOLS

    amounts: dict[int, float] = {}
    if not entries or len(entries) > MAX_SPECIES_PER_SITE:
        message = f"{len(entries)} species on one site"
        raise CrystalError(message, reason="bad-sites")
    for entry in entries:
        symbol = {"D": "H", "T": "H"}.get(entry["element"], entry["element"])
        if symbol not in SYMBOLS[1:]:
            message = f"{str(symbol)[:40]!r} is not an element"
            raise CrystalError(message, reason="unknown-element")
        z, fraction = SYMBOLS.index(symbol), float(entry["occu"])
        if not 0.0 < fraction <= 1.0 + 1e-3:
            message = f"{symbol} occupies a fraction {fraction} of a site"
            raise CrystalError(message, reason="bad-sites")
        amounts[z] = amounts.get(z, 0.0) + fraction
    return tuple(sorted(amounts.items()))
