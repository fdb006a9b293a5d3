"""`crystalign demo`: ingest, derive, pretrain, evaluate, embed, index, calibrate, serve and search, on this machine."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import Field

from crystalign import storage
from crystalign.config import Config
from crystalign.errors import Error
from crystalign.storage import Uri

PATIENCE = 180.0
"""Seconds to wait for the service to answer."""


class Demo(Config):
    """Run the whole pipeline on the built-in corpus: about 1,200 small crystals, 200 with a computed density of states.

    The data are for demonstration only: hypothetical prototypes, unrelaxed cells, a coarse DFT setting.

    Example: crystalign demo --folder demo --once
    """

    folder: Uri = Field(default="demo", validate_default=True)
    """Output folder or URI."""
    port: int = 8000
    """Port of the web page; 0 chooses a free port."""
    once: bool = False
    """Exit after the first query instead of serving until Ctrl-C."""
    minutes: float = 2.0
    """Training time in minutes."""
    seed: int = 0
    """Seed of the corpus, the training and the bootstrap."""


def main(config: Demo) -> None:
    """Run every stage, then serve."""
    began = time.perf_counter()
    uris = {name: storage.join(config.folder, name) for name in ("data", "run", "embeddings", "index")}
    print(f"Crystalign demo → {config.folder}/\n├─ data\n├─ run\n├─ embeddings\n└─ index\n")
    build(config, uris)
    port = config.port or _free_port()
    url = f"http://127.0.0.1:{port}"
    _title(f"serve and search ({time.perf_counter() - began:.0f} s so far)")
    with service(uris, port):
        query = held_out_dos(uris)
        _search(url, query)
        print(f"\nThe demo took {time.perf_counter() - began:.0f} s. The page is open at {url}  (API: {url}/docs)")
        print(f"next:\n  crystalign search --dos {query} --url {url}")
        print(f'  crystalign search --text "a cubic perovskite" --url {url}')
        print(f"  crystalign search --formula NaCl --url {url}\n  crystalign ingest YOUR_FOLDER --out URI")
        if not config.once:
            print("Press Ctrl-C to stop it.")
            _until_stopped()


def build(config: Demo, uris: dict[str, str]) -> None:
    """Run all stages up to the index, in one local Ray session."""
    from crystalign.training.presets import tiny
    from crystalign_jobs import derive, embed, evaluate, ingest, pretrain
    from crystalign_jobs.index import build as index
    from crystalign_ray.session import session

    model = storage.join(uris["run"], "demo", "model")
    for uri in uris.values():
        storage.delete(uri)
    with session("local"):
        _title("ingest")
        ingest.main(ingest.Ingest(source="demo", out=uris["data"], seed=config.seed))
        _title("derive")
        derive.main(derive.Derive(data=uris["data"]))
        _title("pretrain")
        settings: dict[str, Any] = tiny() | {"max_minutes": config.minutes, "seed": config.seed}
        pretrain.main(pretrain.Pretrain(data=uris["data"], out=uris["run"], name="demo", **settings))
        _title("evaluate")
        evaluate.main(evaluate.Evaluate(model=model, data=uris["data"], seed=config.seed))
        _title("embed")
        embed.main(embed.Embed(model=model, data=uris["data"], out=uris["embeddings"]))
        _title("index")
        index.main(index.BuildIndex(embeddings=uris["embeddings"], out=uris["index"], rows_per_segment=512))
    _title("calibrate")
    _run("calibrate", uris["index"], "--model", model, "--modalities", "text", "--seed", str(config.seed))


@contextlib.contextmanager
def service(uris: dict[str, str], port: int) -> Iterator[None]:
    """Run `crystalign serve` in a separate process for the duration of the block, once it answers."""
    command = [sys.executable, "-m", "crystalign_jobs.cli", "serve", "--index", uris["index"]]
    command += ["--model", storage.join(uris["run"], "demo", "model"), "--port", str(port)]
    process = subprocess.Popen(command, start_new_session=True)  # noqa: S603 (our own command line)
    try:
        _wait_for(f"http://127.0.0.1:{port}/api/health", process)
        yield
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def held_out_dos(uris: dict[str, str]) -> str:
    """Write the density of states of a crystal that is not in the training data as a two-column CSV.

    Returns:
        The file's path.
    """
    from crystalign.crystal import pretty_formula
    from crystalign.model import load
    from crystalign.shards.dataset import Dataset
    from crystalign_jobs.evaluate import split_of

    rule = split_of(load(storage.join(uris["run"], "demo", "model")))
    dataset = Dataset.open(uris["data"])
    table = dataset.table(list(rule.columns))
    unseen = rule.mask(table, "test")
    for row, (shard, position) in enumerate(
        zip(table.column("shard").to_pylist(), table.column("row").to_pylist(), strict=True)
    ):
        if not unseen[row]:
            continue
        material = dataset.material(shard, position)
        dos = material.value("dos")
        if dos is not None and len(material.crystal) > 1:
            path = Path("held_out_dos.csv") if "://" in uris["data"] else Path(uris["data"]).parent / "held_out_dos.csv"
            rows = zip(dos.energies, dos.densities.sum(axis=0), strict=True)
            text = "energy_eV,dos_states_per_eV_per_atom\n" + "".join(f"{e:.4f},{d:.6g}\n" for e, d in rows)
            path.write_text(text, encoding="utf-8")
            name = f"{pretty_formula(material.crystal.formula)} ({material.id})"
            print(f"the query: the density of states of {name}, not in the training data")
            return str(path)
    raise Error("the test part of the demo corpus has no density of states; use another --seed")


def _search(url: str, query: str) -> None:
    _run("search", "--dos", query, "--url", url, "--k", "8")


def _run(verb: str, *args: str) -> None:
    """Run a command that belongs to the service in a separate process.

    Raises:
        Error: it failed.
    """
    done = subprocess.run([sys.executable, "-m", "crystalign_jobs.cli", verb, *args], check=False)  # noqa: S603 (ours)
    if done.returncode != 0:
        raise Error(f"`crystalign {verb}` failed with exit code {done.returncode}; see its message above")


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise Error(f"the service stopped with exit code {process.returncode} before it answered")
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 (loopback)
            if answer.status == 200:
                return
        time.sleep(0.5)
    raise Error(f"no answer from {url} within {PATIENCE:.0f} s")


def _until_stopped() -> None:
    """Sleep until Ctrl-C or SIGTERM."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            time.sleep(3600)


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _title(text: str) -> None:
    print(f"\n━━ {text} ━━")
