"""Decisions at operating points, as the report of a fit tells them."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from medept.fits.folder import Fit
from medept.report.html import shown

RATES = {
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "ppv": "PPV",
    "npv": "NPV",
    "lr_positive": "LR+",
    "lr_negative": "LR-",
}
"""Name in ``metrics.json`` -> name in the report."""


def decision_parts(fit: Fit) -> list[dict[str, Any]]:
    """For each operating point its words, its 2 x 2 table, and the rates at all thresholds."""
    told = (fit.metrics or {}).get("decisions", [])
    parts = []
    for name, group in groupby(told, key=lambda row: row["positive"]):
        rows = list(group)
        first = rows[0]
        positives = first["true_positive"] + first["false_negative"]
        total = positives + first["false_positive"] + first["true_negative"]
        parts.append(
            {
                "name": shown(name),
                "words": _words(shown(name), first),
                "first": first,
                "rows": rows,
                "prevalence": positives / total,
            }
        )
    return parts


def _words(name: str, row: dict[str, Any]) -> str:
    """What a decision at this point would mean for a hundred patients."""
    found, left = row["rates"]["sensitivity"], row["rates"]["specificity"]
    begin = f"A case counts as {name} from a probability of {row['threshold']:.3f} on."
    if found["value"] is None or left["value"] is None:
        return (
            f"{begin} The test set has no case {'with' if found['value'] is None else 'without'}."
        )
    alarms = {"value": 1 - left["value"]}
    if left["low"] is not None:
        alarms |= {"low": 1 - left["high"], "high": 1 - left["low"]}
    return (
        f"{begin} Of 100 cases with {name} it would find {_of_hundred(found)}, and of 100 cases "
        f"without it would send {_of_hundred(alarms)} to a second look."
    )


def _of_hundred(rate: dict[str, Any]) -> str:
    value = f"{100 * rate['value']:.0f}"
    if rate.get("low") is None:
        return value
    return f"{value} ({100 * rate['low']:.0f} to {100 * rate['high']:.0f})"


def points_on_curves(fit: Fit) -> dict[str, dict[str, float]]:
    """Positive class -> sensitivity, specificity and PPV at its operating point.

    A point of several classes together lies on no curve of one class.
    """
    marked = {}
    for point in fit.info.operating_points:
        rows = [row for row in (fit.metrics or {}).get("decisions", [])
                if row["positive"] == point.name]  # fmt: skip
        if len(point.positive) == 1 and rows:
            rates = rows[0]["rates"]
            marked[shown(point.name)] = {name: rates[name]["value"] for name in
                                         ("sensitivity", "specificity", "ppv")}  # fmt: skip
    return marked
