"""The device and precision asked for; bfloat16 where it was measured to be fast, and no worse."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from mmap import mmap

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, log_loss, roc_auc_score

from medept import FewShotClassifier, InputError
from medept.phantoms import make_phantoms
from medept.training import device
from medept.training.device import memory_in_use, peak_memory


@pytest.mark.parametrize(("fast", "mixed"), [(True, "bf16"), (False, "no")])
def test_auto_takes_what_was_measured(
    monkeypatch: pytest.MonkeyPatch, fast: bool, mixed: str
) -> None:
    monkeypatch.setattr(device, "fast_bfloat16", lambda kind: fast)
    assert device.make_accelerator("cpu", "auto").mixed_precision == mixed
    assert device.make_accelerator("cpu", "float32").mixed_precision == "no"


@pytest.mark.parametrize(("gain", "fast"), [(2.0, True), (1.2, False)])
def test_fast_is_half_as_fast_again(
    monkeypatch: pytest.MonkeyPatch, gain: float, fast: bool
) -> None:
    """By a clock that a product moves on, in bfloat16 by less."""
    clock = [0.0]

    def product(tokens: torch.Tensor, weight: torch.Tensor) -> None:
        clock[0] += 1.0 if tokens.dtype == torch.float32 else 1 / gain

    monkeypatch.setattr(torch.nn.functional, "linear", product)
    monkeypatch.setattr(device.time, "perf_counter", lambda: clock[0])
    assert device.fast_bfloat16.__wrapped__("cpu") == fast


def test_the_device_asked_for_is_taken_whatever_was_used_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from accelerate.state import PartialState

    assert device.make_accelerator("cpu", "float32").device.type == "cpu"
    forgotten = []
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(PartialState, "_reset_state", lambda: forgotten.append(True))
    device.make_accelerator("mps", "float32")
    device.make_accelerator("auto", "float32")
    assert len(forgotten) == (1 if torch.cuda.is_available() else 2)


def test_an_accelerator_keeps_its_precision_when_another_is_made() -> None:
    """Though accelerate has one for all; and when threads make them at once."""
    first = device.make_accelerator("cpu", "float32")
    second = device.make_accelerator("cpu", "bfloat16")
    assert [device.precision_of(one) for one in (first, second)] == ["float32", "bfloat16"]
    with first.autocast():
        assert not torch.is_autocast_enabled("cpu")
    with second.autocast():
        assert torch.is_autocast_enabled("cpu")
    interval, asked = sys.getswitchinterval(), ["float32", "bfloat16"] * 50
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as threads:
            made = list(
                threads.map(lambda precision: device.make_accelerator("cpu", precision), asked)
            )
    finally:
        sys.setswitchinterval(interval)
    assert [device.precision_of(one) for one in made] == asked


@pytest.mark.parametrize("name", ["cuda:1", "cpu:0", "tpu"])
def test_a_device_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"'{name}' is not available here: use one of auto, cpu"):
        device.make_accelerator(name)


@pytest.mark.slow
def test_bfloat16_is_as_good_as_float32() -> None:
    """Its metrics differ by less than those of one support set and seed from another's."""
    data = make_phantoms("colon", patients=40, images_per_patient=1, size=48, difficulty=0.6)
    test = data.subset(np.arange(16, 40))
    found: dict[str, list[list[float]]] = {"float32": [], "bfloat16": []}
    for precision, rows in found.items():
        for seed in range(5):
            support = data.subset(np.random.default_rng(seed).permutation(16)[:10])
            classifier = FewShotClassifier(
                image_size=32,
                symmetry="flip",
                seed=seed,
                device="cpu",
                precision=precision,
                calibrate="none",
            )
            classifier.fit(support.images, support.labels, classes=data.classes)
            probabilities = classifier.predict_proba(test.images)
            rows.append([
                roc_auc_score(test.targets, probabilities[:, 1]),
                balanced_accuracy_score(test.targets, probabilities.argmax(1)),
                log_loss(test.targets, probabilities),
            ])  # fmt: skip
    plain, low = (np.array(rows) for rows in found.values())
    spread = plain.std(axis=0, ddof=1)
    assert (spread > 0).all()
    assert (abs((low - plain).mean(axis=0)) <= spread).all()


SQUARES = [np.full((32, 32, 3), value, np.uint8) for value in (0, 10, 20, 200, 210, 220)]


def test_memory_in_use_is_that_of_the_process() -> None:
    size, before = 200 * 2**20, memory_in_use(torch.device("cpu"))
    with mmap(-1, size) as block:  # new pages, none that the process had already
        for start in range(0, size, 4096):
            block[start] = 1
        assert memory_in_use(torch.device("cpu")) - before == pytest.approx(size, rel=0.1)
    assert peak_memory() >= size
