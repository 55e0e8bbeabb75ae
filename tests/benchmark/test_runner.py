"""A suite's runs on Ray: shared work, failures, kill -9, fairness, and a real ViT-B/16."""

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
import psutil
import pytest
import torch
from helpers import run

from medept import FewShotClassifier
from medept.benchmark import runner
from medept.benchmark.run import Run
from medept.benchmark.runner import run_suite
from medept.benchmark.suite import read_suite
from medept.benchmark.worker import decode, do_run, frozen_features, run_columns
from medept.encoders.load import load_encoder
from medept.episodes.draw import draw_episode
from medept.errors import InputError
from medept.evaluation import evaluate
from medept.methods import METHODS, adapt
from medept.phantoms import make_phantoms, write_phantoms
from medept.training import loop
from medept.training.plan import Inputs
from medept.training.recipes import make_recipe

ray = pytest.importorskip("ray")

SUITE = """
title: Two methods on phantoms
data: {colon: "phantoms:colon:12"}
methods: {linear: , knn: }
shots: [1, 2]
episodes: 3
"""


@pytest.fixture
def suite_file(tmp_path: Path) -> Path:
    (tmp_path / "suite.yaml").write_text(SUITE)
    return tmp_path / "suite.yaml"


# --- on Ray ----------------------------------------------------------------------------------


def test_work_is_shared_and_what_fails_is_a_row(
    suite_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real scheduler with stand-ins for the work, which write down that they were called."""
    log, out = tmp_path / "log", tmp_path / "out"

    def note(text: str) -> None:
        with log.open("a") as file:
            file.write(text + "\n")

    def read(data: Any) -> Any:
        note("decoded")
        return data

    def encode(data: Any, encoder: Any, precision: str) -> np.ndarray:
        note(f"encoded {encoder.title}")
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


def test_ray_that_does_not_start_in_time_is_started_again() -> None:
    class Slow:
        starts = ends = 0

        def init(self, **_: Any) -> None:
            self.starts += 1
            if self.starts < 3:
                raise Exception("The current node timed out during startup. This could happen")

        def shutdown(self) -> None:
            self.ends += 1

    slow = Slow()
    runner._start(slow, "local", {})
    assert (slow.starts, slow.ends) == (3, 2)
    slow.starts = -9
    with pytest.raises(InputError, match="too busy; give the same command again"):
        runner._start(slow, "local", {})


def test_ray_outlasts_a_pause_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked whether it is alive each tenth of a second, and stopped for much longer than that."""
    hasty = {
        "health_check_period_ms": 100,
        "health_check_timeout_ms": 100,
        "health_check_initial_delay_ms": 0,
        "raylet_liveness_self_check_interval_ms": 200,
    }
    monkeypatch.setattr(runner, "PATIENT", hasty | runner.PATIENT)
    with runner._ray(None, 1) as started:
        task = started.remote(lambda: 1)
        assert started.get(task.remote()) == 1
        raylet = next(p for p in psutil.Process().children() if p.name() == "raylet")
        raylet.suspend()
        time.sleep(5)
        raylet.resume()
        time.sleep(1)
        assert started.get(task.remote()) == 1


def test_a_cluster_is_joined_by_its_address(
    suite_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two nodes with a core each, both of which have their part."""
    from ray.cluster_utils import Cluster

    log, out = tmp_path / "log", tmp_path / "out"

    def noted(run: Run, data: object, features: object) -> dict[str, Any]:
        with log.open("a") as file:
            file.write(f"{ray.get_runtime_context().get_node_id()}\n")
        time.sleep(0.3)
        return run_columns(run)

    monkeypatch.setattr(runner, "do_run", noted)
    monkeypatch.setattr(runner, "decode", lambda data: data)
    monkeypatch.setattr(runner, "frozen_features", lambda *_: None)
    cluster = Cluster()
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1, include_dashboard=False)
        rows = run_suite(read_suite(str(suite_file)), out, address=cluster.address)
    finally:
        cluster.shutdown()
    assert len(rows) == 12
    assert (rows.error == "").all()
    assert len(set(log.read_text().split())) == 2


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9"])
def test_a_cluster_that_does_not_answer_is_told(
    suite_file: Path, tmp_path: Path, address: str
) -> None:
    with pytest.raises(InputError, match=rf"{address} \(.*refused.*RAY_AUTH_MODE=token"):
        run_suite(read_suite(str(suite_file)), tmp_path / "out", address=address)


def test_data_that_cannot_be_read_are_told_before_anything_runs(
    suite_file: Path, tmp_path: Path
) -> None:
    suite = read_suite(str(suite_file), data={"mine": "no-such.csv"})
    with pytest.raises(InputError, match="no-such.csv"):
        run_suite(suite, tmp_path / "out")
    suite = read_suite(str(suite_file), data={"mine": "phantoms:colon:many"})
    with pytest.raises(InputError, match="phantoms:TASK:PATIENTS"):
        run_suite(suite, tmp_path / "out")


def test_what_no_machine_has_room_for_is_told() -> None:
    class Ray:
        @staticmethod
        def nodes() -> list[dict[str, Any]]:
            return [
                {"Alive": True, "Resources": {"CPU": 8.0}},
                {"Alive": True, "Resources": {"CPU": 2.0, "GPU": 1.0}},
                {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}},
            ]

    runner._check_room(Ray, 8, 0)
    runner._check_room(Ray, 2, 0.25)
    with pytest.raises(InputError, match="there: 8 cores and 0 GPUs; 2 cores and 1 GPUs"):
        runner._check_room(Ray, 4, 1)
    with pytest.raises(InputError, match="64 cores"):
        runner._check_room(Ray, 64, 0)


def test_a_run_with_nothing_to_test_on_fails_before_it_trains() -> None:
    (one,) = read_suite(
        "quick", data={"colon": "phantoms:colon:6"}, shots=["all"], episodes=1,
        methods={"ept": None},
    ).runs()  # fmt: skip
    row = do_run(one, one.source.read(), np.zeros((12, 2)))
    assert (
        row["error"]
        .strip()
        .endswith(
            "colon: all shots leave nothing to test on; ask for fewer, or give it a `split` column"
        )
    )


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
def test_a_benchmark_killed_in_the_middle_goes_on(suite_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "medept", "bench", str(suite_file), "--out",
               str(out), "--workers", "1", "--episodes", "2", "--json"]  # fmt: skip
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)  # fmt: skip
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
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    assert json.loads(done.stdout) == {"out": str(out), "runs": 8, "failed": 0}
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


def test_the_command_says_that_runs_failed(
    suite_file: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Exit code 1, after every table is written; so a script that goes on stops."""
    monkeypatch.setenv("RAY_ADDRESS", "192.0.2.1:6379")  # no cluster is asked unless by --address
    broken, out = tmp_path / "broken.safetensors", tmp_path / "out"
    broken.write_bytes(b"no weights")
    encoders = f"- name: embedded\n- {{name: vit_tiny_patch16_224, weights: {broken}}}"
    suite_file.write_text(f"{SUITE}encoders:\n{encoders}\n")
    command = ["bench", suite_file, "--out", out, "--method", "knn", "--episodes", "1",
               "--set", "shots=[1]", "--workers", "1"]  # fmt: skip
    assert run(*command) == 1
    told = capfd.readouterr().err
    assert "1 of 2 runs failed, the first of them knn on colon" in told
    assert "broken.safetensors: not a readable safetensors file" in told
    assert f"{out}/results.parquet. --retry does" in told
    assert sorted(pd.read_parquet(out / "results.parquet").error != "") == [False, True]
    assert run("report", out) == 0
    assert "broken.safetensors" in (out / "report.html").read_text()
    assert run(*command, "--json") == 1, "it failed before, and was not done again"
    assert json.loads(capfd.readouterr().out)["failed"] == 1


# --- one run, without Ray --------------------------------------------------------------------


def first_run(**changes: Any) -> Run:
    given = {"data": {"colon": "phantoms:colon:6"}, "shots": [2], "episodes": 1} | changes
    return read_suite("quick", **given).runs()[0]


def test_a_run_that_fails_is_a_failed_row(tmp_path: Path) -> None:
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"no weights")
    encoder = {"name": "vit_tiny_patch16_224", "weights": str(broken)}
    one = first_run(encoders=[encoder])
    row = do_run(one, one.source.read(), np.zeros((0, 0)))
    assert row["error"].startswith("Traceback")
    assert "broken.safetensors" in row["error"]
    assert row["seconds"] > 0
    assert Run.model_validate_json(row["run"]) == one, "a row is enough to do the run again"


def test_a_row_does_its_run_again(tmp_path: Path) -> None:
    """On a table with groups and columns of names of their own, and images in another folder."""
    table = write_phantoms(
        make_phantoms("colon", patients=6, images_per_patient=2, size=64), tmp_path / "data"
    )
    renamed = pd.read_csv(table).rename(columns={"label": "what", "patient": "who"})
    renamed.to_csv(tmp_path / "renamed.csv", index=False)
    spec = {"path": str(tmp_path / "renamed.csv"), "label_column": "what", "group_column": "who",
            "image_root": str(table.parent)}  # fmt: skip
    one = first_run(data={"colon": spec})
    data = decode(one.source.read())
    assert all(isinstance(image, np.ndarray) for image in data.images)
    assert data.groups is not None
    features = frozen_features(data, one.encoder, one.precision)
    row = do_run(one, data, features)
    assert row["error"] == ""
    assert row["support"] + row["test"] <= 12
    again = do_run(Run.model_validate_json(row["run"]), one.source.read(), features)
    scores = ("accuracy", "balanced_accuracy", "auroc", "brier", "final_loss", "encoder_sha256")
    assert {k: row[k] for k in scores} == {k: again[k] for k in scores}
    assert row["peak_memory_mb"] > 100
    assert row["trainable_parameters"] > 0


FROZEN = {"length": 20, "init": "kaiming", "frozen": True}


@pytest.mark.parametrize(
    ("method", "settings"),
    [(name, {}) for name in sorted(METHODS)]
    + [("ept", FROZEN), ("vpt", {"length": 20, "frozen": True}), ("vp", {"frozen": True})],
)
def test_a_row_is_what_the_classifier_itself_predicts(
    method: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shared features stand in for the encoder's only where nothing was put into it."""
    kept = []

    class Noting(FewShotClassifier):
        def fit(self, *arguments: Any, **options: Any) -> FewShotClassifier:
            kept.append(super().fit(*arguments, **options))
            return kept[-1]

    monkeypatch.setattr("medept.benchmark.worker.FewShotClassifier", Noting)
    recipe = {"epochs": 2}
    one = first_run(methods={method: {"method": method, "settings": settings, "recipe": recipe}})
    data = one.source.read()
    row = do_run(one, data, frozen_features(data, one.encoder, one.precision))
    assert row["error"] == ""
    test = data.subset(draw_episode(data, one.shots, seed=one.episode).test)
    found = evaluate(kept[0].predict_proba(test.images), test.targets, classes=data.classes)
    for name in ("brier", "nll", "auroc", "balanced_accuracy"):
        assert row[name] == pytest.approx(found.metrics[name].value, rel=1e-4), name
    whole = json.loads(kept[0].model_.settings.model_dump_json())
    assert json.loads(row["settings"]) == whole, "those that were not given, too"
    if settings:
        plain = adapt(load_encoder(), "linear", 2).encoder
        pixels = torch.rand(1, 3, 64, 64)
        with torch.inference_mode():
            assert not torch.allclose(kept[0].model_.encoder(pixels), plain(pixels), rtol=1e-2)


def test_images_beyond_the_room_stay_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = write_phantoms(
        make_phantoms("colon", patients=4, images_per_patient=2, size=64), tmp_path / "data"
    )
    data = first_run(data={"colon": str(table)}).source.read()  # 8 images
    Path(str(data.images[1])).write_bytes(b"no image")
    monkeypatch.setattr("medept.benchmark.worker.DECODED", 3 * 64 * 64 * 3)
    kinds = [isinstance(image, np.ndarray) for image in decode(data).images]
    assert kinds == [True, False, True, True, False, False, False, False]


@pytest.mark.parametrize("split", ["val", "test"])
def test_an_image_that_cannot_be_read_fails_the_runs_that_need_it(
    tmp_path: Path, split: str
) -> None:
    drawn = make_phantoms("colon", patients=8, images_per_patient=1, size=64)
    table = write_phantoms(drawn, tmp_path / "data")
    rows = pd.read_csv(table)
    rows["split"] = [*["train"] * 4, *["test"] * 3, split]
    rows.to_csv(table, index=False)
    run = first_run(data={"colon": str(table)}, methods={"prototype": None}, shots=["all"])
    data = run.source.read()
    Path(str(data.images[-1])).write_bytes(b"no image")
    features = frozen_features(data, run.encoder, run.precision)
    assert np.isnan(features).any(axis=1).tolist() == [False] * 7 + [True]
    error = do_run(run, data, features)["error"]
    assert error == "" if split == "val" else f"{rows.image.iloc[-1]}: not an image" in error


# --- fairness --------------------------------------------------------------------------------


@pytest.mark.parametrize(("recipe", "views"), [("medept", [0, 1, 0]), ("paper", [0, 1, 2])])
def test_every_method_trains_on_the_same_views_in_the_same_order(
    recipe: str, views: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[tuple[int, list[int]]] = []
    original = loop._read_share

    def noting(inputs: Inputs, view: int, accelerator: Any, rows: Any) -> Any:
        steps.append((view, rows.tolist()))
        return original(inputs, view, accelerator, rows)

    monkeypatch.setattr(loop, "_read_share", noting)
    data = make_phantoms("colon", patients=4, images_per_patient=2, size=64)
    asked = {}
    for method in (name for name, kind in METHODS.items() if kind.rates):
        steps.clear()
        FewShotClassifier(
            method=method, image_size=32, recipe=recipe, epochs=3, batch_size=4, calibrate="none",
            seed=5, recipe_settings={"views": len(set(views))},
        ).fit(data.images, data.labels)  # fmt: skip
        asked[method] = list(steps)
    assert all(steps == asked["linear"] for steps in asked.values())
    assert [view for view, _ in asked["linear"]] == [view for view in views for _ in range(2)]
    assert all(len(rows) == 4 for _, rows in asked["linear"])


def test_a_method_that_is_not_let_learn_is_linear() -> None:
    """Whatever is trained inside the encoder, the head is trained alike."""
    data = make_phantoms("colon", patients=4, images_per_patient=2, size=64)

    def curve(method: str, **settings: Any) -> list[float]:
        classifier = FewShotClassifier(
            method=method, image_size=32, epochs=6, calibrate="none", precision="float32",
            recipe_settings=settings,
        ).fit(data.images, data.labels)  # fmt: skip
        return [row["loss"] for row in classifier.history_]

    still = curve("bias", encoder_lr=1e-12)
    assert still == pytest.approx(curve("linear"), rel=1e-4)
    assert curve("bias") != pytest.approx(still, rel=1e-4)


@pytest.mark.parametrize("recipe", ["medept", "paper"])
def test_every_method_has_the_same_budget(recipe: str) -> None:
    budget = ("epochs", "head_first", "batch_size", "views", "crop_scale", "standardise")
    found = {
        tuple(getattr(make_recipe(recipe, method), name) for name in budget) for method in METHODS
    }
    assert len(found) == 1


@pytest.mark.parametrize("method", ["linear", "ept"])
def test_every_method_has_the_same_number_of_trials(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("optuna")
    trials = []
    data = make_phantoms("colon", patients=6, images_per_patient=1, size=64)
    classifier = FewShotClassifier(
        method=method, tune=3, epochs=1, image_size=32, calibrate="none",
        progress=lambda what, done, total: trials.append((what, done, total)),
    )  # fmt: skip
    monkeypatch.setattr(
        "medept.classifier.fitting.held_out_logits",
        lambda spec, support, found, rows, held_out: np.zeros((len(held_out), 2)),
    )  # fmt: skip
    classifier.fit(data.images, data.labels, groups=data.groups)
    assert [t for t in trials if t[0] == "tuning"] == [("tuning", i, 3) for i in range(4)]


def test_a_method_may_change_any_part_of_the_recipe(suite_file: Path) -> None:
    changes = {"recipe": "paper", "optimizer": "adamw", "views": 1, "epochs": 2}
    suite = read_suite(
        str(suite_file), methods={"linear": {"method": "linear", "recipe": changes}}, episodes=1
    )
    one = suite.runs()[0]
    data = one.source.read()
    row = do_run(one, data, frozen_features(data, one.encoder, one.precision))
    assert row["error"] == ""
    del changes["recipe"]
    assert json.loads(row["recipe"]) == make_recipe("paper", "linear", **changes).model_dump()


# --- the real size ---------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("epochs", "patients"), [(1, 8), pytest.param(20, 20, marks=pytest.mark.long)]
)
def test_a_row_of_table_1_at_its_real_size(epochs: int, patients: int) -> None:
    """EPT on ViT-B/16 at 224 pixels, 1 shot, the paper's recipe; random weights."""
    suite = read_suite(
        "paper-table1",
        data={
            f"medfmc-{task}": f"phantoms:{task}:{patients}" for task in ("chest", "colon", "endo")
        },
        encoders=[{"name": "vit_base_patch16_224", "weights": "random"}],
        methods={
            "ept": {"method": "ept", "settings": {"length": 100}, "recipe": {"epochs": epochs}}
        },
        episodes=1,
        repeats=1,
        shots=[1],
    )
    assert len(suite.runs()) == 3
    for one in suite.runs():
        data = one.source.read()
        row = do_run(one, data, np.zeros((0, 0)))
        assert row["error"] == "", one.data
        recipe = json.loads(row["recipe"])
        assert recipe == make_recipe("paper", "ept", epochs=epochs).model_dump()
        assert row["trainable_parameters"] == 12 * 197 * 100 + len(data.classes) * (768 + 1)
        assert 0 <= row.get("map", row.get("accuracy")) <= 1
        assert np.isfinite(row["final_loss"])
        print(f"{one.data}: {row['support']} + {row['test']} images, {row['cpu_seconds']:.0f} CPU "
              f"seconds, {row['peak_memory_mb']:.0f} MB")  # fmt: skip
