"""Measures several ways to do one thing, in turn, in one run: medians, ratios, peak memory."""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch


def arguments(description: str, **flags: str) -> argparse.Namespace:
    """Read the command line: ``--quick``, ``--json``, and the benchmark's own flags."""
    parser = argparse.ArgumentParser(description=description.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="smaller sizes, fewer repeats")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    for name, help_text in flags.items():
        parser.add_argument(f"--{name}", action="store_true", help=help_text)
    return parser.parse_args()


def time_in_turn(
    ways: Mapping[str, Callable[[], object]], repeats: int, seconds: float = 0
) -> tuple[dict[str, float], dict[str, float]]:
    """Median seconds of each way, and the median of its ratios to the first way.

    A round runs each way once; every second round runs them in reverse order. Ratios are taken
    within a round, so that drift in the machine's speed cancels out.

    Args:
        ways: what to run, by name.
        repeats: the smallest number of rounds.
        seconds: go on with further rounds until so many have passed.
    """
    times: dict[str, list[float]] = {name: [] for name in ways}
    end = time.perf_counter() + seconds
    for i in itertools.count():  # the first round warms up
        if i > repeats and time.perf_counter() > end:
            break
        for name, run in list(ways.items())[:: 1 if i % 2 else -1]:
            synchronise()
            started = time.perf_counter()
            run()
            synchronise()
            if i:
                times[name].append(time.perf_counter() - started)
    first = next(iter(times.values()))
    return (
        {name: statistics.median(values) for name, values in times.items()},
        {
            name: statistics.median(x / y for x, y in zip(values, first, strict=True))
            for name, values in times.items()
        },
    )


def peak_bytes(run: Callable[[], object]) -> int:
    """The largest amount of memory that ``run`` held, beyond what was held before it."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        run()
    held = most = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


@contextmanager
def others_to_stderr() -> Iterator[None]:
    """Send what libraries print to stderr meanwhile, so that stdout has only the result."""
    sys.stdout.flush()
    ours = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(ours, 1)
        os.close(ours)


def machine() -> dict[str, object]:
    """Device, threads and version of PyTorch."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor()
    return {"device": device or platform.machine(), "threads": torch.get_num_threads(),
            "torch": torch.__version__}  # fmt: skip


def show(rows: Iterable[dict[str, object]], as_json: bool) -> list[dict[str, object]]:
    """Print the machine and the rows, as a table or as one JSON object; return the rows."""
    if as_json:
        with others_to_stderr():
            rows = list(rows)
        print(json.dumps({"machine": machine(), "rows": rows}))
        return rows
    print(f"{machine()}\n")
    return table(rows)


def table(rows: Iterable[dict[str, object]]) -> list[dict[str, object]]:
    """Print rows with the same keys as a Markdown table, each as it comes; return them."""
    shown: list[dict[str, object]] = []
    for row in rows:
        if not shown:
            print("| " + " | ".join(row) + " |\n|" + " --- |" * len(row))
        cells = [f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values()]
        print("| " + " | ".join(cells) + " |", flush=True)
        shown.append(row)
    return shown


def synchronise() -> None:
    """Wait until the GPU has finished, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
