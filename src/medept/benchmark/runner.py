"""Runs a suite on Ray: one machine by default, a cluster by its address.

Each run is a task with its cores and GPUs; each that ends is a file of its own, written at once
(:mod:`medept.benchmark.results`). A suite that was killed goes on where it stopped: what has its
file is not repeated. A run that fails is tried once more, and is then a row with its traceback.
"""

from __future__ import annotations

import os
import socket
import time
import traceback
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from medept.benchmark.results import read_rows, write_results, write_row, write_suite
from medept.benchmark.run import DataSpec, Run, content_hash
from medept.benchmark.suite import Suite
from medept.benchmark.worker import decode, do_run, frozen_features, run_columns
from medept.data.labelled_images import LabelledImages
from medept.errors import ResourceError
from medept.progress import Progress, silent

ATTEMPTS = 2
SECONDS_BETWEEN_TABLES = 20.0
SECONDS_TO_REACH = 20.0
STARTS = 3
"""Ray gives its processes 30 seconds to start, which they may need on a busy machine."""

PATIENT = {"health_check_failure_threshold": 1000}
"""Of Ray on this machine alone. It would end this process, without a word, after a minute without
an answer from itself, as when the machine is busy or was asleep; there is no other to go on."""

NAMED_BY = ("encoder", "data", "label", "shots", "episode", "seed")
"""What distinguishes runs in a report."""


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
    """Do what is missing of ``suite`` in ``out``; returns all of its rows.

    Args:
        out: may hold an earlier part of the same suite, or runs that have other names.
        workers: runs at a time; None: as many as there are cores and GPUs for.
        cores: of each run.
        gpus: of each run, 0.25 to put four on one; None: one where there is any.
        address: of a Ray cluster; None: this machine.
        retry: do again what failed in an earlier call.

    Raises:
        InputError: if Ray is missing, a data set cannot be used, or ``out`` holds other runs
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
        with _ray(address, workers and workers * cores) as ray:
            for row in _Tasks(ray, data, workers, cores, gpus).rows(left):
                write_row(out, row | {"content_sha256": contents[row["id"]]})
                done, failed = done + 1, failed + bool(row["error"])
                progress(f"runs ({failed} failed)" if failed else "runs", done, len(runs))
                if time.monotonic() - tabled > SECONDS_BETWEEN_TABLES:
                    write_results(out)
                    tabled = time.monotonic()
    table = write_results(out)
    return table[table["id"].isin(list(runs))].reset_index(drop=True)


def _contents(runs: dict[str, Run], data: dict[DataSpec, LabelledImages]) -> dict[str, str]:
    """Of each run by its id, the hash of what it is made from."""
    pairs = {(run.source, run.encoder) for run in runs.values()}
    hashes = {pair: content_hash(data[pair[0]], pair[1]) for pair in pairs}
    return {name: hashes[run.source, run.encoder] for name, run in runs.items()}


def _refuse_others(
    out: Path, rows: list[dict[str, Any]], runs: dict[str, Run], contents: dict[str, str]
) -> None:
    """Results under one name must not be of two kinds, which a report would average."""
    for row in rows:
        if row["id"] in runs and row.get("content_sha256") != contents[row["id"]]:
            raise ResourceError(
                f"{out} holds a run of {row['label']} on {row['data']} from before its table, its "
                "encoder's weights, or medept changed; give another folder with --out"
            )
    taken = {tuple(row[name] for name in NAMED_BY): row["id"] for row in rows}
    for run in runs.values():
        row = run_columns(run)
        name = tuple(row[part] for part in NAMED_BY)
        if taken.get(name, row["id"]) != row["id"]:
            raise ResourceError(
                f"{out} holds another run of {run.label} on {run.data}: with other settings, from "
                "another place, or by defaults that have changed since; give another folder with "
                "--out"
            )


@contextmanager
def _ray(address: str | None, cores: int | None) -> Iterator[Any]:
    """Ray, on a cluster or started here with so many cores (None: all), and ended with the block.

    Raises:
        InputError: if it is not installed, or the cluster does not answer.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise ResourceError("medept bench needs an extra: pip install 'medept[bench]'") from error
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None:  # not what RAY_ADDRESS or an earlier `ray start` says
        options |= {"include_dashboard": False, "num_cpus": cores, "_system_config": PATIENT}
    try:
        if address is not None:
            _reach(address)
        _start(ray, address or "local", options)
    except OSError as error:
        if address is None:
            raise
        raise ResourceError(
            f"no Ray cluster answers at {address} ({error}): see `ray status` there; where it asks "
            "for a token, set RAY_AUTH_MODE=token here and have its token in ~/.ray/auth_token"
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _reach(address: str) -> None:
    """Fail at once where nothing listens at ``HOST:PORT``; Ray would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=SECONDS_TO_REACH).close()


def _start(ray: Any, address: str, options: dict[str, Any]) -> None:
    """Start or join Ray; where it took too long to start, try again.

    Raises:
        InputError: if it took too long each time.
    """
    for _ in range(STARTS):
        try:
            ray.init(address=address, **options)
            return
        except Exception as error:
            if "timed out during startup" not in str(error):
                raise
            ray.shutdown()
    raise ResourceError(
        f"Ray did not start within 30 seconds, {STARTS} times in a row: this machine is too busy; "
        "give the same command again when it is less so"
    )


def _check_room(ray: Any, cores: int, gpus: float) -> None:
    """Refuse what no machine has: Ray would wait for one.

    Raises:
        InputError: if a run needs more cores or GPUs than any machine has.
    """
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    rooms = [(int(machine.get("CPU", 0)), machine.get("GPU", 0.0)) for machine in machines]
    if not any(cores <= room[0] and gpus <= room[1] for room in rooms):
        there = "; ".join("{} cores and {:g} GPUs".format(*room) for room in rooms)
        raise ResourceError(
            f"no machine has room for a run of {cores} cores and {gpus:g} GPUs: give less with "
            f"--cores or --gpus (there: {there})"
        )


class _Tasks:
    """Runs as tasks of Ray, and what they share: data sets decoded and encoded once."""

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
        _check_room(ray, cores, gpus)
        needs = {"num_cpus": cores, "num_gpus": gpus}
        self._ray, self._data = ray, data
        self._decode = ray.remote(num_cpus=cores)(decode)
        self._encode = ray.remote(**needs)(frozen_features)
        self._do = ray.remote(max_retries=0, **needs)(do_run)
        # one task more than there is room for stands ready for each that ends
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
        return data, self._once(encoded, self._encode, data, run.encoder, run.precision)

    def _once(self, key: Any, task: Any, *arguments: Any) -> Any:
        """A reference to what a task gives, which is done for the first who asks."""
        if key not in self._shared:
            self._shared[key] = task.remote(*arguments)
        return self._shared[key]

    def _row(self, reference: Any, run: Run) -> dict[str, Any]:
        """A run's row; where the worker died, or could not even begin, one that says so."""
        try:
            return self._ray.get(reference)
        except Exception:  # whatever went wrong in a worker is a failed run, not a failed suite
            for key in _keys(run):  # it may have been in what is shared: the next try makes it anew
                self._shared.pop(key, None)
            return run_columns(run) | {"error": traceback.format_exc()}


def _keys(run: Run) -> tuple[Any, Any]:
    """What a run's decoded data set, and its features, depend on."""
    return run.source, (run.source, run.encoder, run.precision)
