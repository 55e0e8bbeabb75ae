"""What the top of the report says: what to beware of, and what is known without a test set."""

from __future__ import annotations

from typing import Any

import numpy as np

from medept.evaluation.metrics import FEW, evaluate
from medept.evaluation.predictions import indicators
from medept.fits.folder import Fit
from medept.report.html import shown

UNEVEN = 4
"""The report says so if one class has this many times the training images of another."""
NAMED = 5
"""At most this many classes are named in one sentence."""


def beware(fit: Fit) -> list[str]:
    """Sentences on what makes the numbers below say less than they seem to."""
    return [*_of_training(fit), *(_of_test(fit) if fit.metrics else [])]


def _of_training(fit: Fit) -> list[str]:
    count = indicators(fit.support_targets, len(fit.info.classes)).sum(axis=0)
    most, least = int(count.argmax()), int(count.argmin())
    if fit.multilabel or count[most] < UNEVEN * count[least]:
        return []
    common, rare = (shown(fit.info.classes[c]) for c in (most, least))
    return [
        f"It was trained on {count[most]:,} images of {common}, but on {count[least]:,} of {rare}: "
        f"it may find {rare} less often."
    ]


def _of_test(fit: Fit) -> list[str]:
    classes = [shown(name) for name in fit.info.classes]
    truth = fit.truth.astype(bool)
    told = indicators(fit.predicted, len(classes)).astype(bool)
    found = []
    never = [c for c, t, p in zip(classes, truth.T, told.T, strict=True) if t.any() and not p.any()]
    if never:
        found.append(f"It never predicted {_listed(never)}, though the test set has such cases.")
    groups = np.arange(len(truth)) if fit.groups is None else fit.groups
    sizes = [len(set(groups[t].tolist())) for t in truth.T]
    kind = "cases" if fit.groups is None else "patients or other groups"
    few = [c for c, size in zip(classes, sizes, strict=True) if 0 < size < 2 * FEW]
    if few:
        found.append(
            f"Fewer than {2 * FEW} {kind} of {_listed(few)} were there to test on: what stands "
            "here of them, and every mean over classes, rests on few."
        )
    absent = [c for c, size in zip(classes, sizes, strict=True) if not size]
    if absent:
        found.append(f"The test set has no case of {_listed(absent)}: nothing is known of that.")
    return found


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def assumed_prevalence(fit: Fit) -> str:
    """What the probabilities assume of how common classes are; empty if it is not known."""
    info = fit.info
    if info.prevalence == "estimate":
        return "Probabilities are for classes as common as is estimated from the images predicted."
    if info.prevalence is not None:
        each = ", ".join(f"{shown(c)} {100 * p:g} %" for c, p in info.prevalence.items())
        return f"Probabilities are for patients of whom this share has the class: {each}."
    if not info.shares:
        return ""
    pairs = list(zip(info.classes, info.shares, strict=True))
    each = ", ".join(f"{shown(c)} {100 * share:.0f} %" for c, share in pairs[:NAMED])
    rest = ", ..." if len(pairs) > NAMED else ""
    return (
        f"Probabilities assume that classes are as common as among the training images ({each}"
        f"{rest}). Where they are not, say how common they are: prevalence CLASS=P."
    )


def unfamiliar_images(fit: Fit, units: str) -> str:
    """How many test images are unlike the training images; empty if that is not known."""
    known, told = fit.info.familiarity, (fit.metrics or {}).get("unfamiliar")
    if known is None or not told:
        return ""
    return (
        f"Of the test {units}, {100 * told['value']:.1f} % are unlike the training images, where "
        f"chance makes up to {100 * known.false_alarms:.2g} %: what is predicted of them is not to "
        "be trusted (column unfamiliar of predictions.csv)."
    )


def cross_validated(fit: Fit) -> dict[str, Any] | None:
    """The headline metric by cross-validation inside the support set; None if there was none."""
    if fit.held_out is None:
        return None
    targets, probabilities, groups = fit.held_out
    found = evaluate(probabilities, targets, classes=fit.info.classes, groups=groups)
    metric = found.metrics["map" if fit.multilabel else "balanced_accuracy"]
    if metric.value is None:
        return None
    return {"value": metric.value, "low": metric.low, "high": metric.high, "n": metric.n}
