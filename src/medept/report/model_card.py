"""The model card of a fit in markdown, and metrics as rows of text."""

from __future__ import annotations

import json

import numpy as np

from medept.evaluation.intervals import Metric
from medept.evaluation.metrics import Evaluation
from medept.fits import layout
from medept.fits.adapter import AdapterInfo

METRIC_COLUMNS = ("metric", "value", "95 % interval", "n")
"""The columns of :func:`metric_rows`."""


def model_card(info: AdapterInfo, groups: np.ndarray | None, evaluation: Evaluation | None) -> str:
    """The content of ``README.md``.

    Args:
        info: the adapter.
        groups: ids of the groups of the support images; None if there are none.
        evaluation: on the test set; None if there is none.
    """
    of_groups = "" if groups is None else f" of {len(set(groups.tolist()))} groups"
    cases = f" of {info.support_cases} cases, pooling {info.pool}" if info.support_cases else ""
    lines = [
        f"# {info.method} adapter on {info.encoder.name}",
        "",
        f"Made with medept {info.versions['medept']}. **Not a medical device**: not for "
        "diagnosis or treatment; check it on your own patients before relying on it.",
        "",
        f"- task: {info.task}, classes: {', '.join(info.classes)}",
        f"- encoder: {info.encoder.name}, {info.encoder.parameters:,} frozen parameters, "
        f"SHA-256 of its weights {info.encoder.sha256[:16]}...",
        f"- method: {info.method}, {info.trainable_parameters:,} trained parameters; "
        f"settings {json.dumps(info.settings)}",
        f"- recipe: {json.dumps(info.recipe) if info.recipe else 'none'}, seed {info.seed}",
        f"- probabilities: {info.calibration}",
        f"- support set: {info.support_images} images{cases}{of_groups} (`{layout.SUPPORT}`)",
        "",
        "## Results",
        "",
    ]
    lines += _metrics(evaluation) if evaluation else ["No test images were left to evaluate on."]
    lines += [
        "",
        "## Use",
        "",
        "```",
        "medept predict . IMAGES... --out predictions.csv",
        "```",
        "",
    ]
    return "\n".join(lines)


def metric_rows(evaluation: Evaluation) -> list[tuple[str, str, str, str]]:
    """Each metric's name, value, 95 % interval and number of images; a dash if undefined."""
    return [
        (
            name,
            "–" if metric.value is None else f"{metric.value:.3f}",
            "–" if metric.low is None else f"{metric.low:.3f} – {metric.high:.3f}",
            str(metric.n),
        )
        for name, metric in (evaluation.metrics | _at_prevalence(evaluation)).items()
    ]


def _at_prevalence(evaluation: Evaluation) -> dict[str, Metric]:
    told = evaluation.at_prevalence
    return {f"{name}, at stated prevalence": m for name, m in told.metrics.items()} if told else {}


def undefined_notes(evaluation: Evaluation) -> list[str]:
    """A line for each metric that is undefined for some of the classes."""
    return [
        f"{name}: the mean leaves out {', '.join(classes)}, for which it is undefined"
        for name, classes in evaluation.undefined.items()
    ]


def _metrics(evaluation: Evaluation) -> list[str]:
    rows = [METRIC_COLUMNS, ("---",) * len(METRIC_COLUMNS), *metric_rows(evaluation)]
    table = ["| " + " | ".join(row) + " |" for row in rows]
    return table + [f"\n{note}." for note in undefined_notes(evaluation)]
