"""Prediction sets in the report of a fit: those of the adapter, or else how good they could be."""

from __future__ import annotations

from typing import Any

import numpy as np

from medept.evaluation.conformal import check_coverage, check_label_coverage
from medept.fits.folder import Fit
from medept.report.html import shown

COVERAGE = 0.9
"""The coverage of sets that the adapter does not have."""


def prediction_sets(fit: Fit) -> dict[str, Any] | None:
    """How often sets hold the truth: of each class, or of each label if present and if absent.

    The sets are those of the adapter. Where nothing could be held out to find them, the test set
    is halved many times, and they are found on one half and tested on the other.
    """
    own = fit.info.prediction_sets
    told = (fit.metrics or {}).get("sets")
    if own is not None and told:
        rows = [
            {
                "name": shown(name),
                "n": held["n"],
                "held": held["value"],
                "absent": told["absent"].get(name, {}).get("value"),
            }
            for name, held in told["by_class"].items()
        ]
        note = own.note([shown(name) for name in fit.info.classes])
        return {"stated": own.coverage, "note": note[0].upper() + note[1:], "rows": rows} | {
            key: told[key] for key in ("observed", "mean_size")
        }
    return _on_halves(fit)


def _on_halves(fit: Fit) -> dict[str, Any] | None:
    """The same from random halves of the test set; None if it is too small."""
    classes = [shown(name) for name in fit.info.classes]
    counts = fit.truth.sum(axis=0).tolist()
    given = fit.probabilities, fit.targets, fit.groups
    if fit.multilabel:
        each = [one for one in check_label_coverage(*given, coverage=COVERAGE) if one is not None]
        if not each:
            return None
        held = [one.by_class[1] for one in each]
        absent = [one.by_class[0] for one in each]
        observed = float(np.mean([one.observed for one in each]))
        size = float(np.mean([one.mean_size for one in each]))
    else:
        whole = check_coverage(*given, coverage=COVERAGE)
        if whole is None:
            return None
        held, absent = list(whole.by_class), [np.nan] * len(classes)
        observed, size = whole.observed, whole.mean_size
    rows = [
        {"name": name, "n": n, "held": _number(h), "absent": _number(a)}
        for name, n, h, a in zip(classes, counts, held, absent, strict=True)
    ]
    return {
        "stated": COVERAGE,
        "note": "",
        "rows": rows,
        "observed": {"value": observed, "low": None, "high": None},
        "mean_size": size,
    }


def _number(share: float) -> float | None:
    return None if np.isnan(share) else float(share)
