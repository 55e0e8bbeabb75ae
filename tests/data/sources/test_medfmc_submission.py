"""The challenge's submission files: written, read, scored, and refused by row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import shared_data
from samples import small_colon
from typer.testing import CliRunner

from medept import InputError
from medept.cli import app
from medept.data.sources import SOURCES

TASKS = {"chest": (19, 95, 190), "colon": (30, 234, 512), "endo": (46, 174, 422)}
"""Lines of the official lists of exp1 with 1, 5 and 10 shots."""


def test_a_submission_is_written_and_scored_by_the_commands(tmp_path: Path) -> None:
    folder = small_colon(tmp_path / "colon", studies=4)
    source, run = f"medfmc-colon:{folder}", CliRunner().invoke
    fit = ["fit", source, "--out", str(tmp_path / "fit"), "--shots", "1", "--episode", "exp2"]
    done = run(app, [*fit, "--method", "prototype"])
    assert done.exit_code == 0, done.output
    for names, file in {"test_WithoutLabel.txt": "a.csv", "test_WithLabel.txt": "b.csv"}.items():
        command = ["predict", str(tmp_path / "fit"), source, "--format", "medfmc", "--list", names]
        done = run(app, [*command, "--out", str(tmp_path / file)])
        assert done.exit_code == 0, done.output
    written = pd.read_csv(tmp_path / "a.csv", header=None)
    assert written[0].tolist() == (folder / "test_WithoutLabel.txt").read_text().splitlines()
    assert np.allclose(written[[1, 2]].sum(axis=1), 1, atol=1e-6)
    command = ["evaluate", source, str(tmp_path / "b.csv"), "--format", "medfmc", "--json"]
    scored = run(app, command)
    direct = run(app, ["evaluate", str(tmp_path / "fit"), source, "--json"])
    assert scored.exit_code == direct.exit_code == 0, scored.output
    import json

    values = json.loads(scored.stdout)[str(tmp_path / "b.csv")]
    expected = json.loads(direct.stdout)
    for name in ("accuracy", "auroc", "brier"):
        assert values[name]["value"] == pytest.approx(expected[name]["value"], abs=1e-6)


def test_the_sample_submissions_have_the_form_that_is_written() -> None:
    samples = shared_data("data", "medfmc-annotations", "sample-submission")
    for task in TASKS:
        table = pd.read_csv(samples / f"{task}_5-shot_submission.csv", header=None)
        listed = shared_data("data", "medfmc-annotations", task) / "test_WithoutLabel.txt"
        names = listed.read_text().splitlines()
        assert table[0].tolist() == names[: len(table)]
        assert table.shape[1] - 1 == len(SOURCES[f"medfmc-{task}"].classes)  # type: ignore[attr-defined]


def test_a_bad_submission_names_its_row(tmp_path: Path) -> None:
    source, run = f"medfmc-colon:{small_colon(tmp_path / 'colon')}", CliRunner().invoke
    names = (tmp_path / "colon" / "test_WithLabel.txt").read_text().splitlines()
    rows = [f"{name.rsplit(' ', 1)[0]},0.25,0.75" for name in names]
    for change, message in {
        "x.png,0.5": "row 2: give an image's name and 2 probabilities",
        "x.png,0.5,nan": "row 2",
        "x.png,1.5,0.5": "row 2",
        "x.png,0.5,0.5": "1 of 18 labelled images are missing",
        rows[1].replace("0.75", "0.85"): "do not sum to 1",
    }.items():
        (tmp_path / "s.csv").write_text("\n".join([rows[0], change, *rows[2:]]))
        done = run(app, ["evaluate", source, str(tmp_path / "s.csv"), "--format", "medfmc"])
        assert isinstance(done.exception, InputError)
        assert message in str(done.exception)
