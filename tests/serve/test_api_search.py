from __future__ import annotations

import json

import numpy as np
import pytest

from crystalign.crystal import pretty_formula
from crystalign.index.fusion import reciprocal_rank_fusion
from crystalign.physics.diffraction import WAVELENGTHS
from crystalign_serve.curves import curve_of


def search(http, query, **options):
    response = http.post("/api/search", json={"query": query, **options})
    assert response.status_code == 200, response.text
    return response.json()


def scores(answer):
    return {result["id"]: result["score"] for result in answer["results"]}


def dos_json(material):
    value = material.value("dos")
    return {"energies": value.energies.tolist(), "densities": value.densities.tolist(), "zero": value.zero}


def xrd_json(material):
    curve = curve_of("xrd", material.value("xrd"), "CuKa")
    return {"two_theta": curve.x, "intensities": curve.y, "wavelength": "CuKa"}


def test_a_crystal_of_the_index_is_its_own_nearest(http, materials):
    answer = search(http, {"cif": materials[3].crystal.to_cif()}, k=5)
    assert [result["rank"] for result in answer["results"]] == [1, 2, 3, 4, 5]
    assert answer["results"][0]["id"] == materials[3].id
    assert answer["results"][0]["score"] == pytest.approx(1.0, abs=2e-3)
    assert (answer["shards_ok"], answer["shards_total"], answer["allowed"]) == (4, 4, 40)
    assert answer["exhausted"] is False
    poscar = search(http, {"poscar": materials[3].crystal.to_poscar()}, k=5)
    assert [r["id"] for r in poscar["results"]] == [r["id"] for r in answer["results"]]


@pytest.mark.parametrize("kind", ["text", "formula", "composition", "id", "dos", "xrd"])
def test_every_modality_of_the_model_can_be_asked(http, materials, kind):
    material = materials[7]
    query = {
        "text": "a cubic salt",
        "formula": "NaCl",
        "composition": "NaCl",
        "id": material.id,
        "dos": dos_json(material),
        "xrd": xrd_json(material),
    }[kind]
    answer = search(http, {kind: query}, k=3, rerank=0)
    ranked = [(result.get("tier", 0), -result["score"]) for result in answer["results"]]
    assert len(ranked) == 3
    assert ranked == sorted(ranked)
    assert (answer["query"]["curve"] is not None) == (kind in {"dos", "xrd"})


def test_a_powder_pattern_is_looked_at_again_at_every_strain(http, materials):
    """The model is untrained: only the second look can know; the order is that of both."""
    for number, strain in ((3, 0.0), (11, 0.015), (30, -0.02)):
        peaks = materials[number].value("xrd")
        stretched = type(peaks)(peaks.d_spacings * (1.0 + strain), peaks.intensities)
        curve = curve_of("xrd", stretched, "CuKa")
        asked = {"xrd": {"two_theta": curve.x, "intensities": curve.y, "wavelength": "CuKa"}}
        ranked = search(http, asked, k=40)["results"]
        fused = reciprocal_rank_fusion([r["match"]["embedding_score"] for r in ranked], [r["score"] for r in ranked])
        assert fused.tolist() == sorted(fused, reverse=True)
        found = {result["id"]: result for result in ranked}[materials[number].id]
        assert found["match"]["strain"] == pytest.approx(strain, abs=0.003)
        assert found["score"] > 0.9
        better = sum(result["score"] > found["score"] for result in ranked)
        assert better < (1 if strain == 0 else 5)  # salts of one structure differ by little but their size
        plain = search(http, asked, k=40, rerank=0)["results"]
        assert all(result["match"] is None for result in plain)
        cosines = {result["id"]: result["score"] for result in plain}
        assert found["match"]["embedding_score"] == pytest.approx(cosines[found["id"]], abs=1e-5)
        assert [r["id"] for r in search(http, asked, k=40, rerank=2)["results"]] == [r["id"] for r in ranked]


def test_an_id_is_no_measurement(http, materials, monkeypatch):
    """In an index of patterns, an id stands for a stored pattern's vector; there is nothing to look at again."""
    from crystalign_serve import queries

    monkeypatch.setattr(queries, "parts_of", lambda query, *_: [queries.QueryPart("id", "xrd", None, None)])
    answer = search(http, {"id": materials[2].id}, k=3)
    assert answer["results"][0]["id"] == materials[2].id
    assert answer["query"]["ordered_by"] == "embeddings"


def test_the_embedding_stands_where_the_second_look_fails(http, materials, monkeypatch):
    from crystalign.errors import DatasetError
    from crystalign_serve import searching

    def broken(*_):
        raise DatasetError("gone")

    plain = search(http, {"xrd": xrd_json(materials[1])}, k=4, rerank=0)
    monkeypatch.setattr(searching, "rerank_by_match", broken)
    answer = search(http, {"xrd": xrd_json(materials[1])}, k=4)
    assert answer["results"] == plain["results"]
    assert answer["query"]["ordered_by"] == "embeddings"


def test_a_mixed_query_keeps_the_order_of_the_embedding(http, materials):
    answer = search(http, {"xrd": xrd_json(materials[0]), "text": "salt"}, k=5)
    assert all(result["match"] is None for result in answer["results"])


def test_the_fused_score_is_the_weighted_sum_of_the_single_ones(http, materials):
    dos, text = dos_json(materials[1]), "a cubic salt of lithium"
    single = [scores(search(http, query, k=40)) for query in ({"dos": dos}, {"text": text})]
    fused = scores(search(http, {"dos": dos, "text": text}, k=40, weights={"dos": 2.0, "text": 0.5}))
    expected = np.array([2.0 * single[0][name] + 0.5 * single[1][name] for name in fused])
    found = np.array(list(fused.values()))
    length = found @ expected / (found @ found)  # of the fused query before it is normalised
    assert 1.5 <= length <= 2.5
    assert length * found == pytest.approx(expected, abs=1e-5)


def test_a_filter_returns_all_it_allows_and_says_so(http, materials):
    allowed = {m.id for m in materials if {3, 8} & set(m.crystal.composition)}
    answer = search(http, {"text": "salt"}, k=100, filter='elements HAS ANY "Li","O"')
    assert {result["id"] for result in answer["results"]} == allowed
    assert answer["allowed"] == len(allowed)
    assert answer["exhausted"] is True
    some = search(http, {"text": "salt"}, k=len(allowed), filter='elements HAS ANY "Li","O"')
    assert some["exhausted"] is False


def test_unknown_properties_are_left_out_of_comparisons_and_results(http, materials):
    answer = search(http, {"text": "salt"}, k=100, filter="_crystalign_band_gap>=0")
    assert answer["allowed"] == 32
    assert all(result["properties"][0]["unit"] == "eV" for result in answer["results"])
    rest = search(http, {"text": "salt"}, k=100, filter="_crystalign_band_gap IS UNKNOWN")
    assert [result["properties"] for result in rest["results"]] == [[]] * 8


def test_a_file_is_asked_like_its_content(http, materials):
    cif = materials[3].crystal.to_cif()
    upload = http.post("/api/search/file", files={"file": ("mine.cif", cif)}, data={"k": "5"})
    assert upload.json()["results"] == search(http, {"cif": cif}, k=5)["results"]
    curve = xrd_json(materials[3])
    table = "\n".join(f"{x:.4f} {y:.6f}" for x, y in zip(curve["two_theta"], curve["intensities"], strict=True))
    form = {"kind": "xrd", "wavelength": "CuKa", "k": "5"}
    measured = http.post("/api/search/file", files={"file": ("mine.xy", table)}, data=form).json()
    assert measured["results"][0]["score"] == pytest.approx(
        search(http, {"xrd": curve}, k=1)["results"][0]["score"], abs=1e-3
    )
    assert measured["query"]["curve"]["kind"] == "xrd"


def test_a_file_and_words_make_one_query(http, materials):
    cif = materials[3].crystal.to_cif()
    form = {"query": json.dumps({"text": "cubic salt"}), "weights": json.dumps({"text": 0.1}), "k": "40"}
    both = http.post("/api/search/file", files={"file": ("mine.cif", cif)}, data=form).json()
    plain = search(http, {"cif": cif, "text": "cubic salt"}, k=40, weights={"text": 0.1})
    assert both["results"] == plain["results"]


def test_similar_leaves_the_material_itself_out(http, materials):
    answer = http.get(f"/api/materials/{materials[5].id}/similar", params={"k": 39}).json()
    assert materials[5].id not in {result["id"] for result in answer["results"]}
    assert answer["allowed"] == len(answer["results"]) == 39
    some = http.get(f"/api/materials/{materials[5].id}/similar", params={"filter": 'elements HAS "O"'}).json()
    assert some["allowed"] == sum(8 in m.crystal.composition for m in materials) - (
        8 in materials[5].crystal.composition
    )


def test_a_material_is_described_from_the_dataset(http, materials):
    material = materials[26]
    found = http.get(f"/api/materials/{material.id}").json()
    assert found["formula"] == pretty_formula(material.crystal.formula)
    assert found["lattice"]["a"] == pytest.approx(material.crystal.lattice[0, 0], abs=1e-4)
    assert found["lattice"]["gamma"] == pytest.approx(90.0)
    assert found["text"] == material.value("text").description
    assert found["properties"][0]["value"] == pytest.approx(2.6)
    assert found["provenance"]["licence"] == "CC-BY-4.0"
    assert {"crystal", "dos", "xrd", "text", "composition"} <= set(found["modalities"])
    cif = http.get(f"/api/materials/{material.id}/cif")
    assert search(http, {"cif": cif.text}, k=1)["results"][0]["id"] == material.id


@pytest.mark.parametrize("wavelength", ["CuKa", "MoKa", "1.5"])
def test_a_pattern_has_its_peaks_where_bragg_puts_them(http, materials, wavelength):
    number = WAVELENGTHS.get(wavelength) or float(wavelength)
    curve = http.get(f"/api/materials/{materials[0].id}/curve/xrd", params={"wavelength": wavelength}).json()
    spacing = materials[0].crystal.lattice[0, 0] / np.sqrt(2)  # (110), the strongest of CsCl-type crystals
    expected = 2 * np.degrees(np.arcsin(number / 2 / spacing))
    assert curve["x"][int(np.argmax(curve["y"]))] == pytest.approx(expected, abs=0.1)
    assert max(curve["y"]) == pytest.approx(1.0)


def test_query_and_material_curves_share_their_units(http, materials):
    own = http.get(f"/api/materials/{materials[0].id}/curve/dos").json()
    asked = search(http, {"dos": dos_json(materials[0])}, k=1)["query"]["curve"]
    assert (own["x"], own["x_label"], own["y_label"]) == (asked["x"], asked["x_label"], asked["y_label"])
    assert own["y"] == pytest.approx(asked["y"], abs=1e-3)  # the query is put on the grid once more


def test_the_service_says_what_it_is(http, materials):
    info = http.get("/api/info").json()
    assert info["index"]["rows"] == len(materials)
    assert info["model"]["trained_steps"] == 7
    queryable = {modality["name"] for modality in info["modalities"] if modality["queryable"]}
    assert queryable == {"crystal", "dos", "xrd", "text", "composition"}
    assert any(field["name"] == "_crystalign_band_gap" and field["unit"] == "eV" for field in info["fields"])
    assert info["licences"] == ["CC-BY-4.0"]
    assert info["notice"] is None
    for example in info["example_queries"]:
        assert http.post("/api/search", json=example["request"]).status_code == 200
    assert http.get("/api/health").json() == {"status": "ok", "shards_ok": 4, "shards_total": 4, "rows": 40}


def test_the_page_its_assets_and_the_documentation_are_served(http):
    assert "<html" in http.get("/").text
    assert http.get("/assets/app.js").status_code == 200
    assert http.get("/docs").status_code == 200
    assert "/api/search" in http.get("/openapi.json").json()["paths"]


def test_words_are_conditions_unless_the_search_is_literal(http):
    read = search(http, {"text": "cubic sodium chloride salt"}, k=5)
    assert [chip["words"] for chip in read["query"]["understood"]["chips"]] == ["cubic", "sodium chloride"]
    assert read["query"]["understood"]["rest"] == "salt"
    assert (read["results"][0]["formula"], read["results"][0]["tier"]) == ("NaCl", 0)
    literal = search(http, {"text": "cubic sodium chloride salt"}, k=5, literal=True)
    assert literal["query"]["understood"] is None
    assert literal["query"]["ordered_by"] == "embeddings and words"
    assert not any("tier" in result for result in literal["results"])


def test_a_removed_condition_is_compared_as_text(http):
    request = {"text": "sodium chloride, tetragonal"}
    nothing = search(http, request, k=5)
    assert nothing["results"] == []
    assert any("no row satisfies all of" in notice for notice in nothing["query"]["notices"])
    without = search(http, request, k=5, ignore=["tetragonal"])
    assert without["results"][0]["formula"] == "NaCl"
    assert "tetragonal" in without["query"]["understood"]["rest"]


def test_a_formula_lists_its_rows_first_and_then_neighbours(http):
    answer = search(http, {"formula": "ClNa"}, k=5)
    assert [result["formula"] for result in answer["results"]].index("NaCl") == 0
    assert [result["tier"] for result in answer["results"]] == [0, 1, 1, 1, 1]
