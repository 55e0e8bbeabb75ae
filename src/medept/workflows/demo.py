"""A complete run on synthetic images: no network, no data set, a few minutes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medept.benchmark import score_plots
from medept.classifier.classifier import FewShotClassifier
from medept.data.labelled_images import LabelledImages
from medept.evaluation.metrics import evaluate
from medept.files import whole_folder, write_table
from medept.phantoms import TASKS, make_phantoms, write_phantoms
from medept.progress import Progress, quietly
from medept.report import plots
from medept.workflows.fit import fit, fit_episode

METHODS = ("linear", "ept")


@dataclass(frozen=True)
class DemoResult:
    """One row a run (method, shots, seed, metrics), and where all is."""

    folder: Path
    runs: pd.DataFrame


def run_demo(
    out: Path,
    progress: Progress,
    *,
    shots: Sequence[int] = (1, 5, 10),
    seeds: Sequence[int] = (0, 1, 2),
    patients: int = 60,
) -> DemoResult:
    """Draw phantoms, fit linear probing and EPT, save one fit and pictures.

    Args:
        out: a new folder.
        progress: called with what is done.
        shots: patients per class in the support sets.
        seeds: one support set each.
        patients: of the phantoms, with two images each.

    Raises:
        InputError: if ``out`` exists and is not an empty folder.
    """
    with whole_folder(out) as folder:
        data = make_phantoms("colon", patients=patients, images_per_patient=2)
        write_phantoms(data, folder / "colon-phantoms")
        rows = []
        total = len(METHODS) * len(shots) * len(seeds)
        for row in _runs(data, shots, seeds):
            rows.append(row)
            progress("fits", len(rows), total)
        runs = pd.DataFrame(rows)
        write_table(folder / "runs.csv", runs)
        classifier = FewShotClassifier(method="ept", progress=progress)
        fit(data, folder / "adapter", classifier, shots=shots[-1])
        _pictures(data, classifier, runs, folder)
    return DemoResult(out, runs)


def _runs(
    data: LabelledImages, shots: Sequence[int], seeds: Sequence[int]
) -> Iterator[dict[str, Any]]:
    for seed in seeds:
        for k in shots:
            for method in METHODS:
                classifier = FewShotClassifier(method=method, seed=seed, calibrate="none")
                with quietly():
                    _, test = fit_episode(data, classifier, k)
                result = evaluate(
                    classifier.predict_proba(test.images), test.targets, classes=data.classes,
                    groups=test.groups, resamples=1,
                )  # fmt: skip
                values = {name: metric.value for name, metric in result.metrics.items()}
                yield {"method": method, "shots": k, "seed": seed} | values


def summary(runs: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Mean and standard deviation over support sets: methods down, shots across."""
    grouped = runs.groupby(["method", "shots"], sort=False)[metric]
    text = grouped.mean().map("{:.3f}".format) + " ± " + grouped.std().map("{:.3f}".format)
    return text.unstack("shots")


def _pictures(
    data: LabelledImages, classifier: FewShotClassifier, runs: pd.DataFrame, folder: Path
) -> None:
    samples = {
        task: [
            np.asarray(image)
            for image in make_phantoms(task, patients=8, images_per_patient=1).images
        ]
        for task in TASKS
    }
    plots.save(plots.contact_sheet(samples), folder / "phantoms.png")
    table = runs.rename(columns={"method": "label", "balanced_accuracy": "score"})
    curve = score_plots.lines(
        table.assign(data="colon phantoms", metric="balanced accuracy"), "shots",
        over=list(dict.fromkeys(runs["shots"])), xlabel="shots (patients per class)",
    )  # fmt: skip
    plots.save(curve, folder / "shots.png")
