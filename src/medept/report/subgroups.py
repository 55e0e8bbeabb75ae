"""Subgroups in the report of a fit: the gaps in words, a forest plot and a table."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from medept.evaluation.subgroups import FEW
from medept.fits.folder import Fit
from medept.report.html import picture, shown
from medept.report.probability_plots import forest

NAMES = {
    "auroc": "AUROC",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "excess": "mean probability less the share of positives",
    "balanced_accuracy": "balanced accuracy",
    "map": "mAP",
    "ece": "ECE",
}
"""Name in ``metrics.json`` -> name in the report."""


def subgroup_parts(fit: Fit) -> dict[str, Any] | None:
    """Words, figures and rows; None where no subgroups were asked for."""
    told = (fit.metrics or {}).get("subgroups")
    if not told:
        return None
    parts = []
    for positive, group in groupby(told["each"], key=lambda one: one["positive"]):
        rows = [one | {"name": f"{shown(one['column'])}: {shown(one['value'])}"} for one in group]
        names = [name for name in rows[0]["metrics"] if name in NAMES]
        forests = [name for name in names if name != "ece"]
        figure = forest(
            [row["name"] for row in rows],
            {NAMES[name]: [row["metrics"][name] for row in rows] for name in forests},
        )
        parts.append(
            {
                "positive": shown(positive),
                "names": [(name, NAMES[name]) for name in names],
                "rows": rows,
                "picture": picture(figure),
            }
        )
    return {"words": [_words(gap) for gap in told["gaps"]], "parts": parts, "few": FEW}


def _words(gap: dict[str, Any]) -> str:
    """One gap in words."""
    of = f" of {shown(gap['positive'])}" if gap["positive"] else ""
    verdict = "more than chance makes" if gap["low"] > 0 else "which may be chance"
    return (
        f"{shown(gap['column'])}: {NAMES[gap['metric']]}{of} is highest in {shown(gap['highest'])} "
        f"and lowest in {shown(gap['lowest'])}, {gap['gap']:.2f} apart ({gap['low']:.2f} to "
        f"{gap['high']:.2f}, corrected for {gap['compared']} comparisons), {verdict}."
    )
