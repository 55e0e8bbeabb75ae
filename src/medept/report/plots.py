"""Figures of pictures and of runs, and what all figures share; :func:`save` writes one.

Colours are those of Okabe and Ito, which colour-blind readers can tell apart, but for their yellow,
which is faint on white; lines also differ in marker and dash, and boxes have their names under
them, so that all survive a grey printer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medept.files import whole_file

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#777777")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", "--", "-.", ":", "-", "--", "-.", ":")

TRAINED = {"head": "head alone", "all": "head and what is inside the encoder"}
"""Parts of a learning curve."""


def contact_sheet(rows: Mapping[str, Sequence[np.ndarray]]) -> Figure:
    """Images (H, W, 3) in rows, each row with its title."""
    columns = max(len(images) for images in rows.values())
    figure = new_figure(1.25 * columns + 1.1, 1.25 * len(rows))
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for (title, images), line in zip(rows.items(), axes, strict=True):
        for axis in line:
            axis.set_axis_off()
        for image, axis in zip(images, line, strict=False):
            axis.imshow(image, cmap="gray")
        line[0].text(-0.08, 0.5, title, transform=line[0].transAxes, ha="right", va="center")
    return figure


def lines(table: pd.DataFrame, x: str, *, xlabel: str, over: Sequence[Any] = ()) -> Figure:
    """Mean and standard deviation of ``score`` against ``x``: a panel a data set, a line a method.

    Args:
        table: one row an episode: ``data``, ``metric``, ``label``, ``score`` and ``x``.
        xlabel: what x is.
        over: the values of ``x`` in order, drawn at equal distances; none: on a logarithmic axis.
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
                          **_style(i))  # fmt: skip
        if over:
            axis.set_xticks(range(len(over)), [str(value) for value in over])
        else:
            axis.set_xscale("log")
        axis.set(title=name, xlabel=xlabel, ylabel=_metric(table, name))
        axis.grid(alpha=0.3)
    _legend(figure, axes)
    return figure


def dots(table: pd.DataFrame, reference: str) -> Figure:
    """Mean and standard deviation of ``score``, its rows as points: a panel a data set.

    Methods stand side by side; a line shows where the mean of ``reference`` is.
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
        _beside(axis, labels, mean.get(reference))
        axis.set(title=name, ylabel=_metric(table, name))
    return figure


def learning_curve(history: pd.DataFrame) -> Figure:
    """Loss against epochs, in the order they were made.

    Args:
        history: one row an epoch: ``loss``, and what was ``trained`` (``head``, ``all``).
    """
    figure = new_figure(5.2, 2.6)
    axis = figure.subplots()
    epochs = np.arange(1, len(history) + 1)
    for i, (trained, label) in enumerate(TRAINED.items()):
        part = (history["trained"] == trained).to_numpy()
        if part.any():
            axis.plot(epochs[part], history["loss"][part], label=label, markevery=[0, -1],
                      **_style(i))  # fmt: skip
    axis.set(xlabel="epoch", ylabel="loss", yscale="log")
    axis.grid(alpha=0.3, which="both")
    axis.legend(frameon=False, fontsize=8)
    return figure


def boxes(table: pd.DataFrame, reference: str) -> Figure:
    """The spread of ``score``: data sets down, ``shots`` across, a box a method.

    Boxes are quartiles, whiskers reach to the furthest run within 1.5 of their distance; a line
    shows where the median of ``reference`` is.
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
            _beside(axis, labels, task.groupby("label")["score"].median().get(reference))
    for axis, count in zip(grid[0], shots, strict=True):
        axis.set_title(shots_head(count))
    return figure


def _panels(count: int, width: float, beside: float = 0.4) -> tuple[Figure, Sequence[Axes]]:
    """So many axes in a row, each of a width in inches, with room beside them."""
    figure = new_figure(width * count + beside, 3.6)
    figure.set_layout_engine("constrained", w_pad=0.1)
    return figure, figure.subplots(1, count, squeeze=False)[0]


def _beside(axis: Axes, labels: Sequence[str], level: float | None) -> None:
    """Labels under what stands side by side, and a line at a level where there is one."""
    axis.set_xticks(range(len(labels)), labels, rotation=90)
    axis.set_xlim(-0.6, len(labels) - 0.4)
    axis.grid(alpha=0.3, axis="y")
    if level is not None:
        axis.axhline(level, color=COLOURS[1], linestyle="--", linewidth=1, zorder=0)


def _in_order(column: pd.Series) -> list[Any]:
    """Its values, as they first come."""
    return list(dict.fromkeys(column))


def metric_text(metric: str) -> str:
    """``mAP`` or ``balanced accuracy``."""
    return "mAP" if metric == "map" else metric.replace("_", " ")


def shots_head(shots: str) -> str:
    """``1 shot``, ``5 shots``, ``20%`` or ``all``."""
    return f"{shots} shot{'s' * (shots != '1')}" if shots.isdigit() else shots


def _metric(table: pd.DataFrame, name: str) -> str:
    """What the scores of a data set are."""
    return metric_text(table.loc[table["data"] == name, "metric"].iloc[0])


def _style(i: int) -> dict[str, Any]:
    """Of line i: colour, marker and dash; from the ninth on, markers are hollow."""
    style: dict[str, Any] = {"color": COLOURS[i % 8], "marker": MARKERS[i % 8], "markersize": 5,
                             "linestyle": DASHES[(i + i // 8) % 8], "linewidth": 1.2}  # fmt: skip
    return style if i < 8 else style | {"markerfacecolor": "none"}


def _legend(figure: Figure, axes: Sequence[Axes]) -> None:
    """One for all panels, beside them."""
    found: dict[str, Any] = {}
    for axis in axes:
        found |= dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    figure.legend(found.values(), found.keys(), loc="outside right upper", frameon=False)


def new_figure(width: float, height: float) -> Figure:
    """An empty one of so many inches, whose parts make room for each other."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save(figure: Figure, file: Path) -> None:
    """Write a whole picture, or nothing; of the kind that its suffix names."""
    with whole_file(file) as partial:
        figure.savefig(partial, dpi=130, format=file.suffix[1:])
