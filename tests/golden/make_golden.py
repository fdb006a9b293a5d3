"""How the fixtures beside this file were made. Run by hand: `python tests/golden/make_golden.py`.

They were made by the release whose results they record, and are not made again with each change: a fixture that is
replaced guards nothing. The script therefore refuses to overwrite. It needs Ray and moto.

Everything was written to `s3://golden/` on an S3 server in this process, so that no file names a folder of a machine;
trials of a campaign are named by a hash of their settings, and the URI of the dataset is one of these.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import tempfile
from importlib import resources
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import test_golden as golden  # noqa: E402 (the script's own folder is put on the path first)

INPUT = "crystals.parquet"
LEFT_OUT = (INPUT, "driver.json", "results.html", "figure.png")
"""Files that are not read again, name the machine, or are drawn and large."""
LAST = "checkpoints/step-00000009/"
"""Of the run, and left out: its model is that of `model/`, and a run that lost it goes on from the one before."""
PARTS = {"train": 22, "validation": 22, "test": 8}
"""Crystals of each part of the split by formula: half of the validation part calibrates intervals of 90 %."""
WITH_DENSITY = (0, 8, 24, 32, 46, 48)
"""Crystals that keep their charge density, which is large: two of each part."""
MODEL: dict[str, Any] = {
    "embedding_dim": 16,
    "modalities": {
        "crystal": {
            "encoder": "dual-space",
            "options": {"direct": {"hidden": 8, "layers": 1, "width": 16}, "hidden": 8, "width": 16},
        },
        "dos": {
            "encoder": "dos-transformer",
            "options": {"hidden": 8, "layers": 1, "patch": 20},
            "features": {"beyond": "unknown"},
        },
        "charge_density": {"encoder": "conv3d", "options": {"channels": [2, 4]}},
        "xrd": {"encoder": "xrd-resnet", "options": {"channels": [2, 4], "reduced": 4, "hidden": 8}},
        "text": {"encoder": "bert", "options": {"hidden": 8, "layers": 1, "vocabulary": 160}},
        "composition": {"encoder": "composition-transformer", "options": {"hidden": 8, "layers": 1}},
    },
}
FORMULA: dict[str, Any] = {"encoder": "composition-transformer", "options": {"hidden": 8, "layers": 1}}


def demo_table() -> pa.Table:
    """Rows of the embedded corpus: polymorphs, two copies of one structure, absent values, and one that is refused."""
    from crystalign.shards.splits import SplitRule, fraction

    table = pq.read_table(str(resources.files("crystalign.sources") / "dft_demo" / "crystals.parquet"))
    rule = SplitRule(train=0.6, validation=0.2)
    rows = table.replace_schema_metadata(None).to_pylist()
    repeated = {"BeO", "MgO", "C"}
    chosen: list[dict[str, Any]] = []
    for part, number in PARTS.items():
        there = [r for r in rows if rule.name_of(fraction(r["formula"])) == part and r["nsites"] <= 4]
        chosen += sorted(there, key=lambda r: r["formula"] not in repeated)[:number]
    copies = [dict(row) for row in chosen[-2:]]
    for row in copies:
        row["material_id"] += "-copy"
        row["lattice_matrix"] = [1.01 * value for value in row["lattice_matrix"]]
    broken = chosen[0] | {"material_id": "broken", "lattice_matrix": [0.0] * 9}
    for number, row in enumerate([*chosen, *copies]):
        if number not in WITH_DENSITY:
            row["pseudo_density"] = None
        if number % 5 == 3:
            row["dos"] = row["dos_energies"] = None
    return pa.Table.from_pylist([*chosen, *copies, broken], schema=table.schema)


def build(work: Path) -> None:
    """Every stage, by the command line, into `s3://golden/`."""
    from crystalign import storage
    from crystalign_jobs import cli
    from crystalign_jobs.session import session

    pq.write_table(demo_table(), work / "crystals.parquet")
    table = f"s3://{golden.BUCKET}/{INPUT}"  # the quarantine names it
    storage.upload(work / "crystals.parquet", table)
    run = {
        "model": MODEL,
        "split": {"train": 0.6, "validation": 0.2},
        "batch_size": 8,
        "epochs": 3,
        "num_workers": 1,
        "checkpoint_every_steps": 5,
        "log_every_steps": 1,
        "rows_per_window": 12,
        "optimiser": {"lr": 5e-3, "warmup_fraction": 0.2},
        "loggers": ["csv"],
        "seed": 3,
    }
    campaign = {
        "tasks": {"dos at fermi": {"target": "dos_at_fermi_per_atom", "min_labels": 10}},
        "initialisations": {
            "mean": "mean",
            "scratch": {"encoders": {"composition": FORMULA}, "modalities": ["composition"]},
            "pre-trained": "s3://golden/runs/small/model",
        },
        "modalities": ["crystal"],
        "learning_rates": [1e-2, 1e-3],
        "seeds": [0, 1],
        "recipe": {"max_epochs": 6, "warmup_epochs": 1, "batch_size": 8, "min_steps": 2, "patience": 6},
    }
    for name, values in (("run", run), ("campaign", campaign)):
        (work / f"{name}.yaml").write_text(json.dumps(values))
    data, model = "s3://golden/data", "s3://golden/runs/small/model"
    commands = (
        f"ingest {table} --mapping dft_demo --out {data} --rows-per-shard 16",
        f"derive {data} --modalities xrd text composition tabular",
        f"pretrain --config {work}/run.yaml --data {data} --out s3://golden/runs --name small",
        f"embed {model} --data {data} --out s3://golden/embeddings --rows-per-file 16",
        "index s3://golden/embeddings --out s3://golden/index --rows-per-segment 16",
        f"tune --config {work}/campaign.yaml --data {data} --out s3://golden/campaigns --name small",
    )
    with session("local"):
        for command in commands:
            print(f"\n$ crystalign {command}", flush=True)
            assert cli.main(command.split()) == 0, command


def download(folder: Path) -> None:
    """The bucket as files, without what is drawn or names the machine."""
    import boto3

    client = boto3.client("s3")
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=golden.BUCKET):
        for entry in page.get("Contents", ()):
            key = entry["Key"]
            if key.endswith("/") or LAST in key or key.rpartition("/")[2] in LEFT_OUT:
                continue
            target = folder / key
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(client.get_object(Bucket=golden.BUCKET, Key=key)["Body"].read())


def refuse_names_of_this_machine(folder: Path) -> None:
    """No fixture may hold the path of a folder here, or the name of this machine."""
    import socket

    forbidden = [os.path.abspath(tempfile.gettempdir()), str(HERE.parents[2]), str(Path.home()), socket.gethostname()]
    for path in folder.rglob("*"):
        data = path.read_bytes() if path.is_file() else b""
        found = [name for name in forbidden if len(name) > 3 and name.encode() in data]
        assert not found, f"{path.relative_to(folder)} names {found}"


def main() -> None:
    """Make the fixtures and the numbers they give."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE, help="folder of the fixtures")
    out = parser.parse_args().out.resolve()
    if (out / golden.EXPECTED).exists() or (out / golden.FILES).exists():
        sys.exit(f"{out} holds fixtures already; they record an earlier release and are not replaced")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    with golden.s3_server() as endpoint, tempfile.TemporaryDirectory() as temporary:
        golden.use_bucket(os.environ.__setitem__, endpoint)
        build(Path(temporary))
        folder = out / golden.FILES
        download(folder)
        refuse_names_of_this_machine(folder)
        with tempfile.TemporaryDirectory() as scratch:
            numbers = golden.measure(folder, Path(scratch))
        (out / golden.EXPECTED).write_text(json.dumps(numbers, indent=1, default=float) + "\n")
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"\n{size / 1e6:.2f} MB of fixtures in {folder}, numbers in {out / golden.EXPECTED}")


if __name__ == "__main__":
    main()
