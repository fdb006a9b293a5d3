from __future__ import annotations

import gzip
import json
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from crystalign_serve.errors import MAX_BODY_BYTES

E = np.linspace(-10, 10, 401).tolist()
D = np.ones(401).tolist()
T = np.linspace(10, 80, 701).tolist()
I = (np.sin(T) ** 8).tolist()
CIF_HEAD = """data_big
_cell_length_a 90
_cell_length_b 90
_cell_length_c 90
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
"""


def many_atoms(n):
    return CIF_HEAD + "".join(f"C{i} C {i % 97 / 97:.4f} {i % 89 / 89:.4f} {i % 83 / 83:.4f}\n" for i in range(n))


def poscar_of(count):
    return f"x\n1.0\n4 0 0\n0 4 0\n0 0 4\nNa\n{count}\nDirect\n0 0 0\n".encode()


BOMB = gzip.compress(bytes(80 * 2**20), 1)
LAUGHS = (
    b"<?xml version='1.0'?><!DOCTYPE m [<!ENTITY a 'haha'>"
    + b"".join(b"<!ENTITY %c '%s'>" % (n, b"&%c;" % (n - 1) * 10) for n in range(ord("b"), ord("i")))
    + b"]><modeling>&h;</modeling>"
)
SLOW_PATTERN = b"".join(b"%d.%d 1\n" % (n // 10_000, n % 10_000) for n in range(150_000))


def assert_refused(http, response, *words, status=422):
    """The one shape of every error, with these words in it; and the next request is served."""
    assert response.status_code == status, response.text
    (error,) = response.json()["errors"]
    assert error["status"] == str(status)
    assert error["title"]
    for word in words:
        assert word in error["detail"]
    assert http.post("/api/search", json={"query": {"formula": "NaCl"}}).status_code == 200


BAD_QUERIES = {
    "not a crystal": ({"cif": "once upon a time"}, "CIF"),
    "truncated": ({"cif": CIF_HEAD}, "coordinates"),
    "a hundred thousand atoms": ({"cif": many_atoms(100_000)}, "100000"),
    "more atoms than a query may have": ({"cif": many_atoms(900)}, "900"),
    "not a POSCAR": ({"poscar": "x\n" * 10}, "POSCAR"),
    "not a formula": ({"formula": "Hello!"}, "Hello!"),
    "unknown element": ({"formula": "Xq2O3"}, "Xq"),
    "no words": ({"text": "   "}, "empty"),
    "descending energies": ({"dos": {"energies": E[::-1], "densities": D}}, "ascend"),
    "lengths differ": ({"dos": {"energies": E, "densities": D[:-1]}}, "401"),
    "negative density": ({"dos": {"energies": E, "densities": [-d for d in D]}}, "negative"),
    "wrong window": ({"dos": {"energies": [e + 50 for e in E], "densities": D}}, "eV"),
    "empty density": ({"dos": {"energies": [], "densities": []}}, "expected"),
    "no wavelength": ({"xrd": {"two_theta": T, "intensities": I}}, "wavelength"),
    "unknown tube": ({"xrd": {"two_theta": T, "intensities": I, "wavelength": "XyKa"}}, "XyKa"),
    "outside the trained range": (
        {"xrd": {"two_theta": [t / 20 for t in T], "intensities": I, "wavelength": 1.54}},
        "covers",
    ),
    "descending angles": ({"xrd": {"two_theta": T[::-1], "intensities": I, "wavelength": "CuKa"}}, "ascend"),
    "nothing asked": ({}, "empty"),
    "a part that does not exist": ({"smell": "roses"}, "smell"),
    "a type that does not fit": ({"text": 3}, "text"),
}


@pytest.mark.parametrize("name", BAD_QUERIES)
def test_a_query_that_cannot_be_used_says_why(http, name):
    query, word = BAD_QUERIES[name]
    assert_refused(http, http.post("/api/search", json={"query": query}), word)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999"])
@pytest.mark.parametrize("part", ["dos", "xrd"])
def test_numbers_that_are_none_are_refused(http, part, value):
    query = {
        "dos": {"energies": E, "densities": ["?", *D[1:]]},
        "xrd": {"two_theta": T, "intensities": ["?", *I[1:]], "wavelength": "CuKa"},
    }[part]
    body = json.dumps({"query": {part: query}}).replace('"?"', value)
    assert_refused(http, http.post("/api/search", content=body, headers={"content-type": "application/json"}), "finite")


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"k": 0}, "k"),
        ({"k": 10**9}, "k"),
        ({"k": "many"}, "k"),
        ({"filter": "colour>3"}, "nelements"),
        ({"filter": "nelements<"}, "OPTIMADE"),
        ({"filter": 'elements HAS "Zz"'}, "Zz"),
        ({"weights": {"text": -1}}, "weights"),
        ({"weights": {"text": 0}}, "weights"),
        ({"weights": {"dos": 1}}, "dos"),
        ({"page": 3}, "page"),
    ],
)
def test_options_that_cannot_be_used_say_why(http, options, word):
    assert_refused(http, http.post("/api/search", json={"query": {"text": "salt"}, **options}), word)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000])
def test_a_body_that_is_not_json_is_refused(http, body):
    response = http.post("/api/search", content=body, headers={"content-type": "application/json"})
    assert_refused(http, response, status=response.status_code)
    assert response.status_code in {400, 422}


def test_a_body_beyond_the_limit_is_refused_by_its_declared_length(http):
    body = b'{"query": {"text": "' + b"x" * MAX_BODY_BYTES + b'"}}'
    assert_refused(http, http.post("/api/search", content=body), str(MAX_BODY_BYTES), status=413)


def test_a_body_that_does_not_say_how_long_it_is_is_counted(http):
    sent = []

    def chunks():
        for _ in range(100):
            sent.append(1)
            yield b"x" * 2**20

    assert_refused(http, http.post("/api/search", content=chunks()), str(MAX_BODY_BYTES), status=413)


def test_a_modality_that_the_model_lacks_is_named(http, monkeypatch, places):
    from crystalign_serve import queries

    fields = queries.request_fields()
    fields["text"] = fields["text"]._replace(modality="charge_density")
    monkeypatch.setattr(queries, "request_fields", lambda: fields)
    refused_by = http.post("/api/search", json={"query": {"text": "salt"}})
    monkeypatch.undo()
    assert_refused(http, refused_by, "charge_density", "crystal")


@pytest.mark.parametrize("path", ["", "/cif", "/curve/dos", "/curve/xrd", "/similar"])
def test_a_material_that_does_not_exist_is_not_found(http, path):
    assert_refused(http, http.get(f"/api/materials/nowhere{path}"), "nowhere", status=404)


def test_an_id_that_does_not_exist_cannot_be_asked(http):
    assert_refused(http, http.post("/api/search", json={"query": {"id": "nowhere"}}), "nowhere", status=404)


@pytest.mark.parametrize(("kind", "status"), [("charge_density", 404), ("colour", 404)])
def test_a_curve_that_does_not_exist_is_not_found(http, kind, status):
    assert_refused(http, http.get(f"/api/materials/salt/00/curve/{kind}"), status=status)


def test_a_wavelength_that_does_not_exist_is_refused(http):
    assert_refused(http, http.get("/api/materials/salt/00/curve/xrd", params={"wavelength": "QqKa"}), "QqKa")


@pytest.mark.parametrize(
    ("name", "data", "form", "word"),
    [
        ("a.cif", b"", {}, "empty"),
        ("a.cif", b"\x00\x01", {}, "NUL"),
        ("a.bin", b"\x00\x01", {}, "kind"),
        ("a.txt", b"hello", {}, "kind"),
        ("a.cif", b"x", {"kind": "smell"}, "smell"),
        ("a.xy", b"10 1\n11 2\n12 1\n", {}, ""),
        ("a.csv", b"energy,dos\n0,nan\n1,2\n", {"kind": "dos"}, ""),
        ("a.cif", b"x", {"k": "0"}, "k"),
        ("a.cif", b"x", {"weights": "[1]"}, "weights"),
        ("a.cif", b"x", {"query": "{"}, "query"),
        ("a.cif", b"x", {"query": '{"smell": "roses"}'}, "smell"),
        ("a.cif.gz", BOMB, {}, "unpacks"),
        ("a.cif.gz", BOMB[:-20_000], {}, "a.cif.gz"),
        ("POSCAR_many", poscar_of("10000000"), {}, "10000000"),
        ("POSCAR_many", poscar_of("9" * 400), {}, "POSCAR_many"),
        ("deep.json", b"[" * 300_000, {}, "JSON"),
        ("laughs.xrdml", LAUGHS, {}, "entit"),
        ("vasprun.xml", LAUGHS, {}, "vasprun"),
        ("one\nline.cif", many_atoms(20_000).replace("\n", " ").encode(), {}, ""),
        ("../../etc/passwd", b"root:x:0:0", {}, "kind"),
        ("a.brml", b"PK\x03\x04" + bytes(60), {"wavelength": "CuKa"}, ""),
        ("a.xy", b"10 1\n" * 3, {"wavelength": "-1.54"}, ""),
    ],
)
def test_a_file_that_cannot_be_used_says_why(http, name, data, form, word):
    assert_refused(http, http.post("/api/search/file", files={"file": (name, data)}, data=form), word)


def test_texts_are_answered_while_files_are_read(http):
    """Every process of the sandbox is at work on a file that takes long, and more wait."""
    files = {"file": ("long.xy", SLOW_PATTERN)}
    with ThreadPoolExecutor(6) as pool:
        reading = [pool.submit(http.post, "/api/search/file", files=files, data={"kind": "xrd"}) for _ in range(6)]
        time.sleep(0.3)
        answers = [http.post("/api/search", json={"query": query}) for query in ({"text": "salt"}, {"id": "salt/03"})]
        answers.append(http.get("/api/materials/salt/03"))
        assert not all(one.done() for one in reading), "the files are still being read"
        assert [answer.status_code for answer in answers] == [200, 200, 200]
        assert {one.result().status_code for one in reading} <= {422, 503}


def test_half_a_character_is_no_structure(http):
    for name in ("cif", "poscar"):
        body = json.dumps({"query": {name: "data_x \ud800"}})
        response = http.post("/api/search", content=body, headers={"content-type": "application/json"})
        assert_refused(http, response, "lone surrogate")


def test_one_bad_file_of_several_is_named(http, materials):
    good = ("file", ("good.cif", materials[3].crystal.to_cif().encode()))
    bad = ("file", ("bad.cif", b"data_x\n"))
    assert_refused(http, http.post("/api/search/file", files=[good, bad]), "bad.cif")
    assert http.post("/api/search/file", files=[good, good]).json()["query"]["modalities"] == ["crystal", "crystal"]


def test_an_id_of_any_length_is_not_found(http):
    for path in ("", "/similar", "/cif"):
        assert_refused(http, http.get(f"/api/materials/{'a' * 5000}{path}"), status=404)


def test_no_file_is_no_query(http):
    assert_refused(http, http.post("/api/search/file", data={"kind": "cif"}), "file")


def test_a_path_that_does_not_exist_is_not_found(http):
    assert_refused(http, http.get("/api/nothing"), status=404)
    assert_refused(http, http.get("/assets/../../errors.py"), status=404)
    assert_refused(http, http.get("/assets/%2e%2e/%2e%2e/errors.py"), status=404)
