"""One run without Ray: its row, its failures, shared features, and a real ViT-B/16."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from plugin_files import BLOCK_SCALE, forget_plugins, write_plugin

from medept import FewShotClassifier
from medept.benchmark.run import Run
from medept.benchmark.suite import read_suite
from medept.benchmark.worker import decode, do_run, frozen_features
from medept.classifier import specification
from medept.encoders.load import load_encoder
from medept.episodes.draw import draw_episode
from medept.errors import SettingsError
from medept.evaluation import evaluate
from medept.methods import METHODS, adapt
from medept.phantoms import make_phantoms, write_phantoms
from medept.phantoms.cases import make_bags, write_bags
from medept.training.recipes import make_recipe


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


@pytest.mark.parametrize("pool", ["mean", "max", "attention"])
def test_cases_are_pooled_as_the_method_says(tmp_path: Path, pool: str) -> None:
    table = write_bags(make_bags(patients=6, tiles=3, size=32), tmp_path / "bags")
    data = {"colon": {"path": str(table), "case_column": "slide"}}  # in the place of quick's own
    one = first_run(data=data, methods={pool: {"method": "prototype", "pool": pool}})
    read = one.source.read()
    assert [len(case) for case in read.images] == [3] * 6
    row = do_run(one, read, frozen_features(read, one))
    assert row["error"] == ""
    episode = draw_episode(read, 2, seed=0)
    support, test = read.subset(episode.support), read.subset(episode.test)
    direct = FewShotClassifier(
        method="prototype", pool=pool, calibrate="none", device="cpu", precision="float32"
    )
    direct.fit(support.images, support.labels, groups=support.groups, classes=read.classes)
    expected = evaluate(
        direct.predict_proba(test.images), test.targets, classes=read.classes, resamples=0
    )
    assert row["nll"] == pytest.approx(expected.metrics["nll"].value, abs=1e-5)


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
    features = frozen_features(data, one)
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
    row = do_run(one, data, frozen_features(data, one))
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
    features = frozen_features(data, run)
    assert np.isnan(features).any(axis=1).tolist() == [False] * 7 + [True]
    error = do_run(run, data, features)["error"]
    assert error == "" if split == "val" else f"{rows.image.iloc[-1]}: not an image" in error


def test_a_method_may_change_any_part_of_the_recipe(suite_file: Path) -> None:
    changes = {"recipe": "paper", "optimizer": "adamw", "views": 1, "epochs": 2}
    suite = read_suite(
        str(suite_file), methods={"linear": {"method": "linear", "recipe": changes}}, episodes=1
    )
    one = suite.runs()[0]
    data = one.source.read()
    row = do_run(one, data, frozen_features(data, one))
    assert row["error"] == ""
    del changes["recipe"]
    assert json.loads(row["recipe"]) == make_recipe("paper", "linear", **changes).model_dump()


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("epochs", "patients"), [(1, 6), pytest.param(20, 20, marks=pytest.mark.long)]
)
def test_a_row_of_table_1_at_its_real_size(
    epochs: int, patients: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EPT on ViT-B/16 at 224 pixels, 1 shot, the paper's recipe; random weights, drawn once."""
    monkeypatch.setattr(specification, "load_encoder", cache(load_encoder))
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


def test_a_run_needs_the_plugin_that_the_benchmark_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_plugins(monkeypatch)
    file = write_plugin(tmp_path)
    one = first_run(methods={"block-scale": None}, plugins=[str(file)], precision="float32")
    again = Run.model_validate_json(one.model_dump_json())
    assert again.id == one.id
    forget_plugins(monkeypatch)  # as on a worker
    data = one.source.read()
    small = again.method.model_copy(update={"recipe": {"epochs": 1, "views": 1}})
    row = do_run(again.model_copy(update={"method": small}), data, np.zeros((0, 0)))
    assert (row["error"], row["method"]) == ("", "block-scale")
    write_plugin(tmp_path, BLOCK_SCALE + "# changed\n")
    for work in (lambda: do_run(one, data, np.zeros(0)), lambda: frozen_features(data, one)):
        with pytest.raises(SettingsError, match="on the worker .* it is .* the benchmark began"):
            work()
    file.unlink()
    with pytest.raises(SettingsError, match=r"on the worker .*block_scale.py: no plugin"):
        do_run(one, data, np.zeros(0))
