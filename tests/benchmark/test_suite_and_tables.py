"""Suites, the tables of their runs beside the paper's, and figures."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from helpers import ROOT, Page, run, shared_data
from scipy.stats import rankdata, wilcoxon

from medept.benchmark.results import read_rows, write_results
from medept.benchmark.scores import (
    holm,
    means,
    over_shots,
    paired_tests,
    paper_seconds,
    paper_values,
    scores,
    summary,
)
from medept.benchmark.suite import Suite, read_suite, shipped_names
from medept.errors import InputError
from medept.methods import METHODS


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


OWN_SUITES = sorted(ROOT.glob("benchmarks/suites/*.yaml"))


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
    suites = {name: read_suite(name) for name in shipped_names()}
    assert {*suites} >= {"quick", "local"}
    tables = {"table1", "table2", "table3", "table4", "fig3", "fig4", "fig5", "fig6", "fig7", "a5"}
    assert {suite.table for suite in suites.values()} - {None} == tables
    places = {f"medfmc-{name}": "somewhere" for name in ("chest", "colon", "endo")}
    first = read_suite("paper-table1", data=places)
    assert len(first.runs()) == 3 * 3 * 5 * 4 * 10  # data, shots, support sets, repeats, methods
    assert len({one.id for one in first.runs()}) == len(first.runs())
    scale = read_suite("paper-fig3", data=places)
    assert {one.shots for one in scale.runs()} == {1, 5, 10, 0.2, None}


def test_a_run_by_defaults_that_have_changed_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a benchmark gone on with would mix recipes under one name."""
    suite = read_suite("quick")
    before = {run.label: run.id for run in suite.runs()}
    assert before == {run.label: run.id for run in suite.runs()}
    monkeypatch.setattr(METHODS["ept"], "recipe", METHODS["ept"].recipe | {"encoder_lr": 0.5})
    after = {run.label: run.id for run in suite.runs()}
    changed = {label for label in before if before[label] != after[label]}
    methods = {run.label for run in suite.runs() if run.method.method == "ept"}
    assert changed == methods != set(before)


def test_encoders_of_one_name_and_other_weights_are_told_apart(tmp_path: Path) -> None:
    for place in ("a.safetensors", "b.safetensors", "sub/a.safetensors"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_bytes(b"")

    def suite(*files: str) -> Suite:
        return read_suite("quick", encoders=[
            {"name": "vit_tiny_patch16_224", "weights": str(tmp_path / file)} for file in files
        ])  # fmt: skip

    titles = {run.encoder.title for run in suite("a.safetensors", "b.safetensors").runs()}
    assert titles == {f"vit_tiny_patch16_224, {name}.safetensors" for name in "ab"}
    with pytest.raises(InputError, match="two of its encoders would be shown alike"):
        suite("a.safetensors", "sub/a.safetensors").runs()


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


def test_paths_in_a_suite_are_relative_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "labels.csv").touch()
    (folder / "w.safetensors").touch()
    (folder / "suite.yaml").write_text(
        "title: mine\n"
        "data:\n  a: labels.csv\n  b: {path: labels.csv, group_column: who, image_root: .}\n"
        "  colon: phantoms:colon\n"
        "encoders: [{name: some_vit, weights: w.safetensors}, {name: some_vit, weights: random}]\n"
        "methods: {linear: }\n"
    )
    monkeypatch.chdir(tmp_path)
    suite = read_suite("mine/suite.yaml", data={"c": "mine/labels.csv"})
    places = {run.data: run.source.path for run in suite.runs()}
    there = str(folder / "labels.csv")
    assert places == {"a": there, "b": there, "c": there, "colon": "phantoms:colon"}
    assert suite.data["b"] is not None
    assert suite.data["b"].group_column == "who"
    assert suite.data["b"].image_root == str(folder)
    assert [encoder.weights for encoder in suite.encoders] == [
        str(folder / "w.safetensors"), "random"
    ]  # fmt: skip
    assert len({run.encoder.title for run in suite.runs()}) == 2
    (folder / "w.safetensors").unlink()
    with pytest.raises(InputError, match="w.safetensors: no such file"):
        read_suite("mine/suite.yaml")


def test_a_part_of_a_suite() -> None:
    suite = read_suite(
        "paper-a5", episodes=["exp1", "exp2"], data={"medfmc-colon": "phantoms:colon"}
    )
    part = suite.part(methods=["ept"], episodes=1)
    assert [(run.label, run.episode) for run in part.runs()] == [("ept", "exp1")]
    with pytest.raises(InputError, match="no method"):
        suite.part(methods=["magic"])
    with pytest.raises(InputError, match="it has 2 episodes"):
        suite.part(episodes=3)


def test_weights_and_size_are_of_the_suites_encoder(tmp_path: Path) -> None:
    suite = read_suite("paper-a5", data={"medfmc-colon": "phantoms:colon"})
    (named,) = {run.encoder.name for run in suite.runs()}
    weights = tmp_path / "w.safetensors"
    weights.touch()
    (other,) = suite.with_encoders(weights, 112).encoders
    assert (other.name, other.weights, other.image_size) == (named, str(weights), 112)
    two = read_suite("quick", encoders=[{"name": "embedded"}, {"name": "some_vit"}])
    assert [e.image_size for e in two.with_encoders(None, 32).encoders] == [32, 32]
    with pytest.raises(InputError, match=r"say with --encoder of which \(embedded, some_vit\)"):
        two.with_encoders(weights, None)
    with pytest.raises(InputError, match="'embedded', which has its own"):
        read_suite("quick").with_encoders(weights, None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shots": []}, "shots"),
        ({"encoders": []}, "encoders"),
        ({"methods": {}}, "methods"),
        ({"shots": [0]}, "shots 0"),
        ({"precision": "auto"}, "precision"),
        ({"repeats": 0}, "repeats"),
        ({"magic": 1}, "magic"),
        ({"recipe": "magic"}, "no recipe is named 'magic'"),
        ({"methods": {"ept": {"method": "ept", "settings": {"lenght": 3}}}}, "lenght"),
        ({"methods": {"ept": {"method": "ept", "recipe": {"lr": -1}}}}, "lr"),
        ({"methods": {"ept": {"method": "ept", "recipe": {"speed": 1}}}}, "speed: not known"),
        ({"data": {"x": {"path": "a.csv", "labels": "dx"}}}, "labels"),
    ],
)
def test_what_a_suite_cannot_be_is_told_before_anything_runs(changes: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_suite("quick", **changes).runs()


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
    found = summary(mean)
    assert found.average.to_numpy() == pytest.approx(mean.to_numpy().mean(axis=1))
    base = found.average["linear"]
    assert found.change["vpt"] == pytest.approx(100 * (found.average["vpt"] - base) / base)
    ranks = rankdata(-mean.to_numpy(), axis=0).mean(axis=1)
    assert found["rank"].to_numpy() == pytest.approx(ranks)
    short = table[~((table.label == "vpt") & (table.shots == "5"))]
    assert np.isnan(summary(means(short)[0]).average["vpt"]), (
        "a method without all tasks has no average"
    )


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
    assert (row.ahead, row.behind) == ((apart > 0).sum(), (apart < 0).sum())
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
            found = paper_values(table).loc[method]
            for name, value in zip(names[:9], row[:9], strict=True):
                task, shots = name.rsplit("-", 1)
                assert found[f"medfmc-{task}", shots] == pytest.approx(value / 100)
    assert paper_values("table4").loc["ept", ("isic2018", "10")] == pytest.approx(0.4465)
    ways = facts["fig5_embedding_way_average_of_3_shots"]
    for method in ("linear", "concat", "add"):
        found = paper_values("fig5").loc[method]
        for name, value in zip(ways["columns"], ways[method], strict=True):
            assert found[f"medfmc-{name}", "mean"] == pytest.approx(value / 100)
    frozen = paper_values("table3").loc["vpt, frozen"]
    assert frozen["medfmc-colon", "5"] == pytest.approx(0.8178)
    assert paper_seconds("a5")["ept"] == 128


def test_phantoms_do_not_stand_beside_the_papers_data() -> None:
    assert paper_values(None).empty
    found = paper_values("table1", drawn={"medfmc-colon"})
    assert set(found.columns.get_level_values(0)) == {"medfmc-chest", "medfmc-endo"}


@pytest.mark.parametrize("file", OWN_SUITES, ids=lambda file: file.stem)
def test_suites_of_the_results_can_be_read(file: Path) -> None:
    named = yaml.safe_load(file.read_text())["data"]
    drawn = {name: "phantoms:colon:6" for name, place in named.items() if place is None}
    suite = read_suite(str(file), data=drawn)
    assert len({run.id for run in suite.runs()}) == len(suite.runs()) > 30


@pytest.mark.parametrize("file", OWN_SUITES, ids=lambda file: file.stem)
def test_tables_of_the_results_are_of_methods_that_their_suite_has(file: Path) -> None:
    """Every row of every table between the first mention of a suite and that of the next."""
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    parts = re.split(r"([a-z0-9-]+)\.yaml", text)
    methods = set(yaml.safe_load(file.read_text())["methods"])
    found = set()
    for name, part in zip(parts[1::2], parts[2::2], strict=True):
        tables = re.findall(r"^\| method \|.*\n\| ---.*\n((?:\|.*\n)+)", part, flags=re.M)
        if name == file.stem:
            found |= {row.split("|")[1].strip() for rows in tables for row in rows.splitlines()}
    assert found
    assert found <= methods, found - methods


def test_means_over_shots_leave_out_who_has_not_all() -> None:
    table = scores(fake_runs())
    found = over_shots(table).set_index(["data", "label", "episode"]).score
    expected = table.groupby(["data", "label", "episode"]).score.mean()
    pd.testing.assert_series_equal(found.sort_index(), expected.sort_index())
    short = table[~((table.label == "vpt") & (table.shots == "5") & (table.episode == "3"))]
    assert len(over_shots(short)) == len(found) - 2  # one of each data set


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


def test_what_a_kill_left_half_written_is_passed_over(finished: Path) -> None:
    count = len(read_rows(finished))
    (finished / "runs" / ".partial-0123.json").write_text('{"id": "01')
    assert len(write_results(finished)) == count == len(list((finished / "runs").glob("[!.]*")))
    for damaged in ('{"id": "01', "{}", "3"):
        (finished / "runs" / "0123.json").write_text(damaged)
        with pytest.raises(InputError, match="0123.json: damaged"):
            read_rows(finished)


def test_a_folder_without_a_benchmark_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("report", str(tmp_path)) == 2
    (tmp_path / "suite.json").write_text("{")
    assert run("report", str(tmp_path)) == 2
    assert "damaged" in capsys.readouterr().err
