"""The paper's suite on MedFMC's official support sets, from the command to the paper's table."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any
from unittest import mock

import pandas as pd
import pytest
from helpers import Page, run, shared_data

from medept import FewShotClassifier
from medept.benchmark import runner
from medept.benchmark.paper import paper_values
from medept.benchmark.run import Run
from medept.benchmark.scores import means, scores
from medept.benchmark.worker import do_run
from medept.phantoms import make_phantoms, write_phantoms

pytest.importorskip("ray")

TASKS = ("chest", "colon", "endo")


def official(task: str, folder: Path) -> Path:
    """The official lists of a task, with drawn pictures under their names.

    Of the images to test on every third is left, as encoding ten thousand takes long.
    """
    shutil.copytree(shared_data("data", "medfmc-annotations", task), folder)
    tested = folder / "test_WithLabel.txt"
    tested.write_text("".join(tested.read_text().splitlines(keepends=True)[::3]))
    drawn = make_phantoms(task, patients=8, images_per_patient=1, size=32)
    write_phantoms(drawn, folder / "drawn")
    pictures = sorted((folder / "drawn").rglob("*.png"))
    (folder / "images").mkdir()
    for file in ("trainval.txt", "test_WithLabel.txt"):
        for i, name in enumerate(names_in(folder / file)):
            os.link(pictures[i % len(pictures)], folder / "images" / name)
    return folder


def names_in(file: Path) -> list[str]:
    return [line[: line.index(".png") + 4] for line in file.read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.timeout(1200)  # six runs on ten thousand pictures
def test_the_papers_table_on_the_official_support_sets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real lists and drawn pictures: what is learnt from and tested on is what the lists say."""
    folders = {task: official(task, tmp_path / "MedFMC" / task) for task in TASKS}
    log, out = tmp_path / "log", tmp_path / "out"
    log.mkdir()

    def noting(one: Run, data: Any, features: Any) -> dict[str, Any]:
        fit, predict = FewShotClassifier.fit, FewShotClassifier.predict_proba
        seen: dict[str, list[str]] = {}

        def note(what: str, images: Any) -> None:
            seen[what] = [Path(image).name for image in images]

        def fit_(self: Any, X: Any, *rest: Any, **options: Any) -> Any:
            note("support", X)
            return fit(self, X, *rest, **options)

        def predict_(self: Any, X: Any) -> Any:
            note("test", X)
            return predict(self, X)

        with mock.patch.multiple(FewShotClassifier, fit=fit_, predict_proba=predict_):
            row = do_run(one, data, features)
        (log / f"{one.id}.json").write_text(json.dumps(seen))
        return row

    monkeypatch.setattr(runner, "do_run", noting)
    monkeypatch.setattr(runner, "decode", lambda data: data)  # images keep their names
    places = [f"--data=medfmc-{task}={tmp_path / 'MedFMC'}" for task in TASKS]
    assert run(
        "bench", "paper-table1", "--out", out, *places, "--method", "linear", "--method", "ept",
        "--episodes", "1", "--set", "shots=[1]", "--set", "repeats=1", "--encoder", "embedded",
        "--image-size", "16",
    ) == 0  # fmt: skip
    rows = pd.read_parquet(out / "results.parquet")
    assert len(rows) == 3 * 2
    for row in rows.itertuples():
        task = row.data.removeprefix("medfmc-")
        listed = names_in(folders[task] / f"{task}_1-shot_train_{row.episode}.txt")
        tested = names_in(folders[task] / "test_WithLabel.txt")
        seen = json.loads((log / f"{row.id}.json").read_text())
        assert seen["support"] == listed
        assert seen.get("test", tested) == tested
        assert ("test" in seen) == (row.label == "ept"), "linear needs the shared features alone"
        assert (row.support, row.test) == (len(listed), len(tested))
    assert run("report", out) == 0
    page = Page((out / "report.html").read_text())
    mean, _ = means(scores(rows, as_in_paper=True))
    for label in ("linear", "ept"):
        for row, values in {label: mean, f"{label} (paper)": paper_values("table1")}.items():
            expected = [100 * values.loc[label, (f"medfmc-{task}", "1")] for task in TASKS]
            assert [cell.split(" ± ")[0] for cell in page.row(row, 7)[:3]] == [
                f"{value:.1f}" for value in expected
            ]
