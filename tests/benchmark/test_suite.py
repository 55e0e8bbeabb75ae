"""Suites: those that ship, those of the results, and what is wrong with others."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from helpers import ROOT

from medept.benchmark.suite import Suite, read_suite, shipped_names
from medept.errors import InputError
from medept.methods import METHODS

OWN_SUITES = sorted(ROOT.glob("benchmarks/suites/*.yaml"))


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
    with pytest.raises(InputError, match="two of its encoders have the same title"):
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
    with pytest.raises(InputError, match="data=medfmc-colon=PATH"):
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
    with pytest.raises(InputError, match=r"say which with encoder= \(embedded, some_vit\)"):
        two.with_encoders(weights, None)
    with pytest.raises(InputError, match="'embedded', which has its own"):
        read_suite("quick").with_encoders(weights, None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shots": []}, "shots"),
        ({"encoders": []}, "encoders"),
        ({"methods": {}}, "methods"),
        ({"shots": [0]}, "shots=0"),
        ({"precision": "auto"}, "precision"),
        ({"repeats": 0}, "repeats"),
        ({"magic": 1}, "magic"),
        ({"recipe": "magic"}, "no recipe is named 'magic'"),
        ({"methods": {"ept": {"method": "ept", "settings": {"lenght": 3}}}}, "lenght"),
        ({"methods": {"ept": {"method": "ept", "recipe": {"lr": -1}}}}, "lr"),
        ({"methods": {"ept": {"method": "ept", "recipe": {"speed": 1}}}}, "speed: not known"),
        ({"methods": {"ept": {"method": "ept", "pool": "attention"}}}, "is learnt"),
        ({"methods": {"ept": {"method": "ept", "pool": "median"}}}, "use one of"),
        ({"data": {"x": {"path": "a.csv", "labels": "dx"}}}, "labels"),
    ],
)
def test_what_a_suite_cannot_be_is_told_before_anything_runs(changes: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_suite("quick", **changes).runs()


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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("title: x\ndata: " + "[" * 5000, "can be read"),
        ("title: x\nepisodes: " + "9" * 5000, "can be read"),
        (
            "title: x\ndata: {medmnist-path: " + "x" * 5000 + "}\nmethods: {knn: null}",
            "not a usable path",
        ),
        ('title: x\ndata: {a: "x\\0y"}\nmethods: {knn: null}', "not a usable path"),
        (
            'title: x\ndata: {a: {path: x, image_root: "y\\0"}}\nmethods: {knn: null}',
            "not a usable",
        ),
        (
            "title: x\ndata: {}\nmethods: {knn: null}\nencoders: [{name: vit, weights: "
            + "x" * 5000
            + "}]",
            "no such file of weights",
        ),
    ],
)
def test_what_no_suite_can_be_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(InputError, match=message):
        read_suite(str(tmp_path / "s.yaml"))


@pytest.mark.parametrize("changes", [{"episodes": 10**9}, {"episodes": 2**70}, {"repeats": 10**6}])
def test_more_runs_than_anybody_waits_for_are_refused(changes: dict[str, int]) -> None:
    suite = read_suite("quick", **changes)
    with pytest.raises(InputError, match="at most 100,000"):
        suite.runs()
    with pytest.raises(InputError, match="at most 100,000"):
        suite.part(episodes=1)
