"""Blocks are compiled where that is estimated to pay, and train as they do otherwise."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from medept.encoders import Encoder
from medept.loading import RANDOM, load_encoder
from medept.methods import adapt
from medept.training import compiled, loop
from medept.training.checkpoint import Checkpoint
from medept.training.device import make_accelerator
from medept.training.recipes import make_recipe
from medept.training.views import Views

IMAGES = [np.random.default_rng(i).integers(0, 255, (40, 40, 3), np.uint8) for i in range(6)]
TARGETS = np.arange(6) % 2


@pytest.mark.parametrize(
    ("device", "mixed", "minutes", "pays"),
    [
        ("cpu", "bf16", 8, False),
        ("cpu", "bf16", 9, True),
        ("cpu", "no", 16, False),
        ("cpu", "no", 17, True),
        ("cuda", "bf16", 1e6, False),  # it has not been measured
    ],
)
def test_it_pays_from_some_length_on(
    device: str, mixed: str, minutes: float, pays: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    accelerator: Any = SimpleNamespace(device=torch.device(device), mixed_precision=mixed)
    encoder, asked = small_encoder(), []
    before = [block.forward for block in encoder.blocks]
    monkeypatch.setattr(compiled, "_compiles", lambda: asked.append(True) or True)
    with compiled.compiled(encoder, accelerator, 60 * minutes):
        changed = [block.forward != own for block, own in zip(encoder.blocks, before, strict=True)]
    assert changed == [pays] * 11 + [False], "the last block is not"
    assert asked == [True] * pays
    assert [block.forward for block in encoder.blocks] == before


def test_blocks_that_differ_are_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Swin's stages would be, one after the other."""
    monkeypatch.setattr(compiled, "WARM_UP", -1)
    swin = load_encoder("swin_tiny_patch4_window7_224", weights=RANDOM)
    with compiled.compiled(swin, make_accelerator("cpu", "float32"), 1):
        assert not any("forward" in vars(block) for block in swin.blocks)


def test_its_length_is_told_from_the_first_epoch(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """And is the same for a fit that was killed and goes on."""
    asked: list[float] = []

    def noting(encoder: Encoder, accelerator: Any, seconds: float) -> Any:
        asked.append(seconds)
        return nullcontext()

    monkeypatch.setattr(loop, "compiled", noting)
    checkpoint = Checkpoint(tmp_path / "state", "a fit")
    history = fitted("ept", {}, checkpoint=checkpoint)[1]
    assert asked == [3 * history[0]["seconds"]]

    def kill(what: str, done: int, total: int) -> None:
        if what.startswith("training") and done == 2:
            raise KeyboardInterrupt

    checkpoint = Checkpoint(tmp_path / "killed", "a fit")
    with pytest.raises(KeyboardInterrupt):
        fitted("ept", {}, checkpoint=checkpoint, progress=kill)
    history = fitted("ept", {}, checkpoint=checkpoint)[1]
    assert asked[1:] == [3 * history[0]["seconds"]] * 2


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("method", "settings"),
    [("ept", {}), ("ept", {"layers": "6-12"}), ("vpt", {"length": 3}), ("lora", {}), ("full", {})],
)
def test_compiled_blocks_train_as_they_do_otherwise(
    method: str, settings: dict[str, Any], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses and what was trained; a batch of four is compiled, and one of two runs as it is."""
    state, history = fitted(method, settings, precision)
    runs: list[int] = []
    compile_ = torch.compile

    def counting(forward: Any, **options: Any) -> Any:
        fast = compile_(forward, **options)
        return lambda tokens, *a, **k: runs.append(len(tokens)) or fast(tokens, *a, **k)

    torch._dynamo.reset()  # what others compiled counts towards its limit
    monkeypatch.setattr(torch, "compile", counting)
    monkeypatch.setattr(compiled, "WARM_UP", -1)
    fast_state, fast_history = fitted(method, settings, precision)
    blocks = 6 if settings.get("layers") else 11
    assert runs == [8] + [4] * 3 * blocks, "eight numbers to try it, three epochs"
    close = {"rtol": 1e-5 if precision == "float32" else 0.02}
    losses, fast = ([row["loss"] for row in rows] for rows in (history, fast_history))
    np.testing.assert_allclose(fast, losses, **close)
    if precision == "float32":
        for name, tensor in state.items():
            torch.testing.assert_close(fast_state[name], tensor, rtol=1e-3, atol=1e-4)


def test_without_a_compiler_it_runs_as_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def missing(*_: Any, **__: Any) -> Any:
        raise RuntimeError("No working C++ compiler found\nand more")

    state, _ = fitted("ept", {})
    monkeypatch.setattr(torch, "compile", missing)
    monkeypatch.setattr(compiled, "WARM_UP", -1)
    with caplog.at_level(logging.INFO, "medept"):
        same, _ = fitted("ept", {})
    assert any(m.endswith("not compiled: No working C++ compiler found") for m in caplog.messages)
    for name, tensor in state.items():
        assert torch.equal(same[name], tensor)


def test_it_is_off_where_compiled_code_is_not_to_run() -> None:
    with torch.compiler.set_stance("force_eager"):
        assert not compiled._compiles()


@pytest.mark.slow
@pytest.mark.parametrize("variable", ["TORCHDYNAMO_DISABLE", "TORCH_COMPILE_DISABLE"])
def test_it_can_be_turned_off(variable: str) -> None:
    code = "import logging; logging.basicConfig(level=20); from medept.training import compiled; "
    code += "print(compiled._compiles())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {variable: "1"},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "False\n", done.stderr
    assert "torch.compile is turned off" in done.stderr


def small_encoder() -> Encoder:
    return load_encoder("vit_tiny_patch16_224", weights=RANDOM, image_size=32)


def fitted(
    method: str,
    settings: dict[str, Any],
    precision: str = "float32",
    **options: Any,
) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
    """What was trained, and the learning curve: four epochs of a batch of four and one of two."""
    torch.manual_seed(0)
    encoder = small_encoder()
    model = adapt(encoder, method, 2, settings)
    recipe = make_recipe("medept", method, epochs=4, head_first=0, views=2, batch_size=4)
    views = Views(IMAGES, encoder.preprocessing, crop_scale=0.5)
    accelerator = make_accelerator("cpu", precision)
    history = loop.train(model, views, TARGETS, recipe, accelerator, **options)
    return model.trained_state(), history
