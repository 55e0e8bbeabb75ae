"""Suites, their runs on Ray (resumed after kill -9), and tables beside the paper's."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import shared_data
from scipy.stats import rankdata, wilcoxon
from test_cli import run
from test_report import Page

from medept.benchmark.comparison import (
    holm,
    means,
    paired_tests,
    paper_seconds,
    paper_values,
    scores,
    summary,
)
from medept.benchmark.runner import write_results
from medept.benchmark.suite import read_suite, shipped_suites
from medept.errors import InputError

SUITE = """
title: Two methods on phantoms
data: {colon: "phantoms:colon"}
methods: {linear: , knn: }
shots: [1, 2]
episodes: 3
"""


def fake_run(
    label: str, data: str, shots: float | None, episode: int, seed: int, **values: object
) -> dict:
    """A row as a run leaves it, of a run that never was."""
    return {
        "id": f"{label}-{data}-{shots}-{episode}-{seed}", "data": data, "encoder": "some ViT",
        "label": label, "method": label, "settings": "{}", "shots": shots, "episode": str(episode),
        "seed": seed, "error": "", "seconds": 2.0, "fit_seconds": 1.5, "peak_memory_mb": 100.0,
        "trainable_parameters": 10, **values,
    }  # fmt: skip


def fake_runs(methods: tuple[str, ...] = ("linear", "ept", "vpt")) -> pd.DataFrame:
    random = np.random.default_rng(0)
    return pd.DataFrame(
        [
            fake_run(
                label,
                data,
                shots,
                episode,
                seed,
                accuracy=None if data == "medfmc-chest" else value,
                balanced_accuracy=None if data == "medfmc-chest" else value - 0.1,
                map=value if data == "medfmc-chest" else None,
            )
            for i, label in enumerate(methods)
            for data in ("medfmc-chest", "medfmc-colon")
            for shots in (1, 5)
            for episode in range(5)
            for seed in range(2)
            for value in [0.5 + 0.02 * i + 0.05 * random.normal()]
        ]
    )


# --- suites ----------------------------------------------------------------------------------


def test_the_papers_suites_name_the_papers_runs() -> None:
    suites = shipped_suites()
    tables = {"table1", "table2", "table3", "table4", "fig3", "fig4", "fig5", "fig6", "fig7", "a5"}
    assert {suite.table for suite in suites.values()} - {None} == tables
    places = {f"medfmc-{name}": "somewhere" for name in ("chest", "colon", "endo")}
    first = read_suite("paper-table1", data=places)
    assert len(first.runs()) == 3 * 3 * 5 * 4 * 10  # data, shots, support sets, repeats, methods
    assert len({one.id for one in first.runs()}) == len(first.runs())
    scale = read_suite("paper-fig3", data=places)
    assert {one.shots for one in scale.runs()} == {1, 5, 10, 0.2, None}


def test_every_method_of_an_episode_sees_the_same_support_set_and_views() -> None:
    suite = read_suite("quick")
    by_episode: dict[tuple, set] = {}
    for one in suite.runs():
        key = one.data, one.shots, one.episode
        by_episode.setdefault(key, set()).add((one.seed, one.recipe, one.tune, one.label))
    assert all(len(found) == len(suite.methods) for found in by_episode.values())
    assert all(len({rest[:3] for rest in found}) == 1 for found in by_episode.values())


def test_a_suite_without_its_data_asks_for_them() -> None:
    with pytest.raises(InputError, match="--data medfmc-colon=PATH"):
        read_suite("paper-a5").runs()


# --- numbers ---------------------------------------------------------------------------------


def test_scores_are_means_over_repeats_of_the_papers_metric() -> None:
    runs = fake_runs()
    table = scores(runs, as_in_paper=True)
    assert dict(zip(table.data, table.metric, strict=True)) == {
        "medfmc-chest": "map",
        "medfmc-colon": "accuracy",
    }
    own = runs[(runs.label == "ept") & (runs.data == "medfmc-colon") & (runs.shots == 5)]
    expected = own.groupby("episode").accuracy.mean().to_numpy()
    chosen = table[(table.label == "ept") & (table.data == "medfmc-colon") & (table.shots == "5")]
    assert chosen.score.to_numpy() == pytest.approx(expected)
    mean, spread = means(table)
    assert mean.loc["ept", ("medfmc-colon", "5")] == pytest.approx(expected.mean())
    assert spread.loc["ept", ("medfmc-colon", "5")] == pytest.approx(expected.std(ddof=1))
    assert set(scores(runs).metric) == {"map", "balanced_accuracy"}


def test_average_change_and_rank() -> None:
    table = scores(fake_runs())
    mean, _ = means(table)
    found = summary(table)
    assert found.average.to_numpy() == pytest.approx(mean.to_numpy().mean(axis=1))
    base = found.average["linear"]
    assert found.change["vpt"] == pytest.approx(100 * (found.average["vpt"] - base) / base)
    ranks = rankdata(-mean.to_numpy(), axis=0).mean(axis=1)
    assert found["rank"].to_numpy() == pytest.approx(ranks)
    short = table[~((table.label == "vpt") & (table.shots == "5"))]
    assert np.isnan(summary(short).average["vpt"]), "a method without all tasks has no average"


def test_differences_are_of_pairs() -> None:
    table = scores(fake_runs())
    tests = paired_tests(table)
    assert len(tests) == 3
    row = tests[(tests.method == "linear") & (tests.against == "ept")].iloc[0]
    wide = table.pivot(index=["data", "shots", "episode"], columns="label", values="score")
    apart = wide.linear - wide.ept
    assert row.pairs == 20
    assert row.difference == pytest.approx(apart.mean())
    assert row.standard_error == pytest.approx(apart.sem())
    assert row.p == pytest.approx(wilcoxon(wide.linear, wide.ept).pvalue)
    assert (tests.p_holm >= tests.p).all()


def test_holms_correction_by_hand() -> None:
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm(np.array([0.9, 0.8])) == pytest.approx([1, 1])


def test_the_papers_numbers_are_those_of_the_paper() -> None:
    facts = json.loads(shared_data("paper", "tables.json").read_text())
    names = facts["columns_medfmc"]
    for table, key in (("table1", "table1_vit_base_patch16_in21k"),
                       ("table2", "table2_vit_large_patch16_in21k")):  # fmt: skip
        for method, row in facts[key].items():
            found = paper_values(table)[method]
            for name, value in zip(names[:9], row[:9], strict=True):
                task, shots = name.rsplit("-", 1)
                assert found[f"medfmc-{task}", shots] == pytest.approx(value / 100)
    assert paper_values("table4")["ept"]["isic2018", "10"] == pytest.approx(0.4465)
    assert paper_seconds("a5")["ept"] == 128
    assert paper_values(None) == {}


# --- pages -----------------------------------------------------------------------------------


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A folder as the benchmark of table 1 leaves it."""
    places = {f"medfmc-{name}": "somewhere" for name in ("chest", "colon", "endo")}
    (tmp_path / "runs").mkdir()
    (tmp_path / "suite.json").write_text(read_suite("paper-table1", data=places).model_dump_json())
    runs = fake_runs().to_dict(orient="records")
    runs.append(
        fake_run("lora", "medfmc-colon", 1, 0, 0) | {"error": "Traceback\nNoLuck: <b>none</b>"}
    )
    for i, row in enumerate(runs):
        clean = {k: None if isinstance(v, float) and np.isnan(v) else v for k, v in row.items()}
        (tmp_path / "runs" / f"{i:03}.json").write_text(json.dumps(clean))
    return tmp_path


def test_tables_stand_beside_the_papers(finished: Path) -> None:
    assert run("report", str(finished)) == 0
    mean, spread = means(scores(pd.read_parquet(finished / "results.parquet"), as_in_paper=True))
    page = Page((finished / "report.html").read_text())
    task = ("medfmc-colon", "5")
    cell = f"{100 * mean.loc['ept', task]:.1f} ± {100 * spread.loc['ept', task]:.1f}"
    assert cell in page.row("ept", 8)
    assert page.row("ept (paper)", 8)[:4] == ["12.7", "16.2", "75.3", "83.3"]
    text = (finished / "tables.md").read_text()
    assert cell in text
    rows = [line for line in (finished / "tables.tex").read_text().splitlines() if " & " in line]
    assert {line.count(" & ") for line in rows if line.startswith(("ept &", "ept ("))} == {7, 3}
    assert "12.7 & 16.2 & 75.3 & 83.3" in (finished / "tables.tex").read_text()
    html = (finished / "report.html").read_text()
    assert "NoLuck: &lt;b&gt;none&lt;/b&gt;" in html
    assert all(uri.startswith("data:image/") for uri in page.loaded)
    assert (finished / "figures" / "figure3.png").exists()


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


def test_a_folder_without_a_benchmark_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("report", str(tmp_path)) == 2
    (tmp_path / "suite.json").write_text("{")
    assert run("report", str(tmp_path)) == 2
    assert "damaged" in capsys.readouterr().err


# --- runs ------------------------------------------------------------------------------------


def test_a_benchmark_killed_in_the_middle_goes_on(tmp_path: Path) -> None:
    (tmp_path / "suite.yaml").write_text(SUITE)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "medept", "bench", str(tmp_path / "suite.yaml"), "--out",
               str(out), "--workers", "1", "--json"]  # fmt: skip
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)  # fmt: skip
    finished = out / "runs"
    deadline = time.monotonic() + 240
    while len(list(finished.glob("[!.]*.json"))) < 2 and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = {file.name: file.stat().st_mtime_ns for file in finished.glob("[!.]*.json")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    assert json.loads(done.stdout) == {"out": str(out), "runs": 12, "failed": 0}
    after = {file.name: file.stat().st_mtime_ns for file in finished.glob("[!.]*.json")}
    assert len(after) == 12
    assert {name: after[name] for name in before} == before, "what was done is not done again"
    rows = pd.read_parquet(out / "results.parquet")
    assert sorted(f"{name}.json" for name in rows.id) == sorted(after)
    assert rows.balanced_accuracy.between(0, 1).all()
    for column in ("run", "encoder_sha256", "versions", "commit", "seconds", "peak_memory_mb"):
        assert rows[column].notna().all(), column
    again = rows[rows.label == "linear"].groupby(["shots", "episode"]).size()
    assert (again == 1).all()


def test_a_run_that_fails_is_a_failed_row(tmp_path: Path) -> None:
    (tmp_path / "suite.yaml").write_text(
        SUITE.replace("episodes: 3", "episodes: 1").replace("shots: [1, 2]", "shots: [1]")
        + "encoders: [{name: vit_tiny_patch16_224, weights: no-such-file.safetensors}]\n"
    )
    out = tmp_path / "out"
    assert run("bench", str(tmp_path / "suite.yaml"), "--out", str(out), "--workers", "1") == 0
    rows = write_results(out)
    assert len(rows) == 2
    assert rows.error.str.contains("no-such-file.safetensors").all()
    assert (rows.attempts == 2).all()
