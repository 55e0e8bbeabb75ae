"""`medept episodes`, `check` and `phantoms`: what they write and what they refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from medept import cli


def test_episodes_are_written_for_others_and_fit_uses_them(tmp_path: Path) -> None:
    run, app = CliRunner().invoke, cli.app
    tiles = tmp_path / "tiles"
    run(app, ["phantoms", "colon", "--out", str(tiles), "--patients", "8"])
    table, out = str(tiles / "labels.csv"), tmp_path / "lists"
    options = ["--shots", "1", "--shots", "20%", "--episodes", "2", "--json"]
    done = run(app, ["episodes", table, "--out", str(out), *options])
    assert done.exit_code == 0, done.output
    lists = json.loads(done.stdout)["lists"]
    assert set(lists) == {f"{s}_train_exp{n}.txt" for s in ("1-shot", "20-percent") for n in (1, 2)}
    chosen = out / "1-shot_train_exp2.txt"
    fit = ["fit", table, "--method", "prototype", "--out", str(tmp_path / "fit")]
    done = run(app, [*fit, "--episode", str(chosen)])
    assert done.exit_code == 0, done.output
    support = pd.read_csv(tmp_path / "fit" / "support.csv")["image"].tolist()
    test_list = str(chosen).replace("_train_", "_test_")
    done = run(app, [*fit[:-1], str(tmp_path / "wrong"), "--episode", test_list])
    assert f"lists test images; give the list of the support set, {chosen}" in str(done.exception)
    assert support == [line.rsplit(" ", 1)[0] for line in chosen.read_text().splitlines()]
    again = run(app, ["fit", table, "--out", str(tmp_path / "other"), "--episode", "exp9"])
    assert "medept episodes" in str(again.exception)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "TABLE", "--out", "TABLE_FOLDER"], "exists already"),
        (["phantoms", "colon", "--size", "1000000"], "at most 4096"),
    ],
)
def test_refusals_of_data(refuses: Callable[..., None], arguments: list[str], message: str) -> None:
    refuses(arguments, message)
