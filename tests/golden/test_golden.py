"""Files of an earlier release open with today's code, and give the numbers that they gave then.

`files/` holds a dataset, a pre-training run with a checkpoint in its middle, the model, embeddings, an index and a
campaign with its fine-tuned models, made by `make_golden.py`; `expected.json` holds what that release computed from
them. `measure` computes the same today. A number that changes is a change of results: it needs a reason, and a line in
CHANGELOG.md, not new fixtures.
"""

from __future__ import annotations

import csv
import itertools
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from crystalign.batch import make_batch

# Everything of ours that is used below: whoever moves a module changes it here alone.
from crystalign.derivation import extended
from crystalign.finetuning.model.property_model import PropertyModel
from crystalign.finetuning.trials.config import TrialResult
from crystalign.finetuning.trials.trial import run_trial
from crystalign.index.build import build_index
from crystalign.index.embeddings import read_embeddings
from crystalign.index.manifest import IndexManifest
from crystalign.index.search import Segment, merge
from crystalign.model import Model
from crystalign.shards.dataset import Dataset
from crystalign.shards.selection import Selection
from crystalign.shards.splits import SplitRule
from crystalign.sources import open_source
from crystalign.training.checkpoint import latest_checkpoint, load_checkpoint
from crystalign.training.config import PretrainConfig
from crystalign.training.feed import FeedPlan, feed, steps_per_epoch
from crystalign.training.loop import train
from crystalign_jobs import cli

HERE = Path(__file__).resolve().parent
FILES, EXPECTED, BUCKET = "files", "expected.json", "golden"
LIMIT = 2_000_000
"""Bytes of all fixtures together."""
RTOL, ATOL = 1e-4, 2e-5
"""Of float32 arithmetic on another processor; whole numbers, names and orders are equal."""
DERIVED = ("xrd", "text", "composition", "tabular")
MATERIALS = 8
"""Whose features are recorded."""
ROWS = 4
"""Of embeddings that are recorded."""
FILTERS = (None, 'elements HAS "O"', 'nelements = 2 AND NOT elements HAS "Mg"')
LATTICE = re.compile(r" The lattice parameters? (?:is|are) [\d., and]+ Å\.")
"""A sentence that captions did not have."""
NAMED_BEFORE = {"text-numbers": "text-masked"}
"""Masked texts that keep their numbers; those of today's `text-masked` have none."""
RESULT_FIELDS = ("sizes", "seen", "left_out", "parameters", "trained", "metrics", "validation", "coverage", "score")
RUN, CAMPAIGN, BEST = "runs/small", "campaigns/small", "campaigns/small/best/dos-at-fermi"


# --- what is measured -------------------------------------------------------------------------------------------------


def measured_dataset(files: Path, _scratch: Path) -> dict[str, Any]:
    """What stands in the dataset, and in which part of which split each material falls."""
    dataset = Dataset.open(str(files / "data"))
    dataset.verify()
    manifest = dataset.manifest
    rules = {by: SplitRule(by=by) for by in ("formula", "material", "chemsys", "prototype")}
    rules |= {"run": SplitRule(train=0.6, validation=0.2), "salted": SplitRule(salt="another")}
    names = ["id", "formula", "chemsys", "n_sites", "spacegroup_number", "prototype", "structure_group", "source"]
    columns = list(dict.fromkeys([*names, *(name for rule in rules.values() for name in rule.columns)]))
    table = dataset.table(columns)
    parts = {}
    for name, rule in rules.items():
        found = {part: rule.mask(table, part).tolist() for part in ("train", "validation", "test")}
        parts[name] = "".join(next(part[0] for part in found if found[part][row]) for row in range(len(table)))
    return {
        "sha256": manifest.sha256,
        "version": manifest.schema_version,
        "rows": [shard.rows for shard in manifest.shards],
        "modalities": manifest.modalities,
        "labels": manifest.property_counts,
        "licences": list(manifest.licences),
        "derived": list(manifest.derived),
        "structures": None if manifest.structures is None else manifest.structures.model_dump(mode="json"),
        "quarantine": dataset.quarantine().select(["id", "stage", "reason"]).to_pylist(),
        "table": table.select([*names, "shard", "row"]).to_pydict(),
        "fractions": table.column("split_formula").to_pylist(),
        "parts": parts,
        "properties": [sorted((s.column, v) for s, v in m.properties.items()) for m in dataset.materials(())],
    }


def measured_derivations(files: Path, _scratch: Path) -> dict[str, Any]:
    """Whether what was derived from the crystals is derived alike today, and samples of it."""
    stored = list(Dataset.open(str(files / "data")).materials(DERIVED))
    rejects: list[Any] = []
    again = [extended(type(m)(m.id, m.crystal, m.provenance), DERIVED, 60.0, rejects) for m in stored]
    texts = [material.value("text").description for material in stored]
    return {
        "rejects": len(rejects),
        "texts": texts,
        "texts derived again": [LATTICE.sub("", material.value("text").description) for material in again],
        "xrd": [summary(stored_arrays(material.value("xrd"))) for material in stored[:MATERIALS]],
        "xrd derived again": [summary(stored_arrays(material.value("xrd"))) for material in again[:MATERIALS]],
        "tabular": [summary(stored_arrays(material.value("tabular"))) for material in stored[:MATERIALS]],
        "tabular derived again": [summary(stored_arrays(material.value("tabular"))) for material in again[:MATERIALS]],
    }


def measured_features(files: Path, _scratch: Path) -> dict[str, Any]:
    """What the encoders are shown of the first materials, and the keys by which materials are alike."""
    model = Model.from_pretrained(files / RUN / "model")
    materials = list(Dataset.open(str(files / "data")).materials(tuple(model.modalities)))
    charged = [material for material in materials if material.value("charge_density") is not None]
    chosen = [*materials[:MATERIALS], *charged[:2]]
    plain = make_batch(chosen, model.modalities)
    drawn = make_batch(chosen, model.modalities, [np.random.default_rng([3, row]) for row in range(len(chosen))])
    return {
        "ids": [material.id for material in chosen],
        "present": {name: mask.tolist() for name, mask in plain.present.items()},
        "alike": {name: alike(keys.numpy(), plain.present[name].numpy()) for name, keys in plain.keys.items()},
        "inputs": {name: summary(inputs) for name, inputs in plain.inputs.items()},
        "augmented": {name: summary(inputs) for name, inputs in drawn.inputs.items()},
    }


def planned(files: Path, scratch: Path) -> tuple[PretrainConfig, FeedPlan]:
    """The settings of the run, and what its batches depend on."""
    run, dataset = files / RUN, Dataset.open(str(files / "data"))
    values = yaml.safe_load((run / "config.yaml").read_text())
    config = PretrainConfig.from_mapping(
        {name: value for name, value in values.items() if name in PretrainConfig.model_fields}, origin="config.yaml"
    )
    selection = Selection.build(
        dataset, config.split, "train", fits=list(Model.from_pretrained(run / "model").modalities.values())
    )
    plan = FeedPlan(
        data=dataset.uri,
        data_sha256=dataset.manifest.sha256,
        selection=selection.save(str(scratch)),
        modalities={name: spec.features for name, spec in config.model.modalities.items()},
        seed=config.seed,
        batch_size=config.batch_size,
        window_rows=config.rows_per_window,
        world_size=1,
        epochs=config.epochs,
    )
    return config, plan


def measured_resumption(files: Path, scratch: Path) -> dict[str, Any]:
    """The order of the samples of the whole run, and the run once more from the checkpoint in its middle."""
    config, plan = planned(files, scratch)
    middle, state = load_checkpoint(str(latest_checkpoint(str(files / RUN))))
    total, began, records = plan.epochs * steps_per_epoch(plan), state.step, []
    before = [fed.ids for fed in itertools.islice(feed(plan), began)]
    after = list(feed(plan, start_step=began))
    batches = (fed.batch for fed in after)
    train(config, middle, batches, total_steps=total, start_step=state.step, state=state, on_log=records.append)
    timed = ("seconds", "samples_per_second")
    return {
        "selection": Path(plan.selection).stem,
        "selection of the run": middle.card.selection_sha256,
        "order": [*before, *(fed.ids for fed in after)],
        "began": began,
        "cursor": state.cursor,
        "steps": [{name: value for name, value in record.items() if name not in timed} for record in records],
        "weights": summary({name: tensor for name, tensor in middle.state_dict().items() if tensor.ndim > 1}),
    }


def measured_model(files: Path, _scratch: Path) -> dict[str, Any]:
    """Its identity, and the embeddings of the first materials that have each modality."""
    model = Model.from_pretrained(files / RUN / "model")
    materials = list(Dataset.open(str(files / "data")).materials(tuple(model.modalities)))
    values = {name: [m.value(name) for m in materials if m.value(name) is not None] for name in model.modalities}
    return {
        "sha256": model.sha256,
        "aligned": [list(pair) for pair in model.config.aligned],
        "temperatures": {"-".join(k): 1 / float(v.detach()) for k, v in model.logit_scales().items()},
        "card": model.card.model_dump(mode="json", include={"dataset_sha256", "split", "steps", "samples", "metrics"}),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "embeddings": {name: model.embed(name, known[:ROWS]).tolist() for name, known in values.items()},
    }


def measured_retrieval(files: Path, scratch: Path) -> dict[str, Any]:
    """The report of `crystalign evaluate`."""
    command = ["evaluate", str(files / RUN / "model"), "--data", str(files / "data"), "--out", str(scratch)]
    assert cli.main(command) == 0
    report = json.loads((scratch / "retrieval.json").read_text())
    del report["pool"]["dataset"]
    pairs = [pair for pair in report["pairs"] if "text-masked" not in {pair["query"], pair["target"]}]
    for pair in pairs:
        pair |= {side: NAMED_BEFORE.get(pair[side], pair[side]) for side in ("query", "target")}
    return {"pool": list(report["pool"].values()), "pairs": pairs}


def measured_search(files: Path, scratch: Path) -> dict[str, Any]:
    """The answers of the index that was stored, and of one that is built today from the stored embeddings."""
    model, dataset = Model.from_pretrained(files / RUN / "model"), Dataset.open(str(files / "data"))
    uri, again = str(files / "index"), str(scratch / "index")
    manifest, built = IndexManifest.read(uri), build_index(str(files / "embeddings"), again, rows_per_segment=16)
    rows, stored = read_embeddings(str(files / "embeddings"))
    crystals = {material.id: material.crystal for material in dataset.materials(())}
    embedded = model.embed("crystal", [crystals[name] for name in rows.column("id").to_pylist()])
    dos = next(m.value("dos") for m in dataset.materials(("dos",)) if m.value("dos") is not None)
    texts = [m.value("text") for m in dataset.materials(("text",))]
    queries = np.concatenate([model.embed("dos", [dos]), model.embed("text", texts[-1:]), embedded[:1]])
    return {
        "version": manifest.version,
        "segments": [entry.rows for entry in manifest.segments],
        "ids": rows.column("id").to_pylist(),
        "embeddings": stored[:ROWS].tolist(),
        "largest difference of embeddings made today is below 1e-3": bool(np.abs(embedded - stored).max() < 1e-3),
        "answers": answers(uri, manifest, queries),
        "answers of an index built today": answers(again, built, queries),
    }


def answers(uri: str, manifest: IndexManifest, queries: np.ndarray) -> list[dict[str, Any]]:
    segments = [Segment.load(uri, manifest, [entry]) for entry in manifest.segments]
    found = []
    for number, query in enumerate(queries):
        for text in FILTERS:
            best = merge([segment.search(query[None], 6, text)[0] for segment in segments], 6)
            told = {"ids": best.ids, "scores": best.scores.tolist(), "allowed": best.allowed}
            found.append({"query": number, "filter": text} | told)
    return found


def measured_predictions(files: Path, _scratch: Path) -> dict[str, Any]:
    """Values, intervals and out-of-domain scores of the best fine-tuned model."""
    model = PropertyModel.from_pretrained(str(files / BEST))
    materials = list(Dataset.open(str(files / "data")).materials())
    found = model.predict(materials[:MATERIALS])
    wide = model.predict([material.crystal for material in materials[:ROWS]], level=0.5)
    return {
        "targets": list(found.targets),
        "ids": list(found.ids),
        **{name: getattr(found, name).tolist() for name in ("mean", "lower", "upper", "out_of_domain")},
        "half": [wide.lower.tolist(), wide.upper.tolist()],
        "metrics": model.card.metrics,
    }


def measured_table(files: Path, _scratch: Path) -> dict[str, Any]:
    """The rows of the campaign's table, as they are stored."""
    return campaign_table(files / CAMPAIGN)


def campaign_table(run: Path) -> dict[str, Any]:
    table = pq.read_table(run / "results.parquet").to_pydict()
    chosen = json.loads((run / "best" / "dos-at-fermi" / "config.json").read_text())["card"]["name"]
    return {"best": chosen, "columns": {name: values for name, values in table.items() if name != "seconds"}}


MEASURES = {
    "dataset": measured_dataset,
    "derivations": measured_derivations,
    "features": measured_features,
    "resumption": measured_resumption,
    "model": measured_model,
    "retrieval": measured_retrieval,
    "search": measured_search,
    "predictions": measured_predictions,
    "table": measured_table,
}
"""Name in `expected.json` → what computes it from the fixtures and a folder for what it writes."""


def measure(files: Path, scratch: Path) -> dict[str, Any]:
    """Everything, for `make_golden.py`."""
    found = {}
    for name, function in MEASURES.items():
        (scratch / name).mkdir()
        found[name] = plain(function(files, scratch / name))
    return found


# --- how numbers are written and compared -----------------------------------------------------------------------------


def summary(tensors: Any) -> dict[str, Any]:
    """Of each tensor its shape, the sum of its magnitudes, a sum that knows the order, and five values."""
    found = {}
    for name, tensor in tensors.items():
        values = np.asarray(tensor, np.float64).reshape(-1)
        some = np.linspace(0, max(0, len(values) - 1), 5).astype(int) if len(values) else []
        weights = np.cos(np.arange(len(values)))
        told = [float(np.abs(values).sum()), float(np.abs(values) @ (1.0 + weights))]
        found[name] = {"shape": list(np.shape(tensor)), "sums": told, "values": values[some].tolist()}
    return found


def stored_arrays(value: Any) -> dict[str, Any]:
    """The arrays of a modality's value."""
    fields = {name: getattr(value, name) for name in value.__dataclass_fields__}
    return {name: array for name, array in fields.items() if isinstance(array, np.ndarray)}


def alike(keys: np.ndarray, present: np.ndarray) -> list[list[int]]:
    """Pairs of rows that cannot be told apart."""
    same = (keys[:, None, :] == keys[None, :, :]).any(-1) & present[:, None] & present[None, :]
    return np.argwhere(np.triu(same, 1)).tolist()


def plain(value: Any) -> Any:
    """As JSON returns it, floats with eight digits."""
    return json.loads(json.dumps(value, default=float), parse_float=lambda text: float(f"{float(text):.8g}"))


def assert_same(found: Any, expected: Any, where: str) -> None:
    """Equal, floats within `RTOL` and `ATOL`; the message names the place."""
    if isinstance(expected, dict):
        assert isinstance(found, dict), where
        assert sorted(found) == sorted(expected), where
        for name, value in expected.items():
            assert_same(found[name], value, f"{where}/{name}")
    elif isinstance(expected, list):
        assert isinstance(found, list), where
        assert len(found) == len(expected), where
        for number, value in enumerate(expected):
            assert_same(found[number], value, f"{where}/{number}")
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=RTOL, abs=ATOL, nan_ok=True), where
    else:
        assert found == expected, where


# --- the tests --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    return json.loads((HERE / EXPECTED).read_text())


@pytest.mark.parametrize("name", MEASURES)
def test_fixtures_give_the_numbers_they_gave(name, expected, tmp_path, capsys):
    assert_same(plain(MEASURES[name](HERE / FILES, tmp_path)), expected[name], name)


def test_what_is_computed_twice_is_the_same(expected):
    derived, search = expected["derivations"], expected["search"]
    for name in ("texts", "xrd", "tabular"):
        assert_same(derived[f"{name} derived again"], derived[name], name)
    assert search["answers of an index built today"] == search["answers"]
    resumed = expected["resumption"]
    assert resumed["selection"] == resumed["selection of the run"]
    log = [line.split(",") for line in (HERE / FILES / RUN / "metrics.csv").read_text().splitlines()]
    losses = {int(float(line[log[0].index("step")])): line[log[0].index("loss")] for line in log[1:]}
    for record in resumed["steps"]:
        assert record["loss"] == pytest.approx(float(losses[int(record["step"])]), rel=RTOL)


def test_a_resumed_run_ends_with_the_weights_of_the_run(expected):
    model = Model.from_pretrained(HERE / FILES / RUN / "model")
    weights = summary({name: tensor for name, tensor in model.state_dict().items() if tensor.ndim > 1})
    assert_same(plain(weights), expected["resumption"]["weights"], "weights")


def test_a_run_that_starts_afresh_has_the_losses_of_the_run(tmp_path):
    config, plan = planned(HERE / FILES, tmp_path)
    folder = HERE / FILES / RUN / "prepared"
    torch.manual_seed(config.seed)
    model = Model(
        config.model, {name: (folder / name).read_bytes() for name in json.loads((folder / "files.json").read_text())}
    )
    records: list[dict[str, float]] = []
    batches = (fed.batch for fed in itertools.islice(feed(plan), 4))
    train(config, model, batches, total_steps=plan.epochs * steps_per_epoch(plan), on_log=records.append)
    with (HERE / FILES / RUN / "metrics.csv").open() as file:
        stored = [row for row in csv.DictReader(file) if row["loss"]][: len(records)]
    assert len(records) == 4
    for record, row in zip(records, stored, strict=True):
        for name in ("step", "samples", "loss", "lr", "grad_norm"):
            assert record[name] == pytest.approx(float(row[name]), rel=RTOL), name


def test_the_embedded_corpus_is_read_as_it_was():
    table = resources.files("crystalign.sources") / "dft_demo" / "crystals.parquet"
    source = open_source(str(table), mapping="dft_demo")
    stored = {m.id: m for m in Dataset.open(str(HERE / FILES / "data")).materials(("dos",))}
    read = {m.id: m for item in source.items() for m in source.read(item) if m.id in stored}
    assert len(read) == len(stored) - 2  # the copies
    for name, material in read.items():
        assert material.crystal.formula == stored[name].crystal.formula
        assert_same(summary(stored_arrays(material.crystal)), summary(stored_arrays(stored[name].crystal)), name)
        if stored[name].value("dos") is not None:
            told = [summary(stored_arrays(one.value("dos"))) for one in (material, stored[name])]
            assert_same(told[0], told[1], name)


def test_fixtures_are_small_and_name_no_folder_of_a_machine():
    places = [place for place in HERE.rglob("*") if place.is_file() and place.suffix not in {".py", ".pyc"}]
    assert sum(place.stat().st_size for place in places) < LIMIT
    names = [place.name for place in places for word in (b"/tmp/", b"/work/", b"/home/") if word in place.read_bytes()]
    assert not names


@contextmanager
def s3_server() -> Iterator[str]:
    """An S3 server in this process; its address."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def use_bucket(setenv: Callable[[str, str], Any], endpoint: str) -> Any:
    """Make `s3://golden/`, and name its server in the environment; returns a client."""
    import boto3

    setenv("AWS_ENDPOINT_URL", endpoint)
    setenv("AWS_ACCESS_KEY_ID", "crystalign")
    setenv("AWS_SECRET_ACCESS_KEY", "crystalign-secret")
    setenv("AWS_DEFAULT_REGION", "us-east-1")
    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET)
    return client


@pytest.fixture(scope="module")
def bucket(moto_endpoint) -> Iterator[Callable[[str], bytes]]:
    """The fixtures in `s3://golden/`, where they were made: the settings of trials name it. Reads a file of it."""
    with pytest.MonkeyPatch.context() as patch:
        client = use_bucket(patch.setenv, moto_endpoint)
        for place in sorted((HERE / FILES).rglob("*")):
            if place.is_file():
                client.upload_file(str(place), BUCKET, str(place.relative_to(HERE / FILES)))
        yield lambda key: client.get_object(Bucket=BUCKET, Key=key)["Body"].read()


def results() -> list[Path]:
    found = sorted((HERE / FILES / CAMPAIGN).glob("trials/*/result.json"))
    assert found
    return found


def test_a_finished_campaign_runs_nothing_again_and_finds_the_same(bucket, expected, tmp_path, capsys):
    assert cli.main(["tune", "--resume", f"s3://{BUCKET}/{CAMPAIGN}"]) == 0
    for place in results():  # they hold the seconds of the fit: one that ran again would have others
        assert bucket(str(place.relative_to(HERE / FILES))) == place.read_bytes()
    for name in ("results.parquet", "best/dos-at-fermi/config.json"):
        target = tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(bucket(f"{CAMPAIGN}/{name}"))
    assert_same(plain(campaign_table(tmp_path)), expected["table"], "table")


def test_trials_that_are_run_again_find_the_same(bucket, tmp_path):
    stored = [TrialResult.model_validate_json(place.read_text()) for place in results()]
    kinds = {(trial.config.pretrained, trial.config.constant): trial for trial in stored}
    assert len(kinds) == 3
    for trial in kinds.values():
        again = run_trial(trial.config, str(tmp_path / trial.id))
        assert again.id == trial.id == trial.config.id
        told = [{name: getattr(one, name) for name in RESULT_FIELDS} for one in (again, trial)]
        assert_same(plain(told[0]), plain(told[1]), trial.id)


def test_runs_and_campaigns_are_listed_as_they_stand(bucket, capsys):
    told = []
    for place in ("runs", "campaigns"):
        assert cli.main(["runs", f"s3://{BUCKET}/{place}", "--json-lines"]) == 0
        told.append(json.loads(capsys.readouterr().out))
    assert (told[0]["state"], told[0]["step"], told[0]["resume"]) == ("finished", 9, None)
    assert (told[1]["finished"], told[1]["failed"], told[1]["known"], told[1]["resume"]) == (9, 0, 9, None)
