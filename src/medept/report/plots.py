"""Figures, as matplotlib's own; :func:`save` writes one.

Colours are those of Okabe and Ito, which colour-blind readers can tell apart, but for their yellow,
which is faint on white; lines also differ in marker and dash, and boxes have their names under
them, so that all survive a grey printer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medept.benchmark.comparison import metric_text
from medept.evaluation.distribution import first_component
from medept.files import whole_file

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from medept.evaluation.reliability import ReliabilityCurve

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#777777")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", "--", "-.", ":", "-", "--", "-.", ":")


def contact_sheet(rows: Mapping[str, Sequence[np.ndarray]]) -> Figure:
    """Images (H, W, 3) in rows, each row with its title."""
    columns = max(len(images) for images in rows.values())
    figure = _figure(1.25 * columns + 1.1, 1.25 * len(rows))
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


def boxes(table: pd.DataFrame, reference: str) -> Figure:
    """The spread of ``score``: data sets down, ``shots`` across, a box a method.

    Boxes are quartiles, whiskers reach to the furthest run within 1.5 of their distance; a line
    shows where the median of ``reference`` is.
    """
    names, labels = _in_order(table["data"]), _in_order(table["label"])
    shots = _in_order(table["shots"])
    figure = _figure((0.7 + 0.3 * len(labels)) * len(shots) + 0.6, 2.3 * len(names) + 0.9)
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
        axis.set_title(f"{count} shot{'s' * (count != '1')}" if count.isdigit() else count)
    return figure


def _panels(count: int, width: float, beside: float = 0.4) -> tuple[Figure, Sequence[Axes]]:
    """So many axes in a row, each of a width in inches, with room beside them."""
    figure = _figure(width * count + beside, 3.6)
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


def gate_maps(
    images: Sequence[np.ndarray],
    gates: np.ndarray,
    rollout: np.ndarray,
    *,
    titles: Sequence[str],
    layers: Sequence[int],
) -> Figure:
    """Images beside their gates: how much of its attention output each patch keeps.

    Args:
        images: n arrays (H, W, 3).
        gates: (n, layers, rows, columns), mean over heads.
        rollout: (n, rows, columns) of attention, drawn on a scale of its own.
        titles: one an image, written beside it.
        layers: numbers of the layers, from 1.
    """
    columns = gates.shape[1] + 3
    figure = _figure(1.15 * columns + 1.2, 1.25 * len(images) + 0.3)
    axes = figure.subplots(len(images), columns, squeeze=False)
    low, high = float(gates.min()), float(gates.max())
    shown: Any = None
    for row, line in enumerate(axes):
        line[0].imshow(images[row])
        line[0].text(-0.06, 0.5, titles[row], transform=line[0].transAxes, ha="right", va="center",
                     fontsize=8)  # fmt: skip
        line[1].imshow(rollout[row], cmap="magma")
        for axis, values in zip(line[2:], [gates[row].mean(axis=0), *gates[row]], strict=True):
            shown = axis.imshow(values, cmap="viridis", vmin=low, vmax=high)
        for axis in line:
            axis.set_axis_off()
    names = ["image", "rollout", "mean gate", *(f"layer {layer}" for layer in layers)]
    for name, axis in zip(names, axes[0], strict=True):
        axis.set_title(name, fontsize=8)
    figure.colorbar(shown, ax=axes, shrink=0.8, label="gate", pad=0.02)
    return figure


def distributions(
    features: Mapping[str, np.ndarray],
    points: Mapping[str, np.ndarray],
    targets: np.ndarray,
    classes: Sequence[str],
    chosen: int,
    titles: Mapping[str, str],
) -> Figure:
    """Figure 2 of Zu et al. 2024: how a class lies in the features of each of several models.

    Above, (a) the density of the chosen class along its own first principal component, all models
    on one axis, and (b) its contours in the plane; below, (c) all classes in the plane.

    Args:
        features: (n, D) of each model.
        points: (n, 2), the same in the plane (:func:`medept.evaluation.distribution.plane`).
        targets: (n,) class indices, or (n, C) of 0 and 1: then (c) shows who has the chosen label.
        classes: their names.
        chosen: index of the class of (a) and (b).
        titles: of each model's panel (c).
    """
    count = len(features)
    figure = _figure(3.1 * count + 3.3, 6.0)
    grid = figure.add_gridspec(2, count + 1)
    of_class = np.equal(targets, chosen) if targets.ndim == 1 else targets[:, chosen].astype(bool)
    _densities(figure.add_subplot(grid[:, 0]), features, of_class, classes[chosen])
    limits = _limits(points.values())
    for column, name in enumerate(features, start=1):
        above = figure.add_subplot(grid[0, column])
        _contours(above, points[name][of_class], limits, COLOURS[column - 1])
        above.set_title(f"(b) {name}: {classes[chosen]}", fontsize=9)
        below = figure.add_subplot(grid[1, column])
        _classes(below, points[name], targets, classes, chosen)
        below.set_title(f"(c) {titles[name]}", fontsize=9)
        for axis in (above, below):
            axis.set(xticks=[], yticks=[], xlim=limits[0], ylim=limits[1])
    handles, names = below.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=min(6, len(names)), fontsize=8,
                  frameon=False)  # fmt: skip
    return figure


def _densities(
    axis: Axes, features: Mapping[str, np.ndarray], of_class: np.ndarray, name: str
) -> None:
    from scipy.stats import gaussian_kde

    along = {model: first_component(values[of_class]) for model, values in features.items()}
    reach = 1.15 * max(np.abs(values).max() for values in along.values())
    place = np.linspace(-reach, reach, 200)
    for i, (model, values) in enumerate(along.items()):
        style: dict[str, Any] = {"color": COLOURS[i], "linestyle": DASHES[i], "label": model}
        if len(values) > 2 and values.std() > 1e-9 * reach:
            axis.plot(place, gaussian_kde(values)(place), **style)
        else:
            axis.plot(values, np.zeros(len(values)), marker=MARKERS[i], **style)
    axis.set_title(f"(a) {name}: density", fontsize=9)
    axis.set_xlabel("first principal component of the class")
    axis.set_yticks([])
    axis.legend(frameon=False, fontsize=8)


def _contours(axis: Axes, points: np.ndarray, limits: Any, colour: str) -> None:
    from scipy.stats import gaussian_kde

    axis.scatter(points[:, 0], points[:, 1], s=4, color="0.6", linewidths=0)
    if len(points) < 4 or np.linalg.matrix_rank(points - points.mean(axis=0)) < 2:
        return
    x, y = np.meshgrid(*(np.linspace(low, high, 60) for low, high in limits))
    density = gaussian_kde(points.T)(np.stack([x.ravel(), y.ravel()])).reshape(x.shape)
    axis.contour(x, y, density, levels=density.max() * np.array([0.1, 0.3, 0.5, 0.7, 0.9]),
                 colors=colour, linewidths=1)  # fmt: skip


def _classes(
    axis: Axes, points: np.ndarray, targets: np.ndarray, classes: Sequence[str], chosen: int
) -> None:
    if targets.ndim == 2:
        has = targets[:, chosen].astype(bool)
        parts = {f"not {classes[chosen]}": ~has, classes[chosen]: has}
    else:
        parts = {name: np.equal(targets, c) for c, name in enumerate(classes)}
    for i, (name, rows) in enumerate(parts.items()):
        axis.scatter(
            points[rows, 0],
            points[rows, 1],
            s=14,
            color=COLOURS[i % len(COLOURS)],
            marker=MARKERS[i % len(MARKERS)],
            linewidths=0,
            alpha=0.8,
            label=name,
        )


def _limits(points: Iterable[np.ndarray]) -> tuple[tuple[float, float], tuple[float, float]]:
    every = np.concatenate(list(points))
    low, high = every.min(axis=0), every.max(axis=0)
    margin = 0.2 * (high - low) + 1e-9
    (x0, y0), (x1, y1) = low - margin, high + margin
    return (float(x0), float(x1)), (float(y0), float(y1))


def gates_by_layer(gates: Mapping[str, np.ndarray], layers: Mapping[str, Sequence[int]]) -> Figure:
    """The distribution of gates per layer: median, half and nine tenths of tokens, a line a model.

    Args:
        gates: model -> (n, layers, heads, T).
        layers: model -> numbers of its layers, from 1.
    """
    figure = _figure(5.6, 3.6)
    axis = figure.subplots()
    for i, (name, values) in enumerate(gates.items()):
        flat = np.moveaxis(values, 1, 0).reshape(values.shape[1], -1)
        low, lower, middle, upper, high = np.percentile(flat, (5, 25, 50, 75, 95), axis=1)
        place, colour = np.asarray(layers[name]), COLOURS[i % len(COLOURS)]
        axis.fill_between(place, low, high, color=colour, alpha=0.12, linewidth=0)
        axis.fill_between(place, lower, upper, color=colour, alpha=0.25, linewidth=0)
        axis.plot(place, middle, color=colour, marker=MARKERS[i % 8], linestyle=DASHES[i % 8],
                  label=name)  # fmt: skip
    axis.set(xlabel="layer", ylabel="gate", ylim=(0, 1))
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
    return figure


def reliability(curve: ReliabilityCurve, error: float) -> Figure:
    """Confidence against how often it came true, and how many images had which confidence."""
    figure = _figure(3.9, 4.1)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    above.plot((0, 1), (0, 1), color="0.5", linestyle="--", linewidth=1, label="ideal")
    above.plot(
        curve.confidence, curve.frequency, color=COLOURS[0], marker="o", label="this adapter"
    )
    above.set(ylabel="came true", xlim=(0, 1), ylim=(0, 1))
    above.set_title(f"expected calibration error {error:.3f}", fontsize=9)
    above.legend(frameon=False, fontsize=8)
    below.bar(curve.confidence, curve.count, width=0.04, color=COLOURS[0])
    below.set(xlabel="confidence", ylabel="images")
    for axis in (above, below):
        axis.grid(alpha=0.3)
    return figure


def abstention(answered: np.ndarray, accuracy: np.ndarray) -> Figure:
    """Accuracy among the answered when the least confident images are handed to somebody."""
    figure = _figure(3.9, 3.2)
    axis = figure.subplots()
    axis.step(answered, accuracy, where="pre", color=COLOURS[0])
    axis.set(xlabel="share of images answered", ylabel="accuracy among them", xlim=(0, 1.01))
    axis.grid(alpha=0.3)
    return figure


def curves(probabilities: np.ndarray, truth: np.ndarray, classes: Sequence[str]) -> Figure:
    """ROC and precision-recall of each class against the rest; classes of one value left out.

    Args:
        probabilities: (n, C).
        truth: (n, C) of 0 and 1.
        classes: their names.
    """
    from sklearn.metrics import precision_recall_curve, roc_curve

    figure = _figure(7.6, 4.0)
    left, right = figure.subplots(1, 2)
    for i, name in enumerate(classes):
        if not 0 < truth[:, i].sum() < len(truth):
            continue
        style = {"color": COLOURS[i % len(COLOURS)], "linestyle": DASHES[i % len(DASHES)],
                 "linewidth": 1.3}  # fmt: skip
        wrong, found, _ = roc_curve(truth[:, i], probabilities[:, i])
        left.plot(wrong, found, label=name, **style)
        precision, recall, _ = precision_recall_curve(truth[:, i], probabilities[:, i])
        right.plot(recall, precision, drawstyle="steps-post", **style)
    left.plot((0, 1), (0, 1), color="0.7", linewidth=0.8)
    left.set(xlabel="1 - specificity", ylabel="sensitivity", title="ROC")
    right.set(xlabel="recall (sensitivity)", ylabel="precision", title="precision and recall")
    right.set_ylim(0, 1.02)
    for axis in (left, right):
        axis.grid(alpha=0.3)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", fontsize=8,
                  ncols=min(5, len(classes)), frameon=False)  # fmt: skip
    return figure


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save(figure: Figure, file: Path) -> None:
    """Write a whole picture, or nothing; of the kind that its suffix names."""
    with whole_file(file) as partial:
        figure.savefig(partial, dpi=130, format=file.suffix[1:])
