"""The report of a benchmark: tables beside the paper's, and figures."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from helpers import Page, run

from medept.benchmark.results import read_rows
from medept.benchmark.scores import means, scores


def test_tables_stand_beside_the_papers(finished: Path) -> None:
    assert run("report", str(finished)) == 0
    mean, spread = means(scores(pd.read_parquet(finished / "results.parquet"), as_in_paper=True))
    page = Page((finished / "report.html").read_text())
    task = ("medfmc-colon", "5")
    cell = f"{100 * mean.loc['ept', task]:.1f} ± {100 * spread.loc['ept', task]:.1f}"
    assert cell in page.row("ept", 9)
    runs = pd.read_parquet(finished / "results.parquet").query("label == 'ept' and error == ''")
    column = runs["map"].fillna(runs.accuracy)
    variances = column.groupby([runs.data, runs.shots, runs.episode]).var()
    assert page.row("ept", 9)[-1] == f"± {100 * variances.mean() ** 0.5:.1f}"
    assert page.row("ept (paper)", 9)[:4] == ["12.7", "16.2", "75.3", "83.3"]
    text = (finished / "tables.md").read_text()
    assert cell in text
    rows = [line for line in (finished / "tables.tex").read_text().splitlines() if " & " in line]
    assert {line.count(" & ") for line in rows if line.startswith(("ept &", "ept ("))} == {8, 3}
    assert "12.7 & 16.2 & 75.3 & 83.3" in (finished / "tables.tex").read_text()
    html = (finished / "report.html").read_text()
    assert "NoLuck: &lt;b&gt;none&lt;/b&gt;" in html
    assert all(uri.startswith("data:image/") for uri in page.loaded)
    assert (finished / "figures" / "figure3.png").exists()
    assert page.row("ept (paper)", 9)[4:] == ["46.9", "+5.2 %", "1.2", ""]  # of these four tasks


@pytest.mark.parametrize("table", ["fig4", "fig5", "fig6", "fig7"])
def test_each_figure_of_the_paper_is_drawn(finished: Path, table: str) -> None:
    suite = json.loads((finished / "suite.json").read_text()) | {"table": table}
    (finished / "suite.json").write_text(json.dumps(suite))
    for file in (finished / "runs").glob("*.json"):
        row = json.loads(file.read_text())
        lengths = {"linear": {}, "ept": {"length": 10}, "vpt": {"length": 50}, "lora": {}}
        file.write_text(json.dumps(row | {"settings": json.dumps(lengths[row["label"]])}))
    assert run("report", str(finished)) == 0
    assert (finished / "figures" / f"figure{table[-1]}.png").stat().st_size > 10_000


@pytest.mark.parametrize("table", ["fig4", "fig5"])
def test_a_figure_of_which_nothing_is_there_yet_is_left_out(finished: Path, table: str) -> None:
    """As while it runs: of linear no lengths, and of no method all shots."""
    suite = json.loads((finished / "suite.json").read_text()) | {"table": table}
    (finished / "suite.json").write_text(json.dumps(suite))
    for file in (finished / "runs").glob("*.json"):
        row = json.loads(file.read_text())
        early = row["label"] == "linear"
        if table == "fig5":
            early = (row["label"], row["shots"]) in (("linear", 1), ("ept", 5))
        if not early or row["error"]:
            file.unlink()
    assert run("report", str(finished)) == 0
    assert not (finished / "figures").exists()
    assert (finished / "tables.md").exists()


def test_figure_5s_means_stand_beside_the_papers(finished: Path) -> None:
    suite = json.loads((finished / "suite.json").read_text()) | {"table": "fig5"}
    (finished / "suite.json").write_text(json.dumps(suite))
    assert run("report", str(finished)) == 0
    page = Page((finished / "report.html").read_text())
    assert page.row("concat (paper)", 6)[:2] == ["15.7", "81.0"]


def test_table_3_is_change_against_frozen_prompts(finished: Path) -> None:
    """The paper's: -2.63 (chest) and -3.09 (colon) for linear at 1 shot, +2.71 for VPT's colon."""
    suite = json.loads((finished / "suite.json").read_text()) | {"table": "table3"}
    (finished / "suite.json").write_text(json.dumps(suite))
    names = {"linear": "linear", "ept": "vpt, frozen", "vpt": "vpt", "lora": "lora"}
    for file in (finished / "runs").glob("*.json"):
        row = json.loads(file.read_text())
        file.write_text(json.dumps(row | {"label": names[row["label"]]}))
    assert run("report", str(finished)) == 0
    page = Page((finished / "report.html").read_text())
    theirs = page.row("linear against vpt, frozen (paper)", 6)
    assert [theirs[0], theirs[2]] == ["-2.6 %", "-3.1 %"]
    assert page.row("vpt against vpt, frozen (paper)", 6)[2] == "+2.7 %"
    runs = pd.DataFrame(read_rows(finished))
    colon = runs[(runs.data == "medfmc-colon") & (runs.shots == 5)].groupby("label").accuracy.mean()
    ours = 100 * (colon["vpt"] / colon["vpt, frozen"] - 1)
    assert page.row("vpt against vpt, frozen", 6)[3] == f"{ours:+.1f} %"


def test_a_folder_without_a_benchmark_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("report", str(tmp_path)) == 2
    (tmp_path / "suite.json").write_text("{")
    assert run("report", str(tmp_path)) == 2
    assert "damaged" in capsys.readouterr().err
