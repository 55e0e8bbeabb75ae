"""Figures of scores: lines, points and boxes of several methods on several data sets.

All take a table of scores (:mod:`medept.benchmark.scores`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from medept.benchmark.scores import metric_text, shots_heading
from medept.report.plots import COLOURS, line_style, new_figure

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def lines(table: pd.DataFrame, x: str, *, xlabel: str, over: Sequence[Any] = ()) -> Figure:
    """Mean and standard deviation of scores against ``x``: a panel per data set, a line per method.

    Args:
        table: one row per episode, with the columns ``data``, ``metric``, ``label``, ``score`` and
            the one that ``x`` names.
        x: a column.
        xlabel: label of the axis.
        over: all values of ``x`` in order, for an axis with equal distances between them; if empty
            the axis is logarithmic.
    """
    names, labels = _in_order(table["data"]), _in_order(table["label"])
    figure, axes = _panels(len(names), 3.6, beside=1.6)
    place = {value: k for k, value in enumerate(over)}
    for axis, name in zip(axes, names, strict=True):
        for i, label in enumerate(labels):
            found = table[(table["data"] == name) & (table["label"] == label)].groupby(x)["score"]
            mean, spread = found.mean(), found.std().fillna(0)
            where = [place[v] + 0.04 * (i - len(labels) / 2) if over else v for v in mean.index]
            axis.errorbar(where, mean, yerr=spread, label=label, capsize=2, elinewidth=0.7,
                          **line_style(i))  # fmt: skip
        if over:
            axis.set_xticks(range(len(over)), [str(value) for value in over])
        else:
            axis.set_xscale("log")
        axis.set(title=name, xlabel=xlabel, ylabel=_metric(table, name))
        axis.grid(alpha=0.3)
    _legend(figure, axes)
    return figure


def dots(table: pd.DataFrame, reference: str) -> Figure:
    """Mean and standard deviation of each method over its episodes, drawn as points.

    There is a panel per data set.

    Args:
        table: one row per episode, with the columns ``data``, ``metric``, ``label`` and ``score``.
        reference: a method whose mean is drawn as a line.
    """
    names, labels = _in_order(table["data"]), _in_order(table["label"])
    figure, axes = _panels(len(names), 1.0 + 0.33 * len(labels))
    place = {label: k for k, label in enumerate(labels)}
    for axis, name in zip(axes, names, strict=True):
        part = table[table["data"] == name]
        found = part.groupby("label")["score"]
        mean, spread = found.mean(), found.std().fillna(0)
        axis.plot(part["label"].map(place), part["score"], "o", color="0.7", markersize=4)
        axis.errorbar([place[label] for label in mean.index], mean, yerr=spread, fmt="D", capsize=4,
                      color=COLOURS[0], markersize=6)  # fmt: skip
        _label_methods(axis, labels, mean.get(reference))
        axis.set(title=name, ylabel=_metric(table, name))
    return figure


def boxes(table: pd.DataFrame, reference: str) -> Figure:
    """Box plots of scores: data sets down, shots across, a box per method.

    Boxes show the quartiles, and whiskers reach to the furthest score within 1.5 times the
    interquartile range.

    Args:
        table: one row per run, with the columns ``data``, ``metric``, ``label``, ``shots`` and
            ``score``.
        reference: a method whose median is drawn as a line.
    """
    names, labels = _in_order(table["data"]), _in_order(table["label"])
    shots = _in_order(table["shots"])
    figure = new_figure((0.7 + 0.3 * len(labels)) * len(shots) + 0.6, 2.3 * len(names) + 0.9)
    grid = figure.subplots(len(names), len(shots), squeeze=False, sharex=True, sharey="row")
    for name, axes in zip(names, grid, strict=True):
        axes[0].set_ylabel(f"{name}\n{_metric(table, name)}")
        for axis, count in zip(axes, shots, strict=True):
            task = table[(table["data"] == name) & (table["shots"] == count)]
            runs = [task.loc[task["label"] == label, "score"].to_numpy() for label in labels]
            axis.boxplot(runs, positions=range(len(labels)), widths=0.6, patch_artist=True,
                         boxprops={"facecolor": "#a8cbe3"}, flierprops={"markersize": 3},
                         medianprops={"color": "black", "linewidth": 2})  # fmt: skip
            _label_methods(axis, labels, task.groupby("label")["score"].median().get(reference))
    for axis, count in zip(grid[0], shots, strict=True):
        axis.set_title(shots_heading(count))
    return figure


def _panels(count: int, width: float, beside: float = 0.4) -> tuple[Figure, Sequence[Axes]]:
    """A row of panels.

    Args:
        count: of panels.
        width: of each, in inches.
        beside: room for a legend, in inches.
    """
    figure = new_figure(width * count + beside, 3.6)
    figure.set_layout_engine("constrained", w_pad=0.1)
    return figure, figure.subplots(1, count, squeeze=False)[0]


def _label_methods(axis: Axes, labels: Sequence[str], level: float | None) -> None:
    """Write the methods below the axis, and draw a line at a level unless it is None."""
    axis.set_xticks(range(len(labels)), labels, rotation=90)
    axis.set_xlim(-0.6, len(labels) - 0.4)
    axis.grid(alpha=0.3, axis="y")
    if level is not None:
        axis.axhline(level, color=COLOURS[1], linestyle="--", linewidth=1, zorder=0)


def _in_order(column: pd.Series) -> list[Any]:
    """The distinct values of a column, in order of appearance."""
    return list(dict.fromkeys(column))


def _metric(table: pd.DataFrame, name: str) -> str:
    """The name of the metric of a data set."""
    return metric_text(table.loc[table["data"] == name, "metric"].iloc[0])


def _legend(figure: Figure, axes: Sequence[Axes]) -> None:
    """One legend for all panels, beside them."""
    found: dict[str, Any] = {}
    for axis in axes:
        found |= dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    figure.legend(found.values(), found.keys(), loc="outside right upper", frameon=False)
