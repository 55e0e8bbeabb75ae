"""What a fit is told to cost is counted from what it does; several processes share it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from medept.data.phantoms import make_phantoms, write_phantoms
from medept.encoders import RANDOM, load_encoder
from medept.methods import adapt
from medept.training import cost
from medept.training.recipes import make_recipe

RECIPE = make_recipe("medept").model_copy(update={"standardise": False, "epochs": 40, "views": 8})


def seconds(monkeypatch: pytest.MonkeyPatch, method: str, settings: dict, folds: int = 0) -> float:
    """Of ten images, in forward passes of one."""
    monkeypatch.setattr(cost, "_forward_seconds", lambda *_: 1.0)
    encoder = load_encoder("vit_tiny_patch16_224", weights=RANDOM)
    return cost.estimate_cost(adapt(encoder, method, 2, settings), 10, RECIPE, folds).seconds


def test_passes_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert seconds(monkeypatch, "probe", {}) == 10
    assert seconds(monkeypatch, "linear", {}) == 10 * 8
    assert seconds(monkeypatch, "ept", {}) == 10 * 40 * 2
    upper = 10 * (8 * 2 / 3 + 40 * 2 / 3)
    assert seconds(monkeypatch, "ept", {"layers": "9-12"}) == pytest.approx(upper)
    assert seconds(monkeypatch, "ept", {}, folds=2) == 2 * seconds(monkeypatch, "ept", {})


def test_what_is_stored_is_counted() -> None:
    encoder = load_encoder("vit_tiny_patch16_224", weights=RANDOM)
    found = cost.estimate_cost(adapt(encoder, "linear", 2, {}), 10, RECIPE)
    assert found.memory == 4 * 8 * 10 * 192


@pytest.mark.parametrize(("number", "text"), [(40, "40 s"), (180, "3 min"), (9000, "2.5 h")])
def test_durations_are_said_shortly(number: float, text: str) -> None:
    assert cost.duration(number) == text


@pytest.mark.slow
def test_two_processes_end_where_one_does(tmp_path: Path) -> None:
    """Batches of 3 leave the second process with fewer rows, and at times with none."""
    data = make_phantoms("colon", patients=12, images_per_patient=1, size=48)
    table = write_phantoms(data, tmp_path / "data")
    options = ["-m", "medept", "fit", str(table), "--shots", "2", "--epochs", "3", "--batch-size",
               "3", "--device", "cpu", "--precision", "float32", "--seed", "1"]  # fmt: skip
    launch = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2",
              "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no",
              "--main_process_port", "29713"]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for name, command in (("one", options), ("two", [*launch, *options])):
        subprocess.run([sys.executable, *command, "--out", str(tmp_path / name)], check=True,
                       timeout=240, env=environment)  # fmt: skip
    one, two = (load_file(tmp_path / name / "adapter.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=1e-3, atol=1e-4)
    first, second = (pd.read_csv(tmp_path / name / "history.csv").loss for name in ("one", "two"))
    assert second.to_numpy() == pytest.approx(first.to_numpy(), rel=1e-4)
    assert not list(tmp_path.glob(".*"))
