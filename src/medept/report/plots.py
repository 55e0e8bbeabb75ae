"""Figures of pictures and of runs, and what all figures share; :func:`save` writes one.

Colours are those of Okabe and Ito, which colour-blind readers can tell apart; lines also differ
in marker and dash, so that they survive a grey printer.
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

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
HATCHES = ("", "//", "..", "xx", "\\\\", "oo", "--", "++", "||", "**")
DASHES = ("-", "--", "-.", ":", "-", "--", "-.", ":")


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


def lines(table: pd.DataFrame, x: str, *, over: Sequence[Any], xlabel: str, ylabel: str) -> Figure:
    """Mean and standard deviation of ``score`` against ``x``: a panel a data set, a line a method.

    Args:
        table: one row a run with the columns ``data``, ``label``, ``score`` and ``x``.
        over: the values of ``x`` in order, drawn at equal distances.
        xlabel: what x is.
        ylabel: what the score is.
    """
    names = list(dict.fromkeys(table["data"]))
    figure = new_figure(4.4 * len(names) + 1.6, 3.6)
    axes = figure.subplots(1, len(names), squeeze=False)[0]
    labels = list(dict.fromkeys(table["label"]))
    for axis, name in zip(axes, names, strict=True):
        for i, label in enumerate(labels):
            runs = table[(table["data"] == name) & (table["label"] == label)].groupby(x)["score"]
            place = [k for k, value in enumerate(over) if value in runs.groups]
            if not place:
                continue
            mean, spread = (v.reindex(over).dropna() for v in (runs.mean(), runs.std().fillna(0)))
            axis.errorbar(np.array(place) + 0.03 * (i - len(labels) / 2), mean, yerr=spread,
                          label=label, capsize=2, **_style(i))  # fmt: skip
        axis.set_xticks(range(len(over)), [str(value) for value in over])
        axis.set(title=name, xlabel=xlabel)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel(ylabel)
    _legend(figure, axes)
    return figure


def bars(table: pd.DataFrame, *, ylabel: str) -> Figure:
    """Mean and standard deviation over runs of ``score``: a group a data set, a bar a ``label``."""
    names = list(dict.fromkeys(table["data"]))
    labels = list(dict.fromkeys(table["label"]))
    figure = new_figure(1.2 + len(names) * (0.6 + 0.32 * len(labels)), 3.8)
    axis = figure.subplots()
    width = 0.85 / len(labels)
    for i, label in enumerate(labels):
        runs = table[table["label"] == label].groupby("data")["score"]
        place = np.arange(len(names)) + (i - (len(labels) - 1) / 2) * width
        axis.bar(place, runs.mean().reindex(names), width, yerr=runs.std().reindex(names),
                 capsize=2, label=label, color=COLOURS[i % 8], edgecolor="black", linewidth=0.5,
                 hatch=HATCHES[i % len(HATCHES)])  # fmt: skip
    axis.set_xticks(range(len(names)), names)
    axis.set_ylabel(ylabel)
    axis.grid(alpha=0.3, axis="y")
    _legend(figure, [axis])
    return figure


def boxes(table: pd.DataFrame, *, ylabel: str) -> Figure:
    """The spread of ``score`` over runs: a panel a data set, a box a ``label``."""
    names = list(dict.fromkeys(table["data"]))
    labels = list(dict.fromkeys(table["label"]))
    figure = new_figure((1.0 + 0.42 * len(labels)) * len(names) + 0.6, 3.8)
    axes = figure.subplots(1, len(names), squeeze=False)[0]
    for axis, name in zip(axes, names, strict=True):
        runs = [
            table[(table["data"] == name) & (table["label"] == label)]["score"].to_numpy()
            for label in labels
        ]
        drawn = axis.boxplot(runs, patch_artist=True, widths=0.65, medianprops={"color": "black"})
        for i, box in enumerate(drawn["boxes"]):
            box.set(facecolor=COLOURS[i % 8], alpha=0.75, hatch=HATCHES[i % len(HATCHES)])
        axis.set_xticks(range(1, len(labels) + 1), labels, rotation=90)
        axis.set_title(name)
        axis.grid(alpha=0.3, axis="y")
    axes[0].set_ylabel(ylabel)
    return figure


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
