"""The training loop on one device: samples per second, how busy the device is, and what takes the time.

    python tests/benchmarks/bench_train_step.py --data DATASET            # a GPU if there is one
    python tests/benchmarks/bench_train_step.py --data DATASET --device cpu --threads 2

It is the loop of `crystalign pretrain` on batches that wait in memory, so that no data is waited for;
bfloat16 where the GPU has it.
"""

from __future__ import annotations

import tempfile
import time
from itertools import islice
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.table import Table

from crystalign.config import Config
from crystalign.model import Model, prepare
from crystalign.shards.dataset import Dataset
from crystalign.shards.selection import Selection
from crystalign.shards.splits import SplitRule
from crystalign.training.config import PretrainConfig
from crystalign.training.feed import FeedPlan, feed
from crystalign.training.loop import autocast_dtype, train
from crystalign.training.presets import preset


class BenchTrainStep(Config):
    """Measure the training loop."""

    data: str
    """A dataset that holds what the preset trains on."""
    preset: str = "default"
    """Of the model and its optimiser."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Where to compute."""
    threads: int = 1
    """Of a CPU."""
    batch_size: int = 256
    """Rows of a step."""
    steps: int = 20
    """That are timed; a fifth of them are profiled after that."""


def main(options: BenchTrainStep) -> None:
    """Warm up, time, profile, and print."""
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    config, model, batches = prepared(options)

    def run(steps: int) -> float:
        began = time.perf_counter()
        train(config, model, (batches[k % len(batches)] for k in range(steps)), total_steps=10**6, device=device)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    run(3)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = run(options.steps)
    profiled = max(2, options.steps // 5)
    kinds = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        kinds.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=kinds) as profile:
        wall = run(profiled)
    report(options, config, device, seconds, profile, wall / profiled * 1e6, profiled)


def prepared(options: BenchTrainStep) -> tuple[PretrainConfig, Model, list[Any]]:
    """Settings, a fresh model and a few batches of real rows."""
    config = PretrainConfig.model_validate(
        preset(options.preset) | {"data": options.data, "out": "nowhere", "batch_size": options.batch_size}
    )
    dataset = Dataset.open(options.data)
    selection = Selection.build(dataset, SplitRule(), "train")
    texts = [m.value("text") for m in islice(dataset.materials(modalities=["text"]), 2000)]
    torch.manual_seed(0)
    model = Model(config.model, prepare(config.model, {"text": [text for text in texts if text is not None]}))
    with tempfile.TemporaryDirectory(prefix="crystalign-bench-") as folder:
        plan = FeedPlan(
            data=options.data,
            data_sha256=dataset.manifest.sha256,
            selection=selection.save(folder),
            modalities={name: modality.settings.model_dump() for name, modality in model.modalities.items()},
            seed=0,
            batch_size=options.batch_size,
            window_rows=4 * options.batch_size,
            world_size=1,
            epochs=1,
        )
        return config, model, [fed.batch for fed in islice(feed(plan), 4)]


def report(
    options: BenchTrainStep,
    config: PretrainConfig,
    device: torch.device,
    seconds: float,
    profile: Any,
    step_us: float,
    steps: int,
) -> None:
    """Samples per second, utilisation, and the three largest items of the profile."""

    def own(event: Any) -> float:
        value: float = event.self_device_time_total if device.type == "cuda" else event.self_cpu_time_total
        return value / steps

    events = [event for event in profile.key_averages() if not event.is_user_annotation]
    if device.type == "cuda":  # the operators carry the time of their kernels once more
        events = [event for event in events if event.device_type == torch.autograd.DeviceType.CUDA]
    events.sort(key=own, reverse=True)
    busy = sum(own(event) for event in events) / step_us
    console = Console(width=120)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {options.threads} threads"
    dtype = autocast_dtype(config, device) or torch.float32
    rate = options.batch_size * options.steps / seconds
    console.print(f"{where}, {options.preset}, batch {options.batch_size}, {str(dtype).removeprefix('torch.')}")
    console.print(f"{rate:,.0f} samples/s; the device computes for {100 * busy:.0f} % of a profiled step")
    if device.type == "cuda":
        console.print(f"peak memory {torch.cuda.max_memory_allocated(device) / 2**30:.2f} GiB")
    table = Table("item", "ms per step", "share of the device's time", "calls per step")
    for event in events[:3]:
        share = own(event) / max(1e-9, busy * step_us)
        table.add_row(event.key, f"{own(event) / 1e3:.1f}", f"{100 * share:.0f} %", f"{event.count / steps:.0f}")
    console.print(table)


if __name__ == "__main__":
    main(tyro.cli(BenchTrainStep, description=__doc__))
