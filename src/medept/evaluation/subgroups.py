"""What is known of subgroups: their numbers, and the largest gap between two of them.

The interval of a gap is corrected (Bonferroni) for how many pairs of subgroups were compared, and
how many metrics in how many columns: the largest of many gaps is large by chance. Subgroups of few
positives or negatives are told, but not compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np
from scipy.stats import norm

from medept.errors import SettingsError
from medept.evaluation.intervals import TAIL, Metric, Z

FEW = 10
"""Groups (patients) with, or without, the positive class, below which nothing can be said."""

UNKNOWN = "unknown"
"""What empty cells are told as."""

NUMBERS = 6
"""A column of numbers is binned if it has more different ones than this."""


@dataclass(frozen=True)
class Subgroup:
    """How good predictions are in one subgroup.

    Attributes:
        column: such as ``sex``.
        value: such as ``female``; of numbers a range.
        positive: what counts as positive, at an operating point; else empty.
        n: number of cases.
        groups: number of patients or other groups.
        prevalence: share of the positive class; None without an operating point.
        metrics: ``auroc``, and at an operating point ``sensitivity``, ``specificity`` and
            ``excess`` (mean probability less the share of positives: the calibration in the
            large); without one ``balanced_accuracy`` (of labels ``map``) and ``ece``.
        few: whether it is too small to say anything.
    """

    column: str
    value: str
    positive: str
    n: int
    groups: int
    prevalence: float | None
    metrics: dict[str, Metric]
    few: bool


@dataclass(frozen=True)
class Gap:
    """The largest gap between two subgroups of a column.

    Attributes:
        column: such as ``sex``.
        positive: as in :class:`Subgroup`.
        metric: its name.
        highest: the subgroup where the metric is highest.
        lowest: the one where it is lowest.
        gap: their difference; its interval is corrected for ``compared``.
        low: lower end.
        high: upper end.
        compared: how many pairs of subgroups and metrics were looked at in all columns.
    """

    column: str
    positive: str
    metric: str
    highest: str
    lowest: str
    gap: float
    low: float
    high: float
    compared: int


@dataclass(frozen=True)
class Subgroups:
    """All subgroups, and the gaps between them."""

    each: list[Subgroup]
    gaps: list[Gap]


def binned(
    column: str, cells: Sequence[str] | np.ndarray, edges: Sequence[float] = ()
) -> list[str]:
    """The subgroup of each cell: itself, or of numbers the range that it is in.

    Args:
        column: its name, for the message.
        cells: n texts.
        edges: where to cut numbers; default: at their quartiles, if there are many different ones.

    Raises:
        SettingsError: if there are edges, and a cell is no number.

    >>> binned("age", ["30", "45", "", "80"], [40, 60])
    ['below 40', '40 to below 60', 'unknown', '60 and more']
    """
    known = [str(cell) for cell in cells if str(cell)]
    try:
        numbers = np.array([float(cell) for cell in known])
    except ValueError as error:
        if edges:
            raise SettingsError(
                f"subgroups={column}: not a column of numbers ({error}); leave its edges out"
            ) from error
        numbers = np.zeros(0)
    if not edges and len(set(numbers.tolist())) > NUMBERS:
        edges = np.unique(np.quantile(numbers, (0.25, 0.5, 0.75))).tolist()
    if not len(edges) or not len(numbers):
        return [str(cell) or UNKNOWN for cell in cells]
    cuts = sorted(edges)
    names = [f"below {cuts[0]:g}"]
    names += [f"{a:g} to below {b:g}" for a, b in pairwise(cuts)]
    names.append(f"{cuts[-1]:g} and more")
    return [
        names[int(np.searchsorted(cuts, float(cell), side="right"))] if str(cell) else UNKNOWN
        for cell in cells
    ]


def value_order(value: str) -> tuple[bool, float, str]:
    """What to sort subgroups by: ranges by their number, then texts."""
    word = value.removeprefix("below ").split(" ")[0]
    try:
        return False, float(word) - value.startswith("below"), value
    except ValueError:
        return True, 0.0, value


def largest_gaps(each: Sequence[Subgroup]) -> list[Gap]:
    """The largest gap of each metric in each column, with its corrected interval."""
    pairs: dict[tuple[str, str, str], list[tuple[str, Metric]]] = {}
    for one in each:
        for name, metric in one.metrics.items():
            usable = not one.few and metric.low is not None
            if usable and name != "ece" and one.value != UNKNOWN:
                pairs.setdefault((one.column, one.positive, name), []).append((one.value, metric))
    compared = sum(len(list(combinations(found, 2))) for found in pairs.values())
    wider = float(norm.ppf(1 - TAIL / max(compared, 1))) / Z
    gaps = []
    for (column, positive, name), found in pairs.items():
        if len(found) < 2:
            continue
        (highest, high), (lowest, low) = (
            pick(found, key=lambda pair: pair[1].value or 0.0) for pick in (max, min)
        )
        numbers = [x for m in (high, low) for x in (m.value, m.low, m.high) if x is not None]
        a, a_low, a_high, b, b_low, b_high = numbers
        down, up = np.hypot(a - a_low, b_high - b), np.hypot(a_high - a, b - b_low)
        gaps.append(Gap(column, positive, name, highest, lowest, a - b, a - b - wider * float(down),
                        a - b + wider * float(up), compared))  # fmt: skip
    return sorted(gaps, key=lambda gap: -gap.low)
