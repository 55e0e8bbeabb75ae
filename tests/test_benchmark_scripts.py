"""The scripts of ``benchmarks/`` and ``pretraining/`` run, and print what they promise."""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from helpers import ROOT

from medept.phantoms import make_phantoms

SCRIPTS = ROOT / "benchmarks"
ALL = sorted([*SCRIPTS.glob("*.py"), *(ROOT / "pretraining").glob("*.py")])


@pytest.mark.parametrize("script", ALL, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_what_scripts_take_from_medept_exists(script: Path) -> None:
    """Names that they import, and names that they patch by their dotted path."""
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "medept":
            exec(compile(ast.Module([node], []), str(script), "exec"), {})
        if isinstance(node, ast.Constant) and str(node.value).startswith("medept."):
            module, _, name = str(node.value).rpartition(".")
            assert hasattr(importlib.import_module(module), name), node.value


def test_an_exported_encoder_lands_where_medept_loads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "pretraining"))
    package = importlib.import_module("export").PACKAGE
    assert (package / "encoder.json").is_file()
    assert (package / "encoder.safetensors").is_file()


def printed(script: str, *options: str) -> dict:
    command = [sys.executable, str(SCRIPTS / script), "--quick", "--json", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.long
@pytest.mark.parametrize("script", ["attention.py", "train_step.py", "prediction.py"])
def test_ways_stand_side_by_side(script: str) -> None:
    found = printed(script)
    assert found["machine"]["threads"] > 0
    assert len(found["rows"]) > 3


@pytest.mark.slow
def test_fine_tuning_has_its_ratios() -> None:
    """And what is known beforehand, by a wide margin: features that are kept save an epoch's
    encoding, and what lies below a first block's softmax takes less than the whole encoder."""
    found = printed("fine_tuning.py", "--float32")
    ratios = found["ratios"]
    assert set(ratios) == {
        "ept_deep_vs_formula",
        "ept_9_12_vs_formula",
        "linear_cached_vs_uncached",
    }
    assert ratios["linear_cached_vs_uncached"] > 5
    assert found["precision"] == "float32"
    assert isinstance(found["bf16_fast"], bool)
    encoded = {row["way"]: row["encode (s)"] for row in found["rows"]}
    assert encoded["medept, EPT"] < encoded["medept, linear"]


def test_prompts_with_keys_are_compared_in_pairs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs that are done are passed over; differences are within pairs of data and support set."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    script = importlib.import_module("prompt_keys")
    data = make_phantoms("colon", patients=4, images_per_patient=2, size=48)
    options = script.METHODS["keys, 1"] | {"epochs": 2}
    found = script.do_run(data, 1, 0, options)
    assert found["support"] == found["test"] == 4
    assert all(0 <= found[head] <= 1 for head in script.HEADS)

    done: list[int] = []
    monkeypatch.setattr(
        script, "do_run", lambda *_: done.append(1) or found | {"score": len(done) ** 2}
    )
    runs = [(i, 1, "colon", "embedded", method) for i in (0, 1) for method in script.METHODS]
    for count in (5, 12, 12):
        script.run_all(tmp_path / "keys.csv", runs[:count], {"colon": data}, {"embedded": {}}, 2)
        assert len(done) == count
    shown = script.show(pd.read_csv(tmp_path / "keys.csv"))
    assert "| ept | +9.000 ± 76.237 (2 of 2) |" in shown  # 4 - 1 and 64 - 49


@pytest.mark.slow
def test_prediction_sets_hold_the_truth_of_new_patients() -> None:
    rows = printed("decisions.py", "sets")["rows"]
    assert {row["variant"] for row in rows} == {"held-out folds", "other patients"}
    assert all(row["coverage"] >= 0.8 for row in rows)
    told = printed("decisions.py", "unfamiliar")["rows"]
    assert all(row["auroc"] > 0.95 for row in told)
