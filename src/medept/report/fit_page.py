"""The report of one fit, made of the files that the fit wrote: what a clinician can read.

Metrics and their intervals are those of ``metrics.json``; everything else is computed from
``predictions.csv``, so that anybody can compute it again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medept.adapter import AdapterInfo, read_info
from medept.data.images import ImageLike
from medept.errors import InputError
from medept.evaluation.conformal import Coverage, check_coverage
from medept.evaluation.reliability import (
    abstention_curve,
    confidences,
    reliability_curve,
)
from medept.files import write_text
from medept.report import plots
from medept.report.html import data_uri, picture, render, shown, thumbnail

REPORT = "report.html"
SHOWN, SUPPORT_SHOWN, CLASSES_SHOWN = 8, 60, 25
FEW_GROUPS = 30
"""Below so many patients in the test set, the report says that they are few."""

METRICS = {
    "accuracy": "share of images told rightly",
    "balanced_accuracy": "the same, mean over classes: rare ones count as much",
    "auroc": "chance that an image of the class is ranked above another",
    "map": "average precision, mean over labels",
    "f1": "between precision and recall, mean over classes",
    "ece": "how far confidence is from being right; 0 is best",
    "brier": "squared error of the probabilities; 0 is best",
}
FIGURES = {
    "figure2.png": "Features of the test images before and after tuning: (a) one class along its "
    "first principal component, (b) its contours, (c) all classes.",
    "gates.png": "Where attention goes (rollout) and by how much prompts turn patches down (gates) "
    "in images told rightly and wrongly.",
    "gates-by-layer.png": "Gates of all patches by layer: median, half, and nine tenths of them.",
}


@dataclass(frozen=True)
class Fit:
    """What a fit's folder holds.

    Attributes:
        info: of the adapter.
        metrics: the content of ``metrics.json``; None where there was no test set.
        names: of the n test images, with their groups.
        targets: (n,) class indices, or (n, C) of 0 and 1.
        probabilities: (n, C).
        support: one row a support image.
        findings: of the data check.
    """

    info: AdapterInfo
    metrics: dict[str, Any] | None
    names: list[str]
    groups: np.ndarray | None
    targets: np.ndarray
    probabilities: np.ndarray
    support: pd.DataFrame
    findings: list[dict[str, Any]]

    @property
    def right(self) -> np.ndarray:
        """(n,) whether an image is told rightly; of labels, whether all are."""
        if self.targets.ndim == 2:
            return ((self.probabilities >= 0.5) == self.targets).all(axis=1)
        return np.equal(self.probabilities.argmax(axis=1), self.targets)

    @property
    def sureness(self) -> np.ndarray:
        """(n,) the largest probability; of labels, how far the least sure one is from 0.5."""
        if self.targets.ndim == 2:
            return 0.5 + np.abs(self.probabilities - 0.5).min(axis=1)
        return np.asarray(self.probabilities.max(axis=1))

    def text(self, row: np.ndarray) -> str:
        """Classes of a row of 0 and 1, or of an index."""
        classes = self.info.classes
        if np.ndim(row) == 0:
            return classes[int(row)]
        return ", ".join(c for c, yes in zip(classes, row, strict=True) if yes) or "none"


def read_fit(folder: Path) -> Fit:
    """Read a folder that ``medept fit`` wrote.

    Raises:
        InputError: if a file is missing or damaged.
    """
    info = read_info(folder)
    support = _table(folder / "support.csv", "image", "label")
    findings = _json(folder / "check.json") if (folder / "check.json").exists() else []
    if not (folder / "metrics.json").exists():
        nothing = np.zeros((0, len(info.classes)))
        return Fit(info, None, [], None, nothing, nothing, support, findings)
    columns = [f"p_{name}" for name in info.classes]
    table = _table(folder / "predictions.csv", "image", "label", *columns)
    try:
        probabilities = table[columns].to_numpy(dtype=np.float64)
    except ValueError as error:
        raise InputError(f"{folder / 'predictions.csv'}: {error}; fit again") from error
    return Fit(
        info,
        _json(folder / "metrics.json"),
        table["image"].tolist(),
        table["group"].to_numpy() if "group" in table else None,
        _targets(table["label"], info, folder),
        probabilities,
        support,
        findings,
    )


def write_fit_page(folder: Path, images: Mapping[str, ImageLike] | None = None) -> Path:
    """Write ``report.html`` into the folder of a fit.

    Args:
        folder: what ``medept fit`` wrote.
        images: name -> image, for the small pictures; without, names stand alone.

    Raises:
        InputError: if a file is missing or damaged.
    """
    page = as_html(read_fit(folder), folder, images or {})
    write_text(folder / REPORT, page)
    return folder / REPORT


def as_html(fit: Fit, folder: Path, images: Mapping[str, ImageLike]) -> str:
    """One page that holds its figures and small pictures, and loads nothing."""
    info = fit.info
    n = len(fit.names)
    return render(
        "fit.html.j2",
        title=f"{info.method} on {info.encoder.name}",
        asked=_asked(fit),
        findings=fit.findings,
        metrics=_metrics(fit),
        undefined=(fit.metrics or {}).get("undefined", {}),
        table=_confusion(fit) if fit.targets.ndim == 1 else None,
        per_class=_per_class(fit) if n else [],
        curves=_curves(fit) if n else "",
        reliability=_reliability(fit) if n else None,
        abstention=_abstention(fit) if n else None,
        conformal=_conformal(fit) if n else None,
        examples=_examples(fit, images) if n else [],
        figures=_figures(folder),
        support=_support(fit, images),
        needed=_needed(fit),
        settings=_settings(info),
        pictured=bool(images),
    )


# --- words -----------------------------------------------------------------------------------


def _asked(fit: Fit) -> str:
    info = fit.info
    groups = "" if "group" not in fit.support else f" of {fit.support['group'].nunique()} groups"
    kinds = "which labels an image has" if info.task == "multilabel" else "which class an image is"
    names = ", ".join(shown(name) for name in info.classes)
    if not len(fit.names):
        tested = "not tested: no image was left to test on"
    elif fit.groups is None:
        tested = f"tested on {len(fit.names):,} others"
    else:
        tested = (
            f"tested on {len(fit.names):,} images of {len(set(fit.groups)):,} groups, none of "
            "which it learnt from"
        )
    return (
        f"To tell {kinds} ({names}), learnt from {len(fit.support):,} labelled images{groups}, "
        f"and {tested}."
    )


def _needed(fit: Fit) -> list[str]:
    """What would be needed to trust it, by what this fit lacks."""
    needed = []
    if not fit.metrics:
        needed.append("A test: images with known labels, of patients it has not learnt from.")
    else:
        groups = fit.metrics["groups"]
        if fit.groups is None:
            needed.append(
                "Patients: no group column was given, so images of one patient may stand on both "
                "sides, and the numbers above may flatter."
            )
        if groups < FEW_GROUPS:
            what = "images" if fit.groups is None else "patients"
            needed.append(
                f"More to test on: {groups} {what} leave the intervals above as they are."
            )
        counts = _positives(fit)
        rare = [shown(c) for c, k in zip(fit.info.classes, counts, strict=True) if k < 10]
        if rare:
            needed.append(f"More test images of {', '.join(rare)}: fewer than ten so far.")
    if fit.info.calibration.kind == "none":
        needed.append("Calibration: the probabilities were not calibrated, and may be too sure.")
    if any(finding["flatters"] for finding in fit.findings):
        needed.append("Clean data: the check above found what makes results look better.")
    return [
        *needed,
        "Images of another hospital, device and year: everything here was drawn from one source.",
        "A comparison with those who read such images today, on the same images, and a judgement "
        "of what each kind of error would do to a patient.",
    ]


def _settings(info: AdapterInfo) -> list[tuple[str, str]]:
    encoder = info.encoder
    size = encoder.preprocessing.size
    recipe = ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in info.recipe.items())
    return [
        ("encoder", f"{encoder.name}, {encoder.parameters:,} frozen parameters"),
        ("its weights", f"SHA-256 {encoder.sha256}"),
        ("images", f"{size[0]} x {size[1]} pixels"),
        ("method", f"{info.method}, {info.trainable_parameters:,} trained parameters"),
        ("settings", ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in info.settings.items())),
        ("recipe", recipe),
        ("probabilities", str(info.calibration)),
        ("seed", str(info.seed)),
        ("versions", ", ".join(f"{k} {v}" for k, v in info.versions.items())),
    ]


# --- numbers ---------------------------------------------------------------------------------


def _metrics(fit: Fit) -> list[dict[str, Any]]:
    rows = []
    for name, about in METRICS.items():
        metric = (fit.metrics or {}).get(name)
        if metric is not None:
            rows.append({"name": name.replace("_", " "), "about": about, **metric})
    return rows


def _positives(fit: Fit) -> np.ndarray:
    if fit.targets.ndim == 2:
        return np.asarray(fit.targets.sum(axis=0))
    return np.bincount(fit.targets, minlength=len(fit.info.classes))


def _confusion(fit: Fit) -> dict[str, Any] | None:
    """Counts by true class (rows) and told class (columns)."""
    classes = [shown(name) for name in fit.info.classes]
    if not len(fit.targets) or len(classes) > CLASSES_SHOWN:
        return None
    counts = np.zeros((len(classes), len(classes)), dtype=int)
    np.add.at(counts, (fit.targets, fit.probabilities.argmax(axis=1)), 1)
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    rows = [
        {
            "name": name,
            "cells": list(zip(c.tolist(), s.tolist(), strict=True)),
            "total": int(c.sum()),
        }
        for name, c, s in zip(classes, counts, shares, strict=True)
    ]
    return {"classes": classes, "rows": rows}


def _per_class(fit: Fit) -> list[dict[str, Any]]:
    """Sensitivity, specificity and precision of each class, at the decision that was taken."""
    if fit.targets.ndim == 2:
        truth, told = fit.targets.astype(bool), fit.probabilities >= 0.5
    else:
        one_hot = np.eye(len(fit.info.classes), dtype=bool)
        truth, told = one_hot[fit.targets], one_hot[fit.probabilities.argmax(axis=1)]
    rows = []
    for name, true, yes in zip(fit.info.classes, truth.T, told.T, strict=True):
        rows.append(
            {
                "name": shown(name),
                "n": int(true.sum()),
                "sensitivity": _share(true & yes, true),
                "specificity": _share(~true & ~yes, ~true),
                "precision": _share(true & yes, yes),
            }
        )
    return rows


def _share(part: np.ndarray, whole: np.ndarray) -> float | None:
    return float(part.sum() / whole.sum()) if whole.any() else None


def _curves(fit: Fit) -> str:
    classes = [shown(name) for name in fit.info.classes]
    truth = fit.targets if fit.targets.ndim == 2 else np.eye(len(classes))[fit.targets]
    if not any(0 < column.sum() < len(truth) for column in truth.T):
        return ""
    return picture(plots.curves(fit.probabilities, truth, classes))


def _reliability(fit: Fit) -> str:
    curve = reliability_curve(*confidences(fit.probabilities, fit.targets))
    error = (fit.metrics or {})["ece"]["value"]
    return picture(plots.reliability(curve, error))


def _abstention(fit: Fit) -> dict[str, Any]:
    answered, accuracy = abstention_curve(fit.sureness, fit.right.astype(float))
    half = int(np.searchsorted(answered, 0.5))
    return {
        "picture": picture(plots.abstention(answered, accuracy)),
        "all": float(accuracy[-1]),
        "share": float(answered[half]),
        "half": float(accuracy[half]),
    }


def _conformal(fit: Fit) -> Coverage | None:
    if fit.targets.ndim == 2:
        return None
    return check_coverage(fit.probabilities, fit.targets, fit.groups, coverage=0.9)


# --- pictures --------------------------------------------------------------------------------


def _examples(fit: Fit, images: Mapping[str, ImageLike]) -> list[dict[str, Any]]:
    sure, right = fit.sureness, fit.right
    wrong = np.flatnonzero(~right)
    chosen = {
        "Told wrongly, the surest first": wrong[np.argsort(-sure[wrong], kind="stable")],
        "The least sure": np.argsort(sure, kind="stable"),
        "Told rightly, the surest first": np.flatnonzero(right)[
            np.argsort(-sure[right], kind="stable")
        ],
    }
    return [
        {"title": title, "images": [_example(fit, int(i), images) for i in rows[:SHOWN]]}
        for title, rows in chosen.items()
        if len(rows)
    ]


def _example(fit: Fit, row: int, images: Mapping[str, ImageLike]) -> dict[str, Any]:
    if fit.targets.ndim == 2:
        told = fit.text(fit.probabilities[row] >= 0.5)
    else:
        told = fit.text(fit.probabilities[row].argmax())
    return {
        "name": shown(fit.names[row]),
        "told": shown(told),
        "sure": float(fit.sureness[row]),
        "truth": shown(fit.text(fit.targets[row])),
        "right": bool(fit.right[row]),
        "picture": _thumbnail(fit.names[row], images),
    }


def _support(fit: Fit, images: Mapping[str, ImageLike]) -> dict[str, Any]:
    rows = fit.support.to_dict(orient="records")
    each = max(1, SUPPORT_SHOWN // max(1, fit.support["label"].nunique()))
    first = fit.support.groupby("label", sort=False).head(each).index
    return {
        "images": [
            {
                "name": shown(str(rows[i]["image"])),
                "label": shown(str(rows[i]["label"])),
                "picture": _thumbnail(str(rows[i]["image"]), images),
            }
            for i in first
        ],
        "more": len(rows) - len(first),
    }


def _thumbnail(name: str, images: Mapping[str, ImageLike]) -> str:
    return thumbnail(images[name]) if name in images else ""


def _figures(folder: Path) -> list[dict[str, str]]:
    return [
        {"uri": data_uri((folder / name).read_bytes(), "image/png"), "about": about}
        for name, about in FIGURES.items()
        if (folder / name).exists()
    ]


# --- reading ---------------------------------------------------------------------------------


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: damaged ({error}); fit again") from error


def _table(file: Path, *columns: str) -> pd.DataFrame:
    """A CSV file that has these columns, every cell as text."""
    try:
        table = pd.read_csv(file, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: missing or damaged ({error}); fit again") from error
    missing = [name for name in columns if name not in table]
    if missing:
        raise InputError(f"{file}: no column {', '.join(missing)}; fit again")
    return table


def _targets(labels: pd.Series, info: AdapterInfo, folder: Path) -> np.ndarray:
    """Labels as they stand in ``predictions.csv``, where a cell may have got an apostrophe."""
    place = {form: i for i, name in enumerate(info.classes) for form in (name, f"'{name}")}
    targets = np.zeros((len(labels), len(info.classes)), dtype=np.int64)
    for row, text in enumerate(labels):
        for part in [text] if info.task == "multiclass" else filter(None, text.split("|")):
            if part not in place:
                raise InputError(
                    f"{folder / 'predictions.csv'}: row {row + 2}: {part!r} is no class of the "
                    "adapter; fit again"
                )
            targets[row, place[part]] = 1
    return targets if info.task == "multilabel" else targets.argmax(axis=1)
