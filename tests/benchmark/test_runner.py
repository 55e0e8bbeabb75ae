"""A suite's runs on Ray: shared work, failures, kill -9, and folders that hold other runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers import run

from medept.benchmark import runner
from medept.benchmark.run import Run
from medept.benchmark.runner import run_suite
from medept.benchmark.suite import read_suite
from medept.benchmark.worker import run_columns
from medept.errors import InputError
from medept.phantoms import make_phantoms, write_phantoms

ray = pytest.importorskip("ray")


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file in which stand-ins for the work write down that they were called."""
    log = tmp_path / "log"

    def note(text: str) -> None:
        with log.open("a") as file:
            file.write(text + "\n")

    def read(data: Any) -> Any:
        note("decoded")
        return data

    def encode(data: Any, run: Run) -> np.ndarray:
        note(f"encoded {run.encoder.title}")
        return np.zeros((len(data), 2))

    def work(one: Run, data: Any, features: np.ndarray) -> dict[str, Any]:
        assert len(data) == len(features) == 24
        note(f"{one.label} {one.encoder.title} {one.shots} {one.episode}")
        if one.label == "knn" and one.episode == 0 and one.encoder.image_size is None:
            os._exit(1)  # as the system does where memory runs out
        return run_columns(one)

    monkeypatch.setattr(runner, "decode", read)
    monkeypatch.setattr(runner, "frozen_features", encode)
    monkeypatch.setattr(runner, "do_run", work)
    monkeypatch.setattr(runner, "SECONDS_BETWEEN_TABLES", 0.0)
    return log


@pytest.mark.usefixtures("shared_ray")
def test_work_is_shared_and_what_fails_is_a_row(
    suite_file: Path, tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real scheduler with stand-ins for the work."""
    out = tmp_path / "out"
    seen: list[tuple[str, int, int]] = []
    readable: list[int] = []

    def progress(*now: Any) -> None:
        seen.append(now)
        if (out / "results.parquet").exists():
            readable.append(len(pd.read_parquet(out / "results.parquet")))

    encoders = [{"name": "embedded"}, {"name": "embedded", "image_size": 32}]
    suite = read_suite(str(suite_file), encoders=encoders)
    rows = run_suite(suite, out, workers=1, progress=progress)
    assert len(rows) == 24
    bad = rows[rows.error != ""]
    assert set(zip(bad.label, bad.episode, strict=True)) == {("knn", "0")}
    assert len(bad) == 2
    assert (bad.attempts == 2).all()
    assert bad.error.str.contains("Traceback").all()
    lines = log.read_text().splitlines()
    good = [line for line in lines if "linear" in line or line.endswith(("1", "2"))]
    assert len(good) == len(set(good)) == 20, "no run is done twice"
    assert sum(line.startswith("knn") and line.endswith(" 0") for line in lines) == 2 * 2 + 2
    # once each, and once more after each of the two runs whose worker died twice
    assert lines.count("encoded embedded") + lines.count("encoded embedded, 32 pixels") <= 2 + 4
    assert [done for _, done, _ in seen] == list(range(25))
    assert seen[-1][0] == "runs (2 failed)"
    assert set(range(1, 20)) < set(readable), "results can be read while it runs"

    before = len(lines)
    assert len(run_suite(suite, out, workers=1)) == 24, "what failed is not done again by itself"
    assert len(log.read_text().splitlines()) == before
    monkeypatch.setattr(runner, "do_run", lambda one, data, features: run_columns(one))
    again = run_suite(suite, out, workers=1, retry=True)
    assert (again.error == "").all()
    assert log.read_text().splitlines()[before:] == ["decoded", "encoded embedded"]

    other = read_suite(str(suite_file), encoders=encoders, recipe="paper")
    with pytest.raises(InputError, match="holds another run of linear on colon"):
        run_suite(other, out)


def test_data_that_cannot_be_read_are_told_before_anything_runs(
    suite_file: Path, tmp_path: Path
) -> None:
    suite = read_suite(str(suite_file), data={"mine": "no-such.csv"})
    with pytest.raises(InputError, match="no-such.csv"):
        run_suite(suite, tmp_path / "out")
    suite = read_suite(str(suite_file), data={"mine": "phantoms:colon:many"})
    with pytest.raises(InputError, match="phantoms:TASK:PATIENTS"):
        run_suite(suite, tmp_path / "out")


@pytest.mark.usefixtures("shared_ray")
def test_a_table_that_changed_is_not_mixed_with_what_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = write_phantoms(
        make_phantoms("colon", patients=4, images_per_patient=1, size=32), tmp_path / "data"
    )
    suite = read_suite("local", data={"mine": str(table)}, methods={"knn": None}, shots=[1],
                       episodes=1)  # fmt: skip
    monkeypatch.setattr(runner, "do_run", lambda one, data, features: run_columns(one))
    out = tmp_path / "out"
    (row,) = run_suite(suite, out, workers=1).to_dict("records")
    assert run_suite(suite, out).to_dict("records") == [row]
    text = table.read_text()
    swapped = text.replace("normal", "?").replace("tumour", "normal").replace("?", "tumour")
    assert swapped != text
    table.write_text(swapped)
    with pytest.raises(InputError, match="knn on mine from before its table"):
        run_suite(suite, out)


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("shared_ray")
def test_a_benchmark_killed_in_the_middle_goes_on(
    suite_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The first run is a process that is killed; the same command then ends in this one."""
    out = tmp_path / "out"
    command = ["bench", str(suite_file), "--out", str(out), "--workers", "1", "--episodes", "2",
               "--json"]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "medept", *command], start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    finished = out / "runs"
    deadline = time.monotonic() + 240
    try:
        while len(list(finished.glob("[!.]*.json"))) < 2:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    before = {file.name: file.stat().st_mtime_ns for file in finished.glob("[!.]*.json")}
    capfd.readouterr()
    assert run(*command) == 0
    assert json.loads(capfd.readouterr().out) == {"out": str(out), "runs": 8, "failed": 0}
    after = {file.name: file.stat().st_mtime_ns for file in finished.glob("[!.]*.json")}
    assert len(after) == 8
    assert {name: after[name] for name in before} == before, "what was done is not done again"
    rows = pd.read_parquet(out / "results.parquet")
    assert sorted(f"{name}.json" for name in rows.id) == sorted(after)
    assert rows.balanced_accuracy.between(0, 1).all()
    for column in ("run", "encoder_sha256", "versions", "commit", "seconds", "peak_memory_mb"):
        assert rows[column].notna().all(), column
    again = rows[rows.label == "linear"].groupby(["shots", "episode"]).size()
    assert (again == 1).all()


@pytest.mark.usefixtures("shared_ray")
def test_the_command_says_that_runs_failed(
    suite_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Exit code 1, after every table is written; so a script that goes on stops."""
    broken, out = tmp_path / "broken.safetensors", tmp_path / "out"
    broken.write_bytes(b"no weights")
    encoders = f"- name: embedded\n- {{name: vit_tiny_patch16_224, weights: {broken}}}"
    suite_file.write_text(f"{suite_file.read_text()}encoders:\n{encoders}\n")
    command = ["bench", suite_file, "--out", out, "--method", "knn", "--episodes", "1",
               "--set", "shots=[1]", "--workers", "1"]  # fmt: skip
    assert run(*command) == 1
    told = capfd.readouterr().err
    assert "1 of 2 runs failed, the first of them knn on colon" in told
    assert "broken.safetensors: not a readable safetensors file" in told
    assert f"{out}/results.parquet. --retry runs them again" in told
    assert sorted(pd.read_parquet(out / "results.parquet").error != "") == [False, True]
    assert run("report", out) == 0
    assert "broken.safetensors" in (out / "report.html").read_text()
    assert run(*command, "--json") == 1, "it failed before, and was not done again"
    assert json.loads(capfd.readouterr().out)["failed"] == 1
