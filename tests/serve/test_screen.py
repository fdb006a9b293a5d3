"""`crystalign screen` gives the answers of the service, whatever was interrupted in between; `replay` repeats them."""

from __future__ import annotations

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from crystalign.errors import ConfigError, DatasetError
from crystalign_serve.curves import curve_of
from crystalign_serve.replay import Replay
from crystalign_serve.replay import main as replay
from crystalign_serve.screen import Screen
from crystalign_serve.screen import main as screen

pytestmark = pytest.mark.ray
FILTER = "_crystalign_band_gap>1"
CU = {"wavelength": "CuKa"}


@pytest.fixture(scope="module", autouse=True)
def ray_session():
    from crystalign_ray.session import session

    with session("local"):
        yield


@pytest.fixture(scope="module")
def files(materials, tmp_path_factory):
    """Patterns, a spectrum, structures, and three files that cannot be used."""
    folder = tmp_path_factory.mktemp("queries")
    (folder / "more").mkdir()
    for number in (0, 7, 21):
        curve = curve_of("xrd", materials[number].value("xrd"), "CuKa")
        rows = "".join(f"{x} {y}\n" for x, y in zip(curve.x, curve.y, strict=True))
        (folder / f"pattern-{number}.xy").write_text(rows)
        (folder / "more" / f"{number}.cif").write_text(materials[number].crystal.to_cif())
    dos = materials[5].value("dos")
    rows = "".join(f"{x},{y}\n" for x, y in zip(dos.energies, dos.densities.reshape(-1), strict=True))
    (folder / "spectrum.csv").write_text(f"energy (eV),dos\n{rows}")
    (folder / "broken.cif").write_text("data_x\n_cell_length_a 4\n")
    (folder / "empty.xy").write_text("")
    (folder / "large.xy").write_bytes(b"1 1\n" * (3 * 2**20))
    return folder


@pytest.fixture(scope="module")
def table(materials, tmp_path_factory):
    """Texts, a formula, ids, and combinations; the ids and two other rows cannot all be used."""
    rows = [
        {"text": "a cubic salt of potassium"},
        {"text": "oxide, cell 3"},
        {"formula": "NaCl"},
        {"text": "layered nitride"},
        {"id": materials[9].id},
        {"id": "nowhere"},
        {"text": "salt", "id": materials[12].id},
        {"cif": materials[30].crystal.to_cif(), "text": "cubic"},
        {"text": None},
        {"composition": "Xx9"},
    ]
    path = tmp_path_factory.mktemp("table") / "queries.parquet"
    names = ("text", "formula", "id", "cif", "composition")
    pq.write_table(pa.table({n: pa.array([row.get(n) for row in rows], pa.string()) for n in names}), path)
    return path


def run(queries, places, folder, **options):
    config = Screen(queries=str(queries), index=places.index, out=str(folder / "hits.parquet"), **options)
    return screen(config), pq.read_table(config.out).to_pylist(), outcomes(folder)


def outcomes(folder):
    return pq.read_table(folder / "hits.queries.parquet").to_pylist()


def of_service(http, name, folder, **options):
    """The answer of the service to a file."""
    form = {key: value for key, value in options.items() if value is not None}
    return http.post("/api/search/file", files={"file": (name, (folder / name).read_bytes())}, data=form)


def assert_same(answer, hits, outcome):
    """A response of the service and the rows of a screening say the same."""
    if answer.status_code != 200:
        assert outcome["refused"] is not None
        assert outcome["problem"] == answer.json()["errors"][0]["detail"]
        return
    response = answer.json()
    assert outcome["refused"] is None
    assert (outcome["hits"], outcome["allowed"]) == (len(response["results"]), response["allowed"])
    assert (outcome["exhausted"], outcome["ordered_by"]) == (response["exhausted"], response["query"]["ordered_by"])
    assert len(hits) == len(response["results"])
    for hit, result in zip(hits, response["results"], strict=True):
        for key in (
            "rank",
            "id",
            "score",
            "formula",
            "spacegroup_number",
            "n_sites",
            "source",
            "licence",
            "remarks",
            "hypothetical",
        ):
            assert hit[key] == result[key], key
        assert hit["tier"] == result.get("tier")
        match = result["match"] or {}
        assert (hit["strain"], hit["embedding_score"]) == (match.get("strain"), match.get("embedding_score"))
        for entry in result["properties"]:
            assert hit[entry["key"]] == entry["value"]


@pytest.mark.parametrize(
    "options", [{"k": 3}, {"k": 30, "filter": FILTER, "rerank": 5}, {"k": 40, "rerank": 0, "rows_per_task": 11}]
)
def test_files_get_the_answers_of_the_service(http, places, files, tmp_path, options):
    receipt, hits, found = run(files, places, tmp_path, **options, **CU)
    assert [one["query"] for one in found] == sorted(
        str(path.relative_to(files)) for path in files.rglob("*") if path.is_file()
    )
    asked = {key: value for key, value in options.items() if key != "rows_per_task"}
    for number, outcome in enumerate(found):
        own = [hit for hit in hits if hit["query_number"] == number]
        if outcome["query"] == "large.xy":
            assert (outcome["refused"], own) == ("too-large", [])
        else:
            assert_same(of_service(http, outcome["query"], files, **asked, **CU), own, outcome)
    assert {one["query"] for one in found if one["refused"]} == {"broken.cif", "empty.xy", "large.xy"}
    assert (receipt.rows, receipt.refused) == (len(hits), 3)


@pytest.mark.parametrize("options", [{"k": 2}, {"k": 25, "filter": FILTER, "rows_per_task": 20}, {"literal": True}])
def test_texts_and_ids_get_the_answers_of_the_service(http, places, table, tmp_path, options):
    _, hits, found = run(table, places, tmp_path, **options)
    asked = {key: value for key, value in options.items() if key != "rows_per_task"}
    for number, row in enumerate(pq.read_table(table).to_pylist()):
        query = {key: value for key, value in row.items() if value is not None}
        own = [hit for hit in hits if hit["query_number"] == number]
        if query:
            assert_same(http.post("/api/search", json={"query": query, **asked}), own, found[number])
        else:
            assert found[number]["refused"] == "empty-query"
    assert [one["refused"] for one in found if one["refused"]][:2] == ["unknown-id", "empty-query"]


def test_the_ids_of_a_dataset_get_the_answers_of_the_service(http, places, materials, tmp_path):
    _, hits, found = run(places.dataset, places, tmp_path, k=2)
    assert [one["query"] for one in found] == [material.id for material in materials]
    for number in (0, 17, 39):
        answer = http.post("/api/search", json={"query": {"id": materials[number].id}, "k": 2})
        assert_same(answer, hits[2 * number : 2 * number + 2], found[number])


def test_an_interrupted_screening_continues_and_ends_the_same(places, files, tmp_path, monkeypatch):
    from crystalign_serve.screening import run as module

    whole = run(files, places, tmp_path / "whole", k=5, rows_per_task=11, **CU)
    folder = tmp_path / "stopped"
    assembled = module._assembled

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_assembled", stop)
    with pytest.raises(KeyboardInterrupt):
        run(files, places, folder, k=5, rows_per_task=11, **CU)
    monkeypatch.setattr(module, "_assembled", assembled)
    parts = {path.name: path for path in folder.rglob("*.parquet")}
    kept, cut, gone = parts["answers-00000-00001.parquet"], parts["answers-00000-00000.parquet"], "hits-00000.parquet"
    cut.write_bytes(cut.read_bytes()[:100])
    parts[gone].unlink()
    before = kept.stat().st_mtime_ns
    made = []
    monkeypatch.setattr(module, "_assembled", lambda *args: made.append(kept.stat().st_mtime_ns) or assembled(*args))
    again = run(files, places, folder, k=5, rows_per_task=11, **CU)
    assert made == [before]
    assert again[1:] == whole[1:]
    assert again[0].hits == whole[0].hits
    assert not list(folder.rglob("encoded-*"))


def test_other_settings_do_not_replace_hits(places, files, tmp_path):
    first = run(files, places, tmp_path, k=2, **CU)
    assert run(files, places, tmp_path, k=2, **CU)[0] == first[0]
    with pytest.raises(ConfigError, match="another index, model, queries or settings"):
        run(files, places, tmp_path, k=3, **CU)


def test_a_replay_gives_the_same_rows_and_names_what_has_changed(places, files, tmp_path, capsys):
    copied, queries = tmp_path / "index", tmp_path / "queries"
    shutil.copytree(places.index, copied)
    shutil.copytree(files, queries)
    receipt, _, _ = run(queries, places._replace(index=str(copied)), tmp_path, k=4, **CU)
    uri = str(tmp_path / "hits.receipt.json")
    assert replay(Replay(receipt=uri, rows_per_task=11)) == []
    assert f"all {receipt.rows} hits and 10 outcomes are the same" in capsys.readouterr().out

    shutil.copy(queries / "pattern-0.xy", queries / "pattern-1.xy")
    manifest = json.loads((copied / "manifest.json").read_text())
    manifest["dataset_sha256"] = "f" * 64
    (copied / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ConfigError) as refused:
        replay(Replay(receipt=uri))
    said = str(refused.value)
    assert all(word in said for word in (f"the index {copied}", "the dataset of", f"the queries {queries}"))
    assert "the model of" not in said
    with pytest.raises(DatasetError, match="no receipt"):
        replay(Replay(receipt=str(tmp_path / "nothing.receipt.json")))


def test_a_replay_finds_a_row_that_differs(places, table, tmp_path, capsys):
    from crystalign import storage

    run(table, places, tmp_path, k=2)
    uri, hits = tmp_path / "hits.receipt.json", tmp_path / "hits.parquet"
    rows = pq.read_table(hits)
    scores = rows.column("score").to_pylist()
    scores[3] += 1e-12
    place = rows.column_names.index("score")
    pq.write_table(rows.set_column(place, "score", pa.array(scores)), hits)
    values = json.loads(uri.read_text())
    values["hits"] = storage.entry_of("hits.parquet", hits.read_bytes()).model_dump()
    uri.write_text(json.dumps(values))
    with pytest.raises(SystemExit) as ended:
        replay(Replay(receipt=str(uri)))
    assert ended.value.code == 1
    printed = capsys.readouterr().out
    assert "hits.parquet, row 3" in printed
    assert "1 rows differ" in printed


def test_what_is_no_query_is_refused_before_anything_is_written(places, tmp_path):
    (tmp_path / "none").mkdir()
    pq.write_table(pa.table({"colour": ["red"]}), tmp_path / "colours.parquet")
    (tmp_path / "text.parquet").write_text("text")
    for queries, message in (("none", "no queries"), ("colours.parquet", "colour"), ("text.parquet", "no Parquet")):
        with pytest.raises(ConfigError, match=message):
            run(tmp_path / queries, places, tmp_path)
    with pytest.raises(ConfigError, match="--kind and --wavelength"):
        run(places.dataset, places, tmp_path, kind="xrd")
    with pytest.raises(ConfigError, match=r"must end in \.parquet"):
        screen(Screen(queries=places.dataset, index=places.index, out=str(tmp_path / "hits.csv")))
    assert not list(tmp_path.glob("hits*"))
