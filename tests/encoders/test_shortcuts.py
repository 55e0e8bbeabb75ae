"""Shortcuts change nothing; an encoder they do not suit runs without; no memory is no such sign."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from small_encoders import LIBRARIES, make_encoder, pooled_encoder
from small_fits import ALL, fitted, without

from medept.encoders import class_token
from medept.encoders.encoder import Encoder
from medept.encoders.shortcuts import if_suited, is_close, noise
from medept.errors import EncoderError, InputError, is_out_of_memory
from medept.methods import adapt
from medept.training.prefix import find_prefix

NO_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to ..."),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
    RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    MemoryError(),
]
UNSUITED = [
    RuntimeError("mat1 and mat2 shapes cannot be multiplied (1x2 and 3x4)"),
    EncoderError("the blocks are of a kind that this method cannot use"),
    AttributeError("mlp"),
    IndexError(),
    TypeError(),
    ValueError(),
]


def failing(error: BaseException) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


def test_memory_that_really_runs_out_is_told_apart_from_shapes_that_do_not_fit() -> None:
    with pytest.raises(RuntimeError) as no_memory:
        torch.empty(2**50)
    with pytest.raises(RuntimeError) as shapes:
        torch.zeros(2, 3) @ torch.zeros(2, 3)
    assert is_out_of_memory(no_memory.value)
    assert not is_out_of_memory(shapes.value)


@pytest.mark.parametrize("error", UNSUITED, ids=repr)
def test_a_shortcut_that_does_not_suit_is_none(error: Exception) -> None:
    assert if_suited(failing(error)) is None


@pytest.mark.parametrize("error", NO_MEMORY, ids=repr)
def test_out_of_memory_is_not_caught(error: BaseException) -> None:
    with pytest.raises(type(error)):
        if_suited(failing(error))


def test_a_gpu_that_failed_is_not_caught() -> None:
    with pytest.raises(torch.AcceleratorError):
        if_suited(failing(torch.AcceleratorError("CUDA error: device-side assert triggered")))


@pytest.mark.parametrize("error", NO_MEMORY, ids=repr)
@pytest.mark.parametrize("library", LIBRARIES)
def test_out_of_memory_is_not_remembered_of_the_last_block(
    library: str, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither while its shortcut is verified, nor while its attentions are looked for."""
    encoder, pixels = make_encoder(library), torch.randn(2, 3, 32, 32)
    for where, name in ((class_token, "class_token_only"), (encoder.model, "forward")):
        with monkeypatch.context() as patched:
            patched.setattr(where, name, failing(error))
            with pytest.raises(type(error)):
                encoder(pixels)
    assert encoder(pixels).isfinite().all()
    assert encoder._last_block is not None


@pytest.mark.parametrize("error", NO_MEMORY, ids=repr)
def test_out_of_memory_is_not_remembered_of_the_prefix(
    error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = adapt(make_encoder("timm"), "ept", 3)
    with monkeypatch.context() as patched:
        patched.setattr(Encoder, "forward", failing(error))
        with pytest.raises(type(error)):
            find_prefix(model)
    assert find_prefix(model) is not None


@pytest.mark.parametrize("error", UNSUITED, ids=repr)
def test_an_encoder_that_shortcuts_do_not_suit_runs_whole(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, pixels = make_encoder("timm"), torch.randn(2, 3, 32, 32)
    with monkeypatch.context() as patched:
        patched.setattr(class_token, "class_token_only", failing(error))
        features = encoder(pixels)
    assert encoder._last_block is None
    assert torch.equal(features, encoder.model(pixels))
    with monkeypatch.context() as patched:
        patched.setattr("medept.training.prefix.Prefix.encode", failing(error))
        assert find_prefix(adapt(encoder, "ept", 3)) is None


def test_an_image_too_large_for_memory_is_no_size_that_does_not_fit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from medept.encoders.load import resized

    encoder = make_encoder("timm")
    monkeypatch.setattr(encoder.model, "forward", failing(NO_MEMORY[1]))
    with pytest.raises(RuntimeError, match="can't allocate memory") as found:
        resized(encoder, 64)
    assert not isinstance(found.value, InputError)


def test_noise_is_the_same_in_every_call() -> None:
    like = torch.zeros(1, 3, 8, 6, dtype=torch.float64)
    first = noise(2, like)
    torch.manual_seed(5)
    assert first.shape == (2, 3, 8, 6)
    assert first.dtype == torch.float64
    assert torch.equal(noise(2, like), first)


@pytest.mark.parametrize(
    ("error", "dtype", "close"),
    [
        (1e-6, torch.float32, True),
        (1e-4, torch.float32, False),
        (1e-2, torch.bfloat16, True),
        (1e-1, torch.bfloat16, False),
    ],
)
def test_close_is_what_rounding_explains(error: float, dtype: torch.dtype, close: bool) -> None:
    expected, pixels = torch.ones(2, 5), torch.zeros(1)
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        assert is_close(expected + error, expected, pixels) == close


@cache
def fitted_with_all(
    method: str, settings: str, pool: str, precision: str = "float32"
) -> tuple[dict[str, torch.Tensor], np.ndarray]:
    return fitted(pooled_encoder(pool), method, json.loads(settings), precision)


@pytest.mark.parametrize("pool", ["token", "avg", "map"])
@pytest.mark.parametrize("shortcut", ["prefix", "class token", "read ahead"])
@pytest.mark.parametrize(("method", "settings"), ALL)
def test_each_shortcut_changes_nothing(
    method: str, settings: dict[str, Any], shortcut: str, pool: str
) -> None:
    """Losses of all epochs and what was trained, with it and without, in float32."""
    state, losses = fitted_with_all(method, json.dumps(settings), pool)
    with without(shortcut):
        slow_state, slow_losses = fitted(pooled_encoder(pool), method, settings)
    np.testing.assert_allclose(losses, slow_losses, rtol=1e-5)
    for name, tensor in slow_state.items():
        torch.testing.assert_close(state[name], tensor, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("shortcut", ["prefix", "class token", "bfloat16"])
@pytest.mark.parametrize(("method", "settings"), ALL)
def test_each_shortcut_changes_little_in_bfloat16(
    method: str, settings: dict[str, Any], shortcut: str
) -> None:
    """Losses of all epochs; not at all if weights are stored in what they would be cast to."""
    losses = fitted_with_all(method, json.dumps(settings), "token", "bfloat16")[1]
    with without(shortcut):
        slow = fitted(pooled_encoder("token"), method, settings, "bfloat16")[1]
    if shortcut == "bfloat16":
        np.testing.assert_array_equal(losses, slow)
    else:
        np.testing.assert_allclose(losses, slow, rtol=0.02)
