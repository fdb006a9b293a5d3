"""Requests that begin valid and are then damaged: files, JSON bodies, addresses, filters. For `fuzz_service.py`."""

from __future__ import annotations

import bz2
import copy
import functools
import gzip
import json
import lzma
import re
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st

from crystalign.crystal import Crystal

ENERGIES = np.linspace(-12, 12, 300).round(3)
ANGLES = np.linspace(10, 80, 900).round(3)
COUNTS = (100 + 900 * np.sin(ANGLES) ** 40).round(1)
SALT = Crystal(np.eye(3) * 4.1, np.array([[0.0] * 3, [0.5] * 3]), np.array([55, 17]))
FILTERS = (
    'elements HAS ALL "Cl","Na" AND nelements<=3',
    'NOT (elements HAS ANY "O","S") OR chemical_formula_reduced="ClNa"',
    '_crystalign_band_gap>1.5 AND nsites<20 AND id STARTS WITH "salt"',
    "elements LENGTH 2 AND NOT _crystalign_band_gap IS UNKNOWN",
)
NASTY: tuple[Any, ...] = (
    *(None, True, 0, -1, 1e308, -1e308, 1e-308, 2**63, 10**40, float("nan"), float("inf"), [], {}, [[[]]], [1] * 5000),
    *(
        "",
        " ",
        "\x00",
        "\ud800",
        "é" * 50,
        "A" * 30_000,
        "(" * 400,
        "Na0",
        "Na99999999999",
        "../../etc/passwd",
        "'; --",
    ),
    {"a": {"a": 1}},
)
NAMES = (
    *("a.cif", "POSCAR", "x.vasp", "b.json", "scan.xy", "scan.xrdml", "scan.ras", "vasprun.xml", "dos.csv", "a.cif.gz"),
    *("c.bz2", "d.xz", "CHGCAR", "XDATCAR", "e.xyz", "f.brml", "g.raw", "h.fxye", "noname", "", "a" * 3000),
    *("ü\x7f.cif", "../../x.cif", "n.zip", "w.txt"),
)


class Attack(NamedTuple):
    """One request."""

    kind: str
    """What is counted: `file`, `json` or `address`."""
    method: str
    path: str
    options: dict[str, Any]
    """Of `httpx.Client.request`."""


# --- files ------------------------------------------------------------------------------------------------------------


def valid_files(cases: Path | None) -> list[tuple[str, bytes]]:
    """Name and content of files to begin with: some of our own, and those of the reading cases where they are."""
    pattern = "".join(f"{a} {c}\n" for a, c in zip(ANGLES, COUNTS, strict=True)).encode()
    spectrum = "".join(f"{e} {abs(np.sin(e)):.4f}\n" for e in ENERGIES).encode()
    cif, poscar = SALT.to_cif().encode(), SALT.to_poscar().encode()
    own = [("a.cif", cif), ("POSCAR", poscar), ("scan.xy", b"# CuKa\n" + pattern), ("dos.csv", spectrum)]
    own += [("a.cif.gz", gzip.compress(cif)), ("b.cif.bz2", bz2.compress(cif)), ("c.cif.xz", lzma.compress(cif))]
    own.append(("s.json", json.dumps(SALT.to_pymatgen().as_dict()).encode()))
    if cases is None:
        return own
    found = [path for path in sorted(cases.rglob("*")) if path.is_file() and path.stat().st_size < 300_000]
    return own + [(path.name, path.read_bytes()) for path in found if path.name not in {"README.md", "expected.csv"}]


@functools.cache
def bombs() -> list[tuple[str, bytes]]:
    """Small files that claim, or unpack to, very much."""
    deflate = zlib.compressobj(9, wbits=31)
    zeros = b"".join(deflate.compress(bytes(2**20)) for _ in range(256)) + deflate.flush()
    cell = "".join(
        f"_cell_length_{x} 40\n_cell_angle_{y} 90\n" for x, y in zip("abc", ("alpha", "beta", "gamma"), strict=True)
    )
    head = "loop_\n_atom_site_label\n_atom_site_fract_x\n_atom_site_fract_y\n_atom_site_fract_z\n"
    sites = [f"Na{i} {i % 97 / 97:.5f} {i % 89 / 89:.5f} {i % 83 / 83:.5f}" for i in range(20_000)]
    rows = "\n".join(sites[:500])
    poscar = "x\n1.0\n4 0 0\n0 4 0\n0 0 4\nNa\n{}\nDirect\n0 0 0\n"
    xml = b"<?xml version='1.0'?><!DOCTYPE m [<!ENTITY a 'aaaaaaaaaa'>" + b"".join(
        b"<!ENTITY %c '%s'>" % (c, b"&%c;" % (c - 1) * 10) for c in range(ord("b"), ord("i"))
    )
    return [
        ("zeros.cif.gz", zeros),
        ("twice.cif.gz", gzip.compress(zeros)),
        ("line.cif", f"data_x\n{cell}{head}{' '.join(sites)}\n".encode()),
        ("name.cif", f"data_x\n{cell}_space_group_name_H-M_alt 'F m -3 m'\n{head}{rows}".encode()),
        ("POSCAR_many", poscar.format(10_000_000).encode()),
        ("POSCAR_more", poscar.format("9 " * 30_000).encode()),
        ("deep.json", b"[" * 200_000),
        ("wide.json", b'{"a":' * 50_000 + b"1" + b"}" * 50_000),
        ("laughs.xrdml", xml + b"]><xrdMeasurements>&h;</xrdMeasurements>"),
        ("vasprun.xml", xml + b"]><modeling>&h;</modeling>"),
        ("long.xy", b"".join(b"%d.%d 1\n" % (i // 10_000, i % 10_000) for i in range(600_000))),
        ("dense.csv", b"-10 1\n" * 400_000),
        ("nested.xml", b"<?xml version='1.0'?>" + b"<a>" * 300_000),
    ]  # fmt: skip


def damaged(data: bytes, how: str, a: int, b: int) -> bytes:
    """A file with one fault, whose place and size the numbers decide."""
    if not data:
        return b"\x00"
    at, length = a % len(data), 1 + b % max(1, len(data) // 4)
    match how:
        case "truncate":
            changed = data[:at]
        case "flip":
            changed = data[:at] + bytes([data[at] ^ (1 << b % 8)]) + data[at + 1 :]
        case "repeat":  # or deleted
            changed = data[:at] + data[at : at + length] * (b % 40) + data[at + length :]
        case "insert":
            changed = data[:at] + PIECES[b % len(PIECES)] + data[at:]
        case "number":
            found = list(re.finditer(rb"\d+\.?\d*", data[:100_000])) or [re.compile(rb"").match(data)]
            spot = found[a % len(found)]
            changed = data[: spot.start()] + NUMBERS[b % len(NUMBERS)] + data[spot.end() :]  # type: ignore[union-attr]
        case "swap":
            lines = data.split(b"\n")
            i, j = a % len(lines), b % len(lines)
            lines[i], lines[j] = lines[j], lines[i]
            changed = b"\n".join(lines)
        case "utf16":
            changed = data.decode("latin-1").encode("utf-16")
        case "gzip":
            changed = gzip.compress(data)
        case _:
            changed = data.replace(b"\n", {"crlf": b"\r\n", "cr": b"\r"}[how])
    return changed


PIECES = (b"\x00", b"\xff\xfe", b"\n", b"nan", b"-1e999", b"'", b";\n", b"loop_\n", b"data_")
NUMBERS = (b"0", b"-1", b"999999999", b"1e308", b"1e-308", b"nan", b"0.5.5", b"10000000", b"", b"*****")
FAULTS = ("truncate", "flip", "repeat", "repeat", "insert", "number", "number", "swap", "crlf", "utf16", "gzip", "cr")
_INTEGERS = st.integers(0, 2**32 - 1)


@st.composite
def files(draw: st.DrawFn, seeds: list[tuple[str, bytes]]) -> Attack:
    """A search or a prediction by damaged files."""
    sent = []
    for _ in range(draw(st.sampled_from((1, 1, 1, 1, 2, 3)))):
        name, data = draw(st.sampled_from(bombs() if draw(st.integers(0, 14)) == 0 else seeds))
        for _ in range(draw(st.integers(0, 3))):
            data = damaged(data, draw(st.sampled_from(FAULTS)), draw(_INTEGERS), draw(_INTEGERS))
        if draw(st.integers(0, 4)) == 0:
            name = draw(st.sampled_from(NAMES))
        sent.append(("file", (name, data[: 7 * 2**20])))
    if draw(st.integers(0, 3)) == 0:
        return Attack("file", "POST", "/api/predict/file", {"files": sent})
    form: dict[str, Any] = {"k": str(draw(st.sampled_from((1, 3, 10))))}
    if draw(st.booleans()):
        form["wavelength"] = draw(st.sampled_from(("CuKa", "MoKa", "1.54", "-1", "1e308", "nan", "XyKa", "")))
    if draw(st.integers(0, 3)) == 0:
        form["kind"] = draw(st.sampled_from(("auto", "cif", "poscar", "dos", "xrd", "smell")))
    if draw(st.integers(0, 5)) == 0:
        form["query"] = json.dumps(draw(broken_json(VALID[0]["query"])))
    return Attack("file", "POST", "/api/search/file", {"files": sent, "data": form})


# --- JSON and addresses -----------------------------------------------------------------------------------------------

VALID: tuple[dict[str, Any], ...] = (
    {"query": {"text": "a cubic salt"}, "k": 5},
    {"query": {"formula": "NaCl", "text": "a salt"}, "weights": {"text": 0.5}, "filter": FILTERS[0]},
    {"query": {"id": "salt/03"}, "k": 3, "filter": FILTERS[2]},
    {"query": {"cif": SALT.to_cif()}, "k": 3},
    {"query": {"poscar": SALT.to_poscar(), "formula": "CsCl"}, "k": 3},
    {"query": {"dos": {"energies": ENERGIES.tolist(), "densities": np.abs(np.sin(ENERGIES)).tolist(), "n_atoms": 2}}},
    {
        "query": {"xrd": {"two_theta": ANGLES.tolist(), "intensities": COUNTS.tolist(), "wavelength": "CuKa"}},
        "rerank": 10,
    },
)
PREDICTIONS: tuple[dict[str, Any], ...] = (
    {"structures": [{"cif": SALT.to_cif()}, {"id": "salt/03"}, {"poscar": SALT.to_poscar()}], "level": 0.9},
    {"structures": [{"id": "salt/07"}], "models": ["by-formula"]},
)


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths to everything in a JSON value but the numbers of long lists."""
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value[:3]) if isinstance(value, list) else ()
    for key, inner in items:
        found += leaves(inner, (*path, key))
    return found


@st.composite
def broken_json(draw: st.DrawFn, valid: Any) -> Any:
    """A JSON value with up to two parts replaced, removed or added."""
    value = copy.deepcopy(valid)
    for _ in range(draw(st.integers(0, 2))):
        places = leaves(value)
        if not places:
            break
        *above, last = draw(st.sampled_from(places))
        parent = functools.reduce(lambda inner, key: inner[key], above, value)
        how = draw(st.integers(0, 5))
        if how == 0:
            del parent[last]
        elif how == 1 and isinstance(parent, dict):
            parent[draw(st.sampled_from(("cif", "text", "\ud800", "k", "x")))] = copy.deepcopy(
                draw(st.sampled_from(NASTY))
            )
        else:
            parent[last] = copy.deepcopy(draw(st.sampled_from(NASTY)))
    return value


@st.composite
def filters(draw: st.DrawFn) -> str:
    """A filter with up to two tokens removed, doubled or replaced."""
    tokens = re.findall(r'"[^"]*"|[A-Za-z_]+|[\d.]+|\S', draw(st.sampled_from(FILTERS)))
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(tokens) - 1)) if tokens else 0
        new = draw(
            st.sampled_from(
                ("", "NOT", "(", ")", '"', "AND", "99999999999999999999", '"\ud800"', "1e999", "HAS", "colour")
            )
        )
        tokens[at : at + draw(st.integers(0, 1))] = [new]
    return " ".join(tokens)


@st.composite
def bodies(draw: st.DrawFn) -> Attack:
    """A search or a prediction by damaged JSON."""
    predicts = draw(st.integers(0, 4)) == 0
    value = draw(broken_json(draw(st.sampled_from(PREDICTIONS if predicts else VALID))))
    if not predicts and isinstance(value, dict) and draw(st.booleans()):
        value["filter"] = draw(filters())
    body = json.dumps(value).encode()
    if draw(st.integers(0, 9)) == 0:
        body = damaged(body, draw(st.sampled_from(FAULTS[:9])), draw(_INTEGERS), draw(_INTEGERS))
    headers = {"content-type": draw(st.sampled_from(("application/json",) * 9 + ("text/plain",)))}
    path = "/api/predict" if predicts else "/api/search"
    return Attack("json", "POST", path, {"content": body, "headers": headers})


@st.composite
def addresses(draw: st.DrawFn) -> Attack:
    """What is known of a material, by a damaged address."""
    material = draw(
        st.sampled_from(("salt/03", "salt/39", "nowhere", "a" * 5000, "%00", "..", "%ed%a0%80", "salt%2F03", "é"))
    )
    tail = draw(
        st.sampled_from(("", "/cif", "/curve/dos", "/curve/xrd", "/curve/smell", "/similar", "/predictions", "//"))
    )
    names = {
        "k": ("3", "0", "1e3", "999999"),
        "wavelength": ("CuKa", "-1", "1e308", "nan", ""),
        "level": ("0.9", "nan", "-1"),
    }
    params = {name: draw(st.sampled_from(values)) for name, values in names.items() if draw(st.integers(0, 2)) == 0}
    if tail == "/similar" and draw(st.booleans()):
        params["filter"] = draw(filters()).encode("utf-8", "surrogatepass").decode("latin-1")
    whole = draw(
        st.sampled_from((f"/api/materials/{material}{tail}",) * 8 + ("/api/info", "/api/health", "/openapi.json"))
    )
    return Attack("address", draw(st.sampled_from(("GET",) * 9 + ("PUT",))), whole, {"params": params})
