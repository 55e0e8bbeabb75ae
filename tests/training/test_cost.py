"""What a fit is told to cost is counted from what it does; several processes share it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from mmap import mmap
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch.profiler import profile

from medept.encoders.load import load_encoder
from medept.encoders.weights import RANDOM
from medept.methods import AdaptedEncoder, adapt
from medept.phantoms import make_phantoms, write_phantoms
from medept.progress import duration
from medept.training import cost
from medept.training.device import make_accelerator, memory_in_use, peak_memory
from medept.training.recipes import make_recipe
from medept.training.views import Views

RECIPE = make_recipe("medept").model_copy(update={"epochs": 80, "views": 8})
SECONDS = {"forward": 1.0, "encode": 1e3, "step": 1e6}
"""Of one image, told apart by their digits."""


def make(
    method: str, settings: dict, size: int = 32, held: bool = False
) -> tuple[AdaptedEncoder, Views]:
    """A method on a small encoder, and ten images of 50 x 40 pixels."""
    encoder = load_encoder("vit_tiny_patch16_224", weights=RANDOM, image_size=size)
    if held:
        encoder.cast_to_bfloat16()
    images = [np.zeros((50, 40, 3), np.uint8)] * 10
    return adapt(encoder, method, 2, settings), Views(images, encoder.preprocessing)


def seconds(monkeypatch: pytest.MonkeyPatch, method: str, settings: dict, *folds: int) -> float:
    """Of ten images, with times that are given."""
    left = list(SECONDS.values())

    def timed(run: Callable[[], Any]) -> tuple[Any, float]:
        return run(), cost.TRIED * left.pop(0)

    model, views = make(method, settings)
    monkeypatch.setattr(cost, "_timed", timed)
    accelerator = make_accelerator("cpu", "float32")
    found = cost.estimate_cost(model, views, RECIPE, accelerator, folds)
    assert found.evaluation == SECONDS["forward"]
    return found.seconds


def test_passes_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert seconds(monkeypatch, "probe", {}) == 10
    assert seconds(monkeypatch, "linear", {}) == 10 * (8e3 + 80e6)
    assert seconds(monkeypatch, "ept", {"layers": "9-12"}) == 10 * (8e3 + 8 + 40e6)
    assert seconds(monkeypatch, "ept", {}, 2) == 10 * (1 + 8e3 + 2 * (8 + 40e6))
    assert seconds(monkeypatch, "ept", {}, 3, 3, 2) == 10 * (3 + 8e3 + 6 * (8 + 40e6))
    assert seconds(monkeypatch, "linear", {}, 3, 3) == 10 * (1 + 8e3 + 5 * 80e6)
    assert seconds(monkeypatch, "probe", {}, 3) == 10  # features of all are computed once


@pytest.mark.parametrize(
    ("method", "settings", "numbers"),
    [
        ("probe", {}, 0),
        ("linear", {}, 192),
        ("lora", {}, 3 * 32 * 32),
        ("ept", {"layers": "9-12"}, 5 * 192 + 5 * 192 + 5 * 3),
        ("vpt", {"layers": "9-12"}, 5 * 192),
    ],
)
def test_what_is_stored_is_counted(method: str, settings: dict, numbers: int) -> None:
    """Eight views of ten images, of 4 + 1 tokens, 192 wide, in 3 heads."""
    found = cost.estimate_cost(*make(method, settings), RECIPE, make_accelerator("cpu", "float32"))
    assert found.stored == 4 * 8 * 10 * numbers


@pytest.mark.parametrize(
    ("method", "micro_batch", "precision"),
    [("ept", None, "float32"), ("ept", 2, "float32"), ("lora", None, "float32"),
     ("ept", None, "bfloat16")],
)  # fmt: skip
def test_memory_is_what_a_step_takes(method: str, micro_batch: int | None, precision: str) -> None:
    """Against what PyTorch's own profiler sees allocated, within a third: the features of a batch
    of evaluation, and a step."""
    size = 224 if precision == "float32" else 112  # which is slow in bfloat16 on many CPUs
    model, views = make(method, {}, size=size, held=precision == "bfloat16")
    recipe = RECIPE.model_copy(update={"batch_size": 8, "micro_batch": micro_batch})
    accelerator = make_accelerator("cpu", precision)
    found = cost.estimate_cost(model, views, recipe, accelerator)
    pixels = torch.randn(32, 3, size, size)
    with profile(profile_memory=True) as seen:
        with accelerator.autocast():
            with torch.no_grad():
                model.encoder(pixels)
            logits = model(pixels[: micro_batch or 8])
        logits.float().sum().backward()
    held = np.cumsum([e.nbytes() for e in seen.profiler.kineto_results.events()
                      if e.name() == "[memory]"])  # fmt: skip
    assert found.memory - cost.LIBRARIES == pytest.approx(held.max(), rel=1 / 3)


def test_large_stores_are_said_to_be_in_a_file() -> None:
    found = cost.Cost(seconds=100, evaluation=0.05, in_use=10**9, memory=10**9, stored=3 * 10**9)
    assert str(found) == (
        "2 min, and 50 s for each 1,000 images to predict; 2.0 GB of memory, and "
        "3.0 GB in a temporary file for encoded views"
    )


def test_what_is_held_is_memory_of_the_process() -> None:
    size, before = 200 * 2**20, memory_in_use(torch.device("cpu"))
    with mmap(-1, size) as block:  # new pages, and none that were given back and kept
        for start in range(0, size, 4096):
            block[start] = 1
        assert memory_in_use(torch.device("cpu")) - before == pytest.approx(size, rel=0.1)
    assert peak_memory() >= size


@pytest.mark.parametrize(("number", "text"), [(40, "40 s"), (180, "3 min"), (9000, "2.5 h")])
def test_durations_are_said_shortly(number: float, text: str) -> None:
    assert duration(number) == text


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("method", ["ept", "full"])
def test_two_processes_end_where_one_does(method: str, tmp_path: Path) -> None:
    """Batches of 3 leave the second process with fewer rows, and at times with none; with fewer
    parts, too, where each image is computed by itself. Views are encoded once. Not all of DINOv2
    is run: it has a token for masks."""
    data = make_phantoms("colon", patients=12, images_per_patient=1, size=48)
    table = write_phantoms(data, tmp_path / "data")
    options = ["-m", "medept", "fit", str(table), "--shots", "2", "--epochs", "3", "--batch-size",
               "3", "--device", "cpu", "--precision", "float32", "--seed", "1",
               "--method", method, "--set-recipe", "views=1"]  # fmt: skip
    if method == "full":
        shape = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3}
        library = pytest.importorskip("transformers")
        config = library.Dinov2Config(image_size=32, patch_size=8, **shape)
        library.Dinov2Model(config).save_pretrained(tmp_path / "dinov2")
        library.ViTImageProcessor(size=32).save_pretrained(tmp_path / "dinov2")
        options += ["--encoder", f"transformers:{tmp_path / 'dinov2'}", "--recipe", "paper"]
    launcher = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2",
                "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no",
                "--main_process_port", free_port()]  # fmt: skip
    if method == "full":
        launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    launch, said = ["-m", *launcher], {}
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for name, command in (
        ("one", options), ("two", [*launch, *options, "--set-recipe", "micro_batch=1"])
    ):  # fmt: skip
        done = subprocess.run(
            [sys.executable, *command, "--out", str(tmp_path / name)],
            timeout=240, env=environment, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        said[name] = done.stderr.count(", on 2 processes; ")
    assert said == {"one": 0, "two": 1}
    one, two = (load_file(tmp_path / name / "adapter.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=1e-3, atol=1e-4)
    first, second = (pd.read_csv(tmp_path / name / "history.csv").loss for name in ("one", "two"))
    assert second.to_numpy() == pytest.approx(first.to_numpy(), rel=1e-4)
    assert not list(tmp_path.glob(".*"))
