"""Unfamiliar images: the stated false-alarm rate, and images of another kind."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import run, shared_data
from safetensors.torch import load_file, save_file

from medept import FewShotClassifier, InputError
from medept.evaluation.familiarity import distances, fit_familiarity, spread


def folds_of(features: np.ndarray, count: int = 3) -> np.ndarray:
    """Distance of each image from those of the other folds."""
    held = np.zeros(len(features))
    for fold in range(count):
        out = np.arange(len(features)) % count == fold
        held[out] = distances(features[out], *spread(features[~out]))
    return held


@pytest.mark.parametrize(("n", "rate"), [(30, 0.1), (100, 0.05)])
def test_no_more_new_images_are_unfamiliar_than_stated(n: int, rate: float) -> None:
    alarms = []
    for seed in range(200):
        random = np.random.default_rng(seed)
        mixing = random.normal(size=(12, 12))
        features = random.normal(size=(n + 200, 12)) @ mixing + 3
        known = features[:n]
        found = fit_familiarity(known, folds_of(known), np.arange(n), rate)
        assert found.false_alarms == rate
        alarms.append((found.strangeness(features[n:]) > 1).mean())
    assert rate - 0.04 <= np.mean(alarms) <= rate + 0.01


def test_few_images_promise_what_they_can() -> None:
    random = np.random.default_rng(0)
    known = random.normal(size=(9, 5))
    held = folds_of(known)
    found = fit_familiarity(known, held, np.arange(9), 0.05)
    assert found.false_alarms == pytest.approx(0.1)
    assert found.limit == pytest.approx(held.max())
    assert "9 cases or groups" in found.note()


def test_distances_are_those_of_a_loop() -> None:
    random = np.random.default_rng(1)
    known, new = random.normal(size=(7, 3)) * (1, 5, 0), random.normal(size=(4, 3))
    variance = [np.var(column) for column in known.T]
    drawn = [(7 * v + 5 * np.mean(variance)) / 12 for v in variance]
    parts = list(zip(known.mean(axis=0), drawn, strict=True))
    expected = [
        np.mean([(x - m) ** 2 / v for x, (m, v) in zip(row, parts, strict=True)]) for row in new
    ]
    assert distances(new, *spread(known)) == pytest.approx(expected)


def test_images_of_another_modality_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An adapter for blood cells, on other cells and on brain MRI."""
    cells, brains = shared_data("data", "wbc", "labels.csv"), shared_data("data", "brain-mri")
    rows = pd.read_csv(cells).groupby("label").head(20)
    rows = rows[rows.label != "basophil"]
    table = tmp_path / "cells.csv"
    rows.assign(image=[str(cells.parent / name) for name in rows.image]).to_csv(table, index=False)
    out = tmp_path / "fit"
    assert run("fit", table, "--out", out, "--image-root", cells.parent, "--shots", 8,
               "--symmetry", "none") == 0  # fmt: skip
    metrics = json.loads((out / "metrics.json").read_text())
    told = pd.read_csv(out / "predictions.csv").unfamiliar == "yes"
    assert metrics["unfamiliar"]["value"] == pytest.approx(told.mean())
    assert told.mean() <= 0.15
    assert "are unlike the training images, where chance makes" in (out / "report.html").read_text()
    capsys.readouterr()
    strange = sorted((brains / "images").iterdir())[:20]
    assert run("predict", out, *strange, "--out", tmp_path / "p.csv") == 0
    assert (pd.read_csv(tmp_path / "p.csv").unfamiliar == "yes").all()
    printed = " ".join(capsys.readouterr().err.split())
    assert "20 of 20 images or cases are unlike the training images" in printed
    again = FewShotClassifier.load(out, device="cpu")
    again.save(tmp_path / "copy")
    for name in load_file(out / "adapter.safetensors"):
        first, other = (
            load_file(at / "adapter.safetensors")[name] for at in (out, tmp_path / "copy")
        )
        assert torch.equal(first, other)
    broken = load_file(out / "adapter.safetensors") | {"familiarity.mean": torch.zeros(3)}
    save_file(broken, tmp_path / "copy" / "adapter.safetensors")
    with pytest.raises(InputError, match="does not fit"):
        FewShotClassifier.load(tmp_path / "copy", device="cpu")
