"""Runs a suite on Ray, on one machine or a cluster.

Each run is a Ray task. When it ends, its row is written at once to a file of its own
(:mod:`medept.benchmark.results`), so a suite that was killed resumes where it stopped. A run that
fails is tried a second time; if it fails again, its row has the traceback.
"""

from __future__ import annotations

import time
import traceback
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from medept.benchmark.cluster import check_room, ray_session
from medept.benchmark.results import (
    holds_benchmark,
    read_rows,
    write_results,
    write_row,
    write_suite,
)
from medept.benchmark.run import DataSpec, Run, content_hash
from medept.benchmark.suite import Suite
from medept.benchmark.worker import decode, do_run, features_key, frozen_features, run_columns
from medept.data.labelled_images import LabelledImages
from medept.errors import ResourceError
from medept.progress import Progress, silent

ATTEMPTS = 2
SECONDS_BETWEEN_TABLES = 20.0

NAMED_BY = ("encoder", "data", "label", "shots", "episode", "seed")
"""The columns that distinguish runs in a report."""


def run_suite(
    suite: Suite,
    out: Path,
    *,
    workers: int | None = None,
    cores: int = 1,
    gpus: float | None = None,
    address: str | None = None,
    retry: bool = False,
    progress: Progress = silent,
) -> pd.DataFrame:
    """Do the runs of a suite that have not ended yet.

    Args:
        suite: what to run.
        out: a folder; it may hold an earlier part of the same suite, or runs of other names.
        workers: greatest number of runs at a time; None: as many as cores and GPUs allow.
        cores: of each run.
        gpus: of each run, such as 0.25 to put four on one; None: one if there are any.
        address: of a Ray cluster; None: this machine.
        retry: whether to do again what failed in an earlier call.
        progress: called with ``runs``, how many have ended, and how many there are.

    Returns:
        the rows of all runs of the suite.

    Raises:
        InputError: if Ray is missing, a data set cannot be used, or ``out`` holds different runs
            under the same names.
    """
    runs = {run.id: run for run in suite.runs()}
    data = {source: source.read() for source in {run.source for run in runs.values()}}
    contents = _contents(runs, data)
    rows = read_rows(out)
    _refuse_others(out, rows, runs, contents)
    ended = {row["id"]: bool(row["error"]) for row in rows if row["id"] in runs}
    if retry:
        ended = {name: failed for name, failed in ended.items() if not failed}
    left = [run for name, run in runs.items() if name not in ended]
    done, failed, tabled = len(ended), sum(ended.values()), time.monotonic()
    progress("runs", done, len(runs))
    write_suite(out, suite)
    if left:
        with ray_session(address, workers and workers * cores) as ray:
            for row in _Tasks(ray, data, workers, cores, gpus).rows(left):
                write_row(out, row | {"content_sha256": contents[row["id"]]})
                done, failed = done + 1, failed + bool(row["error"])
                progress(f"runs ({failed} failed)" if failed else "runs", done, len(runs))
                if time.monotonic() - tabled > SECONDS_BETWEEN_TABLES:
                    write_results(out)
                    tabled = time.monotonic()
    if not holds_benchmark(out):  # removed in the meantime
        write_suite(out, suite)
    table = write_results(out)
    if lost := len(set(runs) - set(table.get("id", ()))):
        raise ResourceError(
            f"{out}: the files of {lost} runs that had ended are gone; give the same command again"
        )
    return table[table["id"].isin(list(runs))].reset_index(drop=True)


def _contents(runs: dict[str, Run], data: dict[DataSpec, LabelledImages]) -> dict[str, str]:
    """The hash of the contents that each run depends on, by its id."""
    pairs = {(run.source, run.encoder) for run in runs.values()}
    hashes = {pair: content_hash(data[pair[0]], pair[1]) for pair in pairs}
    return {name: hashes[run.source, run.encoder] for name, run in runs.items()}


def _refuse_others(
    out: Path, rows: list[dict[str, Any]], runs: dict[str, Run], contents: dict[str, str]
) -> None:
    """Refuse a folder with different runs under the same names: a report would average them."""
    for row in rows:
        if row["id"] in runs and row.get("content_sha256") != contents[row["id"]]:
            raise ResourceError(
                f"{out} holds a run of {row['label']} on {row['data']} from before its table, its "
                "encoder's weights, or medept changed; give another folder with out="
            )
    taken = {tuple(row[name] for name in NAMED_BY): row["id"] for row in rows}
    for run in runs.values():
        row = run_columns(run)
        name = tuple(row[part] for part in NAMED_BY)
        if taken.get(name, row["id"]) != row["id"]:
            raise ResourceError(
                f"{out} holds another run of {run.label} on {run.data}: with other settings, from "
                "another place, or with defaults that have changed since; give another folder with "
                "out="
            )


class _Tasks:
    """Runs as Ray tasks. Each data set is decoded once, and encoded once by each encoder."""

    def __init__(
        self,
        ray: Any,
        data: dict[DataSpec, LabelledImages],
        workers: int | None,
        cores: int,
        gpus: float | None,
    ) -> None:
        there = ray.cluster_resources()
        if gpus is None:
            gpus = 1.0 if there.get("GPU") else 0.0
        check_room(ray, cores, gpus)
        needs = {"num_cpus": cores, "num_gpus": gpus}
        self._ray, self._data = ray, data
        self._decode = ray.remote(num_cpus=cores)(decode)
        self._encode = ray.remote(**needs)(frozen_features)
        self._do = ray.remote(max_retries=0, **needs)(do_run)
        # twice as many tasks as there is room for, so that another is ready when one ends
        self._limit = workers or 2 * max(1, int(there.get("CPU", 1)) // cores)
        self._shared: dict[Any, Any] = {}

    def rows(self, runs: list[Run]) -> Iterator[dict[str, Any]]:
        """The row of each run, in the order in which they end."""
        waiting = deque((run, 1) for run in runs)
        running: dict[Any, tuple[Run, int]] = {}
        while waiting or running:
            while waiting and len(running) < self._limit:
                run, attempt = waiting.popleft()
                running[self._do.remote(run, *self._inputs(run))] = run, attempt
            (ready,), _ = self._ray.wait(list(running), num_returns=1)
            run, attempt = running.pop(ready)
            row = self._row(ready, run)
            if row["error"] and attempt < ATTEMPTS:
                waiting.appendleft((run, attempt + 1))
            else:
                yield row | {"attempts": attempt}

    def _inputs(self, run: Run) -> tuple[Any, Any]:
        """References to the decoded data set and its frozen features."""
        decoded, encoded = _keys(run)
        data = self._once(decoded, self._decode, self._data[run.source])
        return data, self._once(encoded, self._encode, data, run)

    def _once(self, key: Any, task: Any, *arguments: Any) -> Any:
        """A reference to the result of a task, which is started the first time it is asked for."""
        if key not in self._shared:
            self._shared[key] = task.remote(*arguments)
        return self._shared[key]

    def _row(self, reference: Any, run: Run) -> dict[str, Any]:
        """The row of a run, with a traceback if its worker died or did not even start."""
        try:
            return self._ray.get(reference)
        except Exception:  # a failed run, whatever the error, must not end the suite
            for key in _keys(run):  # the shared results may be at fault, so a retry computes them
                self._shared.pop(key, None)
            return run_columns(run) | {"error": traceback.format_exc()}


def _keys(run: Run) -> tuple[Any, Any]:
    """Keys of a run's decoded data set and of its frozen features."""
    return run.source, features_key(run)
