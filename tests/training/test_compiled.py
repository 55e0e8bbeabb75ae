"""Blocks are compiled where that is estimated to pay, and train as they do otherwise."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

from medept.encoders.encoder import Encoder
from medept.encoders.load import load_encoder
from medept.encoders.weights import RANDOM
from medept.methods import adapt, trained_of
from medept.training import compiled, loop
from medept.training.checkpoint import Checkpoint
from medept.training.device import make_accelerator
from medept.training.recipes import make_recipe
from medept.training.views import Views

IMAGES = [np.random.default_rng(i).integers(0, 255, (40, 40, 3), np.uint8) for i in range(6)]
TARGETS = np.arange(6) % 2


@pytest.fixture(autouse=True, scope="module")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compiled code is not left in the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(compiled.CACHE, str(tmp_path_factory.mktemp("inductor")))
        yield


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
def test_it_pays_from_some_length_on(device: str, mixed: str, minutes: float, pays: bool) -> None:
    accelerator: Any = SimpleNamespace(device=torch.device(device), mixed_precision=mixed)
    assert compiled.pays(60 * minutes, accelerator) == pays


def test_blocks_that_are_alike_are_compiled_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the last; Swin's would be stage after stage, and are not."""
    monkeypatch.setattr(compiled, "_why_not", lambda: "")
    monkeypatch.delenv(compiled.CACHE, raising=False)
    swin = load_encoder("swin_tiny_patch4_window7_224", weights=RANDOM)
    for encoder, count in ((small_encoder(), 11), (swin, 0)):
        with compiled.compiled(encoder):
            assert Path(os.environ[compiled.CACHE]) == Path(torch.hub.get_dir()).parent / "inductor"
            changed = ["forward" in vars(block) for block in encoder.blocks]
        assert changed == [True] * count + [False] * (len(encoder.blocks) - count)
        assert not any("forward" in vars(block) for block in encoder.blocks)
        assert compiled.CACHE not in os.environ


def test_its_length_is_told_from_the_first_epoch(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """And is the same for a fit that was killed and goes on."""
    asked: list[float] = []
    monkeypatch.setattr(loop, "pays", lambda seconds, accelerator: bool(asked.append(seconds)))
    history = fitted("ept", {}, checkpoint=Checkpoint(tmp_path / "state", "a fit"))[1]
    assert asked == [pytest.approx(3 * history[0]["seconds"])]
    asked.clear()

    def kill(what: str, done: int, total: int) -> None:
        if what.startswith("training") and done == 2:
            raise KeyboardInterrupt

    checkpoint = Checkpoint(tmp_path / "killed", "a fit")
    with pytest.raises(KeyboardInterrupt):
        fitted("ept", {}, checkpoint=checkpoint, progress=kill)
    history = fitted("ept", {}, checkpoint=checkpoint)[1]
    assert asked == [pytest.approx(3 * history[0]["seconds"])] * 2
    assert asked[0] == asked[1]
    asked.clear()
    fitted("linear", {})  # of which no step runs the encoder
    assert not asked


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
    if why := compiled._why_not():
        pytest.skip(f"needs torch.compile, and a C++ compiler ({why})")
    state, history = fitted(method, settings, precision)
    runs: list[int] = []
    compile_ = torch.compile

    def counting(forward: Any, **options: Any) -> Any:
        fast = compile_(forward, **options)
        return lambda tokens, *a, **k: runs.append(len(tokens)) or fast(tokens, *a, **k)

    torch._dynamo.reset()  # what others compiled counts towards its limit
    counters.clear()
    monkeypatch.setattr(torch, "compile", counting)
    monkeypatch.setattr(compiled, "WARM_UP", -1)
    fast_state, fast_history = fitted(method, settings, precision)
    blocks = 6 if settings.get("layers") else 11
    assert runs == [8] + [4] * 3 * blocks, "eight numbers to try it, three epochs"
    assert counters["stats"]["unique_graphs"] <= 3, "the first block has no gradient of its input"
    assert not counters["graph_break"]
    losses, fast = ([row["loss"] for row in rows] for rows in (history, fast_history))
    close = {"rtol": 1e-5} if precision == "float32" else {"rtol": 0.02}
    np.testing.assert_allclose(fast, losses, **close)
    near = {"rtol": 1e-3, "atol": 1e-4} if precision == "float32" else {"rtol": 0.1, "atol": 0.05}
    for name, tensor in state.items():
        torch.testing.assert_close(fast_state[name], tensor, **near)


@pytest.mark.parametrize(
    ("tried", "said"),
    [
        (True, "not compiled: No working C++ compiler found"),
        (False, "the encoder's blocks are compiled"),
    ],
)
def test_what_cannot_be_compiled_runs_as_it_is(
    tried: bool, said: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whether nothing can be, or what is tried first can and the blocks cannot."""

    def missing(*_: Any, **__: Any) -> Any:
        raise RuntimeError("No working C++ compiler found\nand more")

    state, _ = fitted("ept", {})
    monkeypatch.setattr(torch, "compile", lambda *_, **__: missing)
    monkeypatch.setattr(compiled, "WARM_UP", -1)
    if not tried:
        monkeypatch.setattr(compiled, "_why_not", lambda: "")
    with caplog.at_level(logging.INFO, "medept"):
        same, _ = fitted("ept", {})
    assert any(message.endswith(said) for message in caplog.messages)
    for name, tensor in state.items():
        assert torch.equal(same[name], tensor)


def test_it_is_off_where_compiled_code_is_not_to_run() -> None:
    with torch.compiler.set_stance("force_eager"):
        assert compiled._why_not() == "torch.compile is turned off"


@pytest.mark.slow
@pytest.mark.parametrize("variable", ["TORCHDYNAMO_DISABLE", "TORCH_COMPILE_DISABLE"])
def test_it_can_be_turned_off(variable: str) -> None:
    code = "from medept.training import compiled; print(compiled._why_not())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {variable: "1"},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "torch.compile is turned off\n", done.stderr


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
    if precision == "bfloat16":
        encoder.hold_in_bfloat16(besides=trained_of(encoder, method))
    model = adapt(encoder, method, 2, settings)
    recipe = make_recipe("medept", method, epochs=4, head_first=0, views=2, batch_size=4)
    views = Views(IMAGES, encoder.preprocessing, crop_scale=0.5)
    accelerator = make_accelerator("cpu", precision)
    history = loop.train(model, views, TARGETS, recipe, accelerator, **options)
    return model.trained_state(), history
