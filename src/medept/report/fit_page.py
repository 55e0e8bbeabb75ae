"""The report of a fit, for clinicians to read, made from the files of the fit alone.

Metrics, their intervals and calibration errors are those of ``metrics.json``. All other numbers are
computed from ``predictions.csv``, so that anybody can compute them again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from medept.data.images import ImageLike
from medept.data.labelled_images import label_text
from medept.evaluation.calibration_error import BINS
from medept.evaluation.predictions import THRESHOLD, indicators
from medept.evaluation.reliability import abstention_curve, confidences, reliability_curve
from medept.files import write_text
from medept.fits import layout
from medept.fits.adapter import AdapterInfo
from medept.fits.folder import Fit, read_fit
from medept.fits.tables import probability_names
from medept.report import plots, probability_plots
from medept.report.decisions import RATES, decision_parts, points_on_curves
from medept.report.first_page import (
    assumed_prevalence,
    beware,
    cross_validated,
    unfamiliar_images,
)
from medept.report.html import data_uri, picture, render, shown, thumbnail
from medept.report.prediction_sets import prediction_sets
from medept.report.subgroups import subgroup_parts

SHOWN, SUPPORT_SHOWN, CLASSES_SHOWN, DECIDING = 8, 60, 25, 3
FEW_GROUPS = 30
"""The report says that a test set is small if it has fewer patients than this."""

METRICS = {
    "accuracy": ("accuracy", "share of {units} classified correctly"),
    "balanced_accuracy": (
        "balanced accuracy",
        "share of a class classified correctly, mean over classes: all classes count alike",
    ),
    "auroc": ("AUROC", "chance that one of the class is ranked above one of the rest"),
    "map": ("mAP", "average precision, mean over labels"),
    "f1": ("F1", "harmonic mean of precision and recall, mean over classes"),
    "ece": ("ECE", "expected gap between confidence and accuracy; 0 is best"),
    "brier": ("Brier score", "squared error of the probabilities; 0 is best"),
    "nll": ("log loss", "negative log likelihood of the truth; 0 is best"),
}
"""Name in ``metrics.json`` -> name in the report, and meaning."""

FIGURES = {
    layout.FEATURE_FIGURE: "Features of the test images before and after tuning: (a) one class "
    "along its first principal component, (b) its contours, (c) all classes.",
    layout.GATE_MAPS: "Where attention goes (rollout) and how much of its attention output each "
    "patch keeps (gate; dark: suppressed), on average, and in images classified correctly, "
    "misclassified, scaled most and scaled least.",
    layout.GATES_BY_HEAD: "Gates of one image by layer and attention head.",
    layout.GATES_BY_LAYER: "Gates of all tokens by layer: median, central 50 % and central 90 %.",
}


def write_fit_page(folder: Path, images: Mapping[str, ImageLike] | None = None) -> Path:
    """Write ``report.html`` into the folder of a fit.

    Args:
        folder: what ``medept fit`` wrote.
        images: name -> image, for thumbnails; without them the report shows names alone.

    Returns:
        the page.

    Raises:
        InputError: if a file is missing or damaged.
    """
    page = as_html(read_fit(folder), folder, images or {})
    write_text(folder / layout.REPORT, page)
    return folder / layout.REPORT


def as_html(fit: Fit, folder: Path, images: Mapping[str, ImageLike]) -> str:
    """The page as HTML, with its figures and thumbnails inside."""
    info = fit.info
    tested = len(fit.names) > 0
    metrics = _metrics(fit)
    main = METRICS["map" if fit.multilabel else "balanced_accuracy"][0]
    return render(
        "fit.html.j2",
        title=f"{len(info.classes)} {'labels' if fit.multilabel else 'classes'} from "
        f"{_support_count(fit):,} labelled {_units(fit)}",
        units=_units(fit),
        attention=info.pool == "attention",
        unit=_units(fit)[:-1],
        method=f"{info.method} on the encoder {info.encoder.name}",
        summary=_summary(fit),
        headline=next((m for m in metrics if m["name"] == main and m["value"] is not None), None),
        cross_validated=None if tested else cross_validated(fit),
        beware=beware(fit),
        assumed=assumed_prevalence(fit),
        unfamiliar=unfamiliar_images(fit, _units(fit)),
        findings=fit.findings,
        metrics=metrics,
        at_prevalence=_at_prevalence(fit),
        undefined={
            METRICS[key][0]: names
            for key, names in (fit.metrics or {}).get("undefined", {}).items()
        },
        few={shown(c): n for c, n in (fit.metrics or {}).get("few", {}).items()},
        tested_units=_units(fit) if fit.groups is None else "groups",
        table=_confusion(fit) if tested and not fit.multilabel else None,
        per_class=_per_class(fit) if tested else [],
        threshold=THRESHOLD,
        multilabel=fit.multilabel,
        decisions=decision_parts(fit),
        rate_names=RATES,
        subgroups=subgroup_parts(fit),
        curves=_curves(fit) if tested else [],
        reliability=_reliability(fit) if tested else None,
        calibration=(fit.metrics or {}).get("calibration"),
        abstention=_abstention(fit) if tested else None,
        conformal=prediction_sets(fit) if tested else None,
        examples=_examples(fit, images) if tested else [],
        change=fit.distribution if "shape_factor" in fit.distribution else None,
        figures=_figures(folder),
        curve=_learning_curve(fit),
        support=_support(fit, images),
        needed=_needed(fit),
        settings=_settings(info),
        pictured=bool(images),
    )


# --- words -----------------------------------------------------------------------------------


def _units(fit: Fit) -> str:
    """What the rows of the test set are."""
    return "cases" if fit.has_cases else "images"


def _support_count(fit: Fit) -> int:
    """The number of support images, or of cases."""
    return (fit.has_cases and fit.info.support_cases) or len(fit.support)


def _summary(fit: Fit) -> str:
    info = fit.info
    groups = "" if "group" not in fit.support else f" of {fit.support['group'].nunique()} groups"
    one = "a case" if fit.has_cases else "an image"
    kinds = f"which labels {one} has" if info.task == "multilabel" else f"which class {one} is"
    of_images = f" ({len(fit.support):,} images)" if fit.has_cases else ""
    names = ", ".join(shown(name) for name in info.classes)
    if not len(fit.names):
        tested = f"not tested: none of the {_units(fit)} was left to test on"
    elif fit.groups is None:
        tested = f"tested on {len(fit.names):,} others"
    else:
        tested = (
            f"tested on {len(fit.names):,} {_units(fit)} of {len(set(fit.groups)):,} groups, none "
            "of which it was trained on"
        )
    return (
        f"It predicts {kinds} ({names}). Trained on {_support_count(fit):,} labelled {_units(fit)}"
        f"{of_images}{groups}, "
        f"{tested}."
    )


def _needed(fit: Fit) -> list[str]:
    """What would be needed to trust this fit."""
    needed = []
    if not fit.metrics:
        needed.append("A test: images with known labels, of patients it was not trained on.")
    else:
        groups = fit.metrics["groups"]
        if fit.groups is None:
            needed.append(
                f"Patients: no group column was given, so {_units(fit)} of one patient may be in "
                "both training and test set, and the numbers above may be too good."
            )
        if groups < FEW_GROUPS:
            what = _units(fit) if fit.groups is None else "patients"
            needed.append(
                f"More {what} to test on: with only {groups}, the intervals above are wide."
            )
        counts = fit.truth.sum(axis=0)
        rare = [shown(c) for c, k in zip(fit.info.classes, counts, strict=True) if k < 10]
        if rare:
            needed.append(f"More test {_units(fit)} of {', '.join(rare)}: fewer than ten so far.")
    if fit.info.calibration.kind == "none":
        needed.append(
            "Calibration: the probabilities were not calibrated, and may be overconfident."
        )
    if any(finding["flatters"] for finding in fit.findings or ()):
        needed.append("Clean data: the check above found problems that inflate these results.")
    return [
        *needed,
        "A test on images from another hospital, device and year.",
        "A comparison with the people who read such images today, on the same images, and a "
        "judgement of what each kind of error would do to a patient.",
    ]


def _settings(info: AdapterInfo) -> list[tuple[str, str]]:
    encoder = info.encoder
    size = encoder.preprocessing.size
    predicted = (
        f"each label whose probability is above {THRESHOLD}"
        if info.task == "multilabel"
        else "the most probable class"
    )
    recipe = ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in info.recipe.items()) or "none"
    return [
        ("encoder", f"{encoder.name}, {encoder.parameters:,} frozen parameters"),
        ("its weights", f"SHA-256 {encoder.sha256}"),
        ("images", f"{size[0]} x {size[1]} pixels"),
        ("method", f"{info.method}, {info.trainable_parameters:,} trained parameters"),
        ("settings", ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in info.settings.items())),
        ("recipe", recipe),
        ("probabilities", str(info.calibration)),
        ("predicted", predicted),
        *([("pooling", info.pool)] if info.support_cases else []),
        *([("volumes", info.volumes)] if info.volumes else []),
        ("seed", str(info.seed)),
        ("versions", ", ".join(f"{k} {v}" for k, v in info.versions.items())),
    ]


# --- numbers ---------------------------------------------------------------------------------


def _metrics(fit: Fit) -> list[dict[str, Any]]:
    rows = []
    for key, (name, about) in METRICS.items():
        metric = (fit.metrics or {}).get(key)
        if metric is not None:
            rows.append({"name": name, "about": about.format(units=_units(fit)), **metric})
    return rows


def _at_prevalence(fit: Fit) -> dict[str, Any] | None:
    """What depends on how common classes are, at the stated prevalence; None without one."""
    told = (fit.metrics or {}).get("at_prevalence")
    if not told:
        return None
    each = ", ".join(f"{shown(c)} {100 * p:.3g} %" for c, p in told["prevalence"].items())
    rows = [{"name": METRICS[key][0], **metric} for key, metric in told["metrics"].items()]
    return {"prevalence": each, "rows": rows}


def _confusion(fit: Fit) -> dict[str, Any] | None:
    """Counts by true class (rows) and predicted class (columns)."""
    classes = [shown(name) for name in fit.info.classes]
    if len(classes) > CLASSES_SHOWN:
        return None
    counts = np.zeros((len(classes), len(classes)), dtype=int)
    np.add.at(counts, (fit.targets, fit.predicted), 1)
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
    """Training images, sensitivity, specificity and precision of each class."""
    targets = indicators(fit.support_targets, len(fit.info.classes))
    if fit.has_cases and "case" in fit.support:
        targets = targets[~fit.support["case"].duplicated().to_numpy()]
    support = targets.sum(axis=0)
    rates = (fit.metrics or {}).get("by_class", {})
    return [
        {"name": shown(name), "support": int(count), "rates": list(rates[name].values())}
        for name, count in zip(fit.info.classes, support, strict=True)
        if name in rates
    ]


def _curves(fit: Fit) -> list[dict[str, str]]:
    classes = [shown(name) for name in fit.info.classes]
    truth = fit.truth
    if not any(0 < column.sum() < len(truth) for column in truth.T):
        return []
    marked = points_on_curves(fit)
    about = {
        "ROC: sensitivity against the share of others taken for the class": probability_plots.roc,
        "Precision against recall": probability_plots.precision_recall,
    }
    ends = "; a circle marks the operating point" * bool(marked)
    return [
        {"uri": picture(draw(fit.probabilities, truth, classes, marked)), "about": text + ends}
        for text, draw in about.items()
    ]


def _learning_curve(fit: Fit) -> dict[str, str] | None:
    if fit.history is None:
        return None
    first, last = fit.history["loss"].iloc[[0, -1]]
    return {
        "picture": picture(plots.learning_curve(fit.history)),
        "about": f"Loss on the training images, mean of each of {len(fit.history)} epochs: from "
        f"{first:.3f} to {last:.3f}. It shows whether training converged, and not how well the "
        "adapter works on other images.",
    }


def _reliability(fit: Fit) -> dict[str, str]:
    curve = reliability_curve(*confidences(fit.probabilities, fit.targets), bins=BINS)
    error = (fit.metrics or {})["ece"]["value"]
    points = zip(curve.count, curve.confidence, curve.frequency, strict=True)
    read = "; ".join(f"{n} at {c:.2f}: {f:.2f}" for n, c, f in points)
    return {
        "picture": picture(probability_plots.reliability(curve, error)),
        "alt": "Reliability diagram. Number of cases at a mean confidence, and the share of them "
        f"that is correct: {read}",
    }


def _abstention(fit: Fit) -> dict[str, Any]:
    answered, accuracy = abstention_curve(fit.confidence, fit.correct.astype(float))
    half = int(np.searchsorted(answered, 0.5))
    return {
        "picture": picture(probability_plots.abstention(answered, accuracy)),
        "all": float(accuracy[-1]),
        "share": float(answered[half]),
        "half": float(accuracy[half]),
    }


# --- pictures --------------------------------------------------------------------------------


def _examples(fit: Fit, images: Mapping[str, ImageLike]) -> list[dict[str, Any]]:
    ascending = np.argsort(fit.confidence, kind="stable")
    descending = np.argsort(-fit.confidence, kind="stable")
    chosen = {
        "Misclassified, most confident first": descending[~fit.correct[descending]],
        "Least confident": ascending,
        "Classified correctly, most confident first": descending[fit.correct[descending]],
    }
    return [
        {"title": title, "images": [_example(fit, int(i), images) for i in rows[:SHOWN]]}
        for title, rows in chosen.items()
        if len(rows)
    ]


def _example(fit: Fit, row: int, images: Mapping[str, ImageLike]) -> dict[str, Any]:
    decided = _deciding(fit, row)
    return {
        "name": shown(fit.names[row]),
        "predicted": _names(fit, fit.predicted[row]),
        "confidence": float(fit.confidence[row]),
        "truth": _names(fit, fit.targets[row]),
        "correct": bool(fit.correct[row]),
        "pictures": [
            {"uri": uri, "name": shown(name), "about": about}
            for name, about in decided
            if (uri := _thumbnail(name, images))
        ],
        "decided": [f"{shown(name)}: {about}" for name, about in decided if about],
    }


def _deciding(fit: Fit, row: int) -> list[tuple[str, str]]:
    """The images to show of a row: its own; of a case those that decided most, and by how much.

    With attention those are the images of the largest weights, else those whose own probability of
    what was predicted is highest.
    """
    if fit.images is None:
        return [(fit.names[row], "")]
    rows = fit.images[fit.images["case"] == fit.names[row]]
    predicted = np.atleast_1d(fit.predicted[row])
    classes = fit.info.classes
    named = predicted == 1 if fit.multilabel else np.arange(len(classes)) == predicted[0]
    columns = [name for name, one in zip(probability_names(classes), named, strict=True) if one]
    own = rows[columns].max(axis=1) if columns else 1 - rows[probability_names(classes)].max(axis=1)
    attention = fit.info.pool == "attention"
    ranked = (rows["weight"] if attention else own).sort_values(ascending=False, kind="stable")
    word = "weight" if attention else "alone"
    return [(str(rows["image"][i]), f"{word} {ranked[i]:.2f}") for i in ranked.index[:DECIDING]]


def _names(fit: Fit, target: np.ndarray) -> str:
    text = label_text(target, fit.info.classes)
    return shown((text.replace("|", ", ") or "none") if fit.multilabel else text)


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


def _figures(folder: Path) -> list[dict[str, Any]]:
    return [
        {
            "uri": data_uri((folder / name).read_bytes(), "image/png"),
            "about": about,
            "small": name == layout.GATES_BY_LAYER,
        }
        for name, about in FIGURES.items()
        if (folder / name).exists()
    ]
