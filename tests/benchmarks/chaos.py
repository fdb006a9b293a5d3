"""Kill training workers, and now and then the driver, at random; compare the model with an undisturbed run, bit by bit.

    python tests/benchmarks/chaos.py --data DATASET --minutes 10

Two runs of the same settings: one in peace, one whose processes die of `kill -9` at random moments
for so many minutes, and which is resumed by its name whenever its driver was among them. At the
end the weights must be equal to the last bit, and the loss of every step to eight digits.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
FIRST_STEPS = 10
"""Steps that are not counted when the length of a step is measured."""


def main() -> None:
    """Run both, and print what happened."""
    options = parse()
    folder = Path(options.out or tempfile.mkdtemp(prefix="crystalign-chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    if options.steps is None:
        options.steps = steps_for(options, folder)
    calm, began = folder / "calm", time.monotonic()
    wait(start(options, calm))
    peace = time.monotonic() - began
    wild = folder / "wild"
    shutil.copytree(calm / "run" / "prepared", wild / "run" / "prepared")  # tokenizers are trained once
    kills, trouble = torment(options, wild)
    report(options, calm, wild, peace, trouble, kills)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a dataset; `crystalign ingest demo` makes a small one")
    parser.add_argument("--config", default="tiny", help="preset or YAML of the run")
    parser.add_argument("--minutes", type=float, default=10.0, help="how long processes are killed")
    parser.add_argument("--every", type=float, default=40.0, help="mean seconds between two kills")
    parser.add_argument("--driver-share", type=float, default=0.2, help="share of kills that hit the driver")
    parser.add_argument("--steps", type=int, help="length of both runs; default: as many as the minutes hold")
    parser.add_argument("--checkpoint-every-steps", type=int, default=10)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0, help="of the moments and victims")
    parser.add_argument("--out", help="where both runs write; default: a temporary folder")
    return parser.parse_args()


def command(options: argparse.Namespace, out: Path, steps: int) -> list[str]:
    """Of a new run, or of one to go on with."""
    base = [sys.executable, "-m", "crystalign_jobs.cli", "pretrain"]
    if (out / "run" / "config.yaml").exists():
        return [*base, "--resume", str(out / "run")]
    given = yaml.safe_load(Path(options.config).read_text()) if is_file(options.config) else {"preset": options.config}
    settings: dict[str, Any] = given | {
        "data": options.data,
        "out": str(out),
        "name": "run",
        "epochs": 10_000,
        "max_steps": steps,
        "max_minutes": None,
        "batch_size": options.batch_size,
        "num_workers": options.workers,
        "checkpoint_every_steps": options.checkpoint_every_steps,
        "log_every_steps": 1,
        "loggers": ["csv"],
        "max_failures": 1_000_000,
    }
    return [*base, "--config", json.dumps(settings)]


def is_file(config: str) -> bool:
    """Whether it is a YAML file rather than a preset."""
    return config.endswith((".yaml", ".yml"))


def start(options: argparse.Namespace, out: Path, steps: int | None = None) -> subprocess.Popen[bytes]:
    """A driver, with a cluster of its own."""
    paths = [str(ROOT / name) for name in ("platform", "jobs", "serve")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.Popen(command(options, out, steps or options.steps), env=environment)


def wait(driver: subprocess.Popen[bytes]) -> None:
    """To its end, which must be a good one."""
    if driver.wait() != 0:
        sys.exit(f"a run that nobody disturbed ended with exit code {driver.returncode}")


def steps_for(options: argparse.Namespace, folder: Path) -> int:
    """How many steps the minutes hold, from a short run."""
    wait(start(options, folder / "measure", steps=4 * FIRST_STEPS))
    rows = metrics(folder / "measure")
    seconds = float(rows[-1]["seconds"]) - float(rows[FIRST_STEPS]["seconds"])
    per_step = seconds / (3 * FIRST_STEPS)
    return max(50, round(60 * options.minutes / per_step))


def torment(options: argparse.Namespace, out: Path) -> tuple[dict[str, int], float]:
    """Run to the end while processes are killed for the given time; how many of each, and the seconds it all took."""
    rng = random.Random(options.seed)
    kills = {"worker": 0, "driver": 0}
    began = time.monotonic()
    driver = start(options, out)
    due = time.monotonic() + rng.expovariate(1 / options.every)
    while True:
        time.sleep(0.2)
        code = driver.poll()
        if code == 0:
            return kills, time.monotonic() - began
        if code is not None and code != -signal.SIGKILL:
            sys.exit(f"the tormented run ended with exit code {code}")
        if code is not None:
            driver = start(options, out)
        if time.monotonic() < due or time.monotonic() - began > 60 * options.minutes:
            continue
        due = time.monotonic() + rng.expovariate(1 / options.every)
        workers = descendants(driver.pid, b"RayTrainWorker")
        if rng.random() < options.driver_share:
            driver.send_signal(signal.SIGKILL)
            driver.wait()
            kills["driver"] += 1
        elif workers:
            os.kill(rng.choice(workers), signal.SIGKILL)
            kills["worker"] += 1


def descendants(parent: int, title: bytes) -> list[int]:
    """Processes below `parent` whose title holds `title`, in order of their numbers; nobody else's are touched."""
    parents, titles = {}, {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text().rpartition(")")[2].split()
            parents[int(entry.name)], titles[int(entry.name)] = int(stat[1]), (entry / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended meanwhile
    below, found = {parent}, set[int]()
    while below:
        found |= below
        below = {pid for pid, its_parent in parents.items() if its_parent in below} - found
    return sorted(pid for pid in found if title in titles.get(pid, b""))


def metrics(out: Path) -> list[dict[str, str]]:
    """The rows of a run's metrics that a step wrote."""
    import csv

    with (out / "run" / "metrics.csv").open() as file:
        return [row for row in csv.DictReader(file) if row["loss"]]


def report(
    options: argparse.Namespace, calm: Path, wild: Path, peace: float, trouble: float, kills: dict[str, int]
) -> None:
    """Compare, print, and exit with 1 where a bit differs."""
    sys.path[:0] = [str(ROOT / "platform")]
    from crystalign.model import load

    models = [load(out / "run" / "model") for out in (calm, wild)]
    losses = [[(row["step"], row["loss"], row["samples"]) for row in metrics(out)] for out in (calm, wild)]
    equal = models[0].sha256 == models[1].sha256
    columns = ("run", "steps", "seconds", "workers killed", "drivers killed", "last loss", "sha256 of the model")
    print(f"\n| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for name, out, seconds, model in (("undisturbed", calm, peace, models[0]), ("tormented", wild, trouble, models[1])):
        dead = kills if out == wild else {"worker": 0, "driver": 0}
        row = metrics(out)[-1]
        print(
            f"| {name} | {row['step']} | {seconds:.0f} | {dead['worker']} | {dead['driver']} | {row['loss']} "
            f"| {model.sha256[:16]} |"
        )
    print(f"\nweights bit for bit equal: {equal}; loss and samples of every step equal: {losses[0] == losses[1]}")
    print(f"{options.workers} workers, batch {options.batch_size}, {options.data}, seed {options.seed}")
    sys.exit(0 if equal and losses[0] == losses[1] else 1)


if __name__ == "__main__":
    main()
