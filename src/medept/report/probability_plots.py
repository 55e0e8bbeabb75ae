"""Figures of probabilities: reliability, abstention, ROC and precision-recall curves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from medept.report.plots import COLOURS, DASHES, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from medept.evaluation.reliability import ReliabilityCurve


def reliability(curve: ReliabilityCurve, error: float) -> Figure:
    """A reliability diagram: observed frequency by confidence, above the number of cases.

    Args:
        curve: the binned cases.
        error: expected calibration error, for the title.
    """
    figure = new_figure(3.9, 4.1)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    above.plot((0, 1), (0, 1), color="0.5", linestyle="--", linewidth=1, label="ideal")
    above.plot(
        curve.confidence, curve.frequency, color=COLOURS[0], marker="o", label="this adapter"
    )
    above.set(ylabel="observed frequency", xlim=(0, 1), ylim=(-0.02, 1.02))
    above.set_title(f"expected calibration error {error:.3f}", fontsize=9)
    above.legend(frameon=False, fontsize=8)
    below.bar(curve.confidence, curve.count, width=0.04, color=COLOURS[0])
    below.set(xlabel="confidence", ylabel="cases")
    for axis in (above, below):
        axis.grid(alpha=0.3)
    return figure


def abstention(answered: np.ndarray, accuracy: np.ndarray) -> Figure:
    """Accuracy on the images kept, if the least confident ones are left to somebody else.

    Args:
        answered: (K,) share of images kept, rising to 1.
        accuracy: (K,) among them.
    """
    figure = new_figure(3.9, 4.1)
    axis = figure.subplots()
    axis.step(answered, accuracy, where="pre", color=COLOURS[0])
    axis.set(xlabel="share of images kept, most confident first", ylabel="accuracy on them")
    axis.set(xlim=(0, 1.01), ylim=(min(0.5, accuracy.min() - 0.02), 1.01))
    axis.grid(alpha=0.3)
    return figure


Marked = Mapping[str, Mapping[str, float | None]]


def roc(
    probabilities: np.ndarray, truth: np.ndarray, classes: Sequence[str], marked: Marked
) -> Figure:
    """ROC curve of each class against the rest.

    A class is left out if all test images are of it, or none is.

    Args:
        probabilities: (n, C).
        truth: (n, C) of 0 and 1.
        classes: C names.
        marked: class -> ``sensitivity``, ``specificity`` and ``ppv`` at its operating point.
    """
    from sklearn.metrics import roc_curve

    figure, axis = _panel(len(classes))
    for name, p, t, style in _each(probabilities, truth, classes):
        wrong, found, _ = roc_curve(t, p)
        axis.plot(wrong, found, label=name, **style)
        at = marked.get(name, {})
        _mark(axis, at.get("specificity"), at.get("sensitivity"), style, flipped=True)
    axis.plot((0, 1), (0, 1), color="0.7", linewidth=0.8)
    axis.set(xlabel="1 - specificity", ylabel="sensitivity")
    _legend_below(figure, axis)
    return figure


def precision_recall(
    probabilities: np.ndarray, truth: np.ndarray, classes: Sequence[str], marked: Marked
) -> Figure:
    """Precision-recall curve of each class against the rest. Arguments are those of :func:`roc`."""
    from sklearn.metrics import precision_recall_curve

    figure, axis = _panel(len(classes))
    for name, p, t, style in _each(probabilities, truth, classes):
        precision, recall, _ = precision_recall_curve(t, p)
        axis.plot(recall, precision, drawstyle="steps-post", label=name, **style)
        at = marked.get(name, {})
        _mark(axis, at.get("sensitivity"), at.get("ppv"), style)
    axis.set(xlabel="recall (sensitivity)", ylabel="precision", ylim=(0, 1.02))
    _legend_below(figure, axis)
    return figure


def _mark(
    axis: Axes, x: float | None, y: float | None, style: dict[str, Any], *, flipped: bool = False
) -> None:
    """A circle at an operating point, if it has both rates; ``flipped`` takes 1 - x."""
    if x is not None and y is not None:
        at = 1 - x if flipped else x
        axis.plot(at, y, marker="o", markersize=8, fillstyle="none", color=style["color"])


def _panel(classes: int) -> tuple[Figure, Axes]:
    figure = new_figure(3.9, 3.6 + 0.18 * ((classes + 1) // 2))
    axis = figure.subplots()
    axis.grid(alpha=0.3)
    return figure, axis


def _each(
    probabilities: np.ndarray, truth: np.ndarray, classes: Sequence[str]
) -> Iterator[tuple[str, np.ndarray, np.ndarray, dict[str, Any]]]:
    """Name, probabilities, truth and style of each class that has positives and negatives."""
    for i, (name, p, t) in enumerate(zip(classes, probabilities.T, truth.T, strict=True)):
        if 0 < t.sum() < len(t):
            style = {"color": COLOURS[i % 7], "linestyle": DASHES[i % 4], "linewidth": 1.4}
            yield name, p, t, style


def _legend_below(figure: Figure, axis: Axes) -> None:
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", fontsize=8,
                  ncols=2, frameon=False)  # fmt: skip


def forest(
    names: Sequence[str], metrics: Mapping[str, Sequence[Mapping[str, float | None]]]
) -> Figure:
    """A forest plot: a row a subgroup, a panel a metric, with 95 % intervals.

    Args:
        names: of K subgroups.
        metrics: name -> ``value``, ``low`` and ``high`` of each subgroup.
    """
    figure = new_figure(1.6 + 1.6 * len(metrics), 0.8 + 0.26 * len(names))
    panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    for axis, (title, each) in zip(panels, metrics.items(), strict=True):
        for row, metric in enumerate(each):
            value, low, high = (metric[key] for key in ("value", "low", "high"))
            if value is not None:
                axis.plot(value, row, marker="s", markersize=4, color=COLOURS[0])
            if low is not None and high is not None:
                axis.plot((low, high), (row, row), color=COLOURS[0], linewidth=1.2)
        axis.set_title(title, fontsize=8, wrap=True)
        axis.grid(alpha=0.3)
        axis.tick_params(labelsize=8)
    panels[0].set_yticks(range(len(names)), names)
    panels[0].invert_yaxis()
    return figure
