"""Figure 2 of Zu et al. 2024: how features are distributed, for each of several models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from medept.evaluation.distribution import at_equal_scale, first_component
from medept.report.plots import COLOURS, DASHES, MARKERS, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAME = 24
"""Greatest number of characters of a class name in the title of a panel."""


def distributions(
    features: Mapping[str, np.ndarray],
    points: Mapping[str, np.ndarray],
    targets: np.ndarray,
    classes: Sequence[str],
    chosen: int,
    titles: Mapping[str, str],
    *,
    joint: bool,
) -> Figure:
    """Features of several models: of one class, and of all classes.

    The left column shows (a) the density of the chosen class along its first principal component,
    raw above and at equal scale below, with a line per model. Each other column is of one model:
    above (b) contours of the chosen class in the projection, and below (c) all classes.

    Args:
        features: (n, D) of each model, by its name.
        points: (n, 2) of each model, as :func:`medept.evaluation.distribution.project` gives them.
        targets: (n,) class indices, or (n, C) of 0 and 1; then (c) shows which images have the
            chosen label.
        classes: C names.
        chosen: index of the class that (a) and (b) show.
        titles: of each model, for its panel (c).
        joint: whether all panels share the limits of their axes.
    """
    count = len(features)
    figure = new_figure(3.1 * count + 3.3, 6.2)
    grid = figure.add_gridspec(2, count + 1)
    members = np.equal(targets, chosen) if targets.ndim == 1 else targets[:, chosen].astype(bool)
    even = {name: at_equal_scale(values) for name, values in features.items()}
    for row, (scale, values) in enumerate((("raw", features), ("at equal scale", even))):
        axis = figure.add_subplot(grid[row, 0])
        _draw_densities(axis, {name: each[members] for name, each in values.items()})
        axis.set_title(f"(a) density, {scale}:\n{_short(classes[chosen])}", fontsize=9)
    for column, name in enumerate(features, start=1):
        limits = _limits(points.values() if joint else [points[name]])
        above = figure.add_subplot(grid[0, column])
        _draw_contours(above, points[name][members], limits, COLOURS[(column - 1) % 8])
        above.set_title(f"(b) {name}:\n{_short(classes[chosen])}", fontsize=9)
        below = figure.add_subplot(grid[1, column])
        _draw_classes(below, points[name], targets, classes, chosen)
        below.set_title(f"(c) {titles[name]}", fontsize=8)
        for axis in (above, below):
            axis.set(xticks=[], yticks=[], xlim=limits[0], ylim=limits[1])
    handles, names = below.get_legend_handles_labels()
    longest = max(map(len, names), default=1)
    ncols = max(1, min(6, len(names), int(figure.get_figwidth() * 12 / (longest + 4))))
    figure.legend(
        handles, names, loc="outside lower center", ncols=ncols, fontsize=8, frameon=False
    )
    return figure


def _short(name: str) -> str:
    """A name cut to at most ``NAME`` characters."""
    return name if len(name) <= NAME else f"{name[: NAME - 1]}…"


def _draw_densities(axis: Axes, features: Mapping[str, np.ndarray]) -> None:
    """Density of the features (n, D) of each model along their first principal component."""
    from scipy.stats import gaussian_kde

    along = {model: first_component(values) for model, values in features.items()}
    reach = 2 * max(np.abs(values).max() for values in along.values())
    place = np.linspace(-reach, reach, 300)
    for i, (model, values) in enumerate(along.items()):
        style: dict[str, Any] = {"color": COLOURS[i % 8], "linestyle": DASHES[i % 8],
                                 "label": model}  # fmt: skip
        if len(values) > 2 and values.std() > 1e-9 * reach:
            axis.plot(place, gaussian_kde(values)(place), **style)
        else:
            axis.plot(values, np.zeros(len(values)), marker=MARKERS[i % 8], **style)
    axis.set_xlabel("first principal component of the class", fontsize=8)
    axis.set_yticks([])
    axis.legend(frameon=False, fontsize=8)


def _draw_contours(axis: Axes, points: np.ndarray, limits: Any, colour: str) -> None:
    from scipy.stats import gaussian_kde

    axis.scatter(points[:, 0], points[:, 1], s=4, color="0.6", linewidths=0)
    if len(points) < 4 or np.linalg.matrix_rank(points - points.mean(axis=0)) < 2:
        return
    x, y = np.meshgrid(*(np.linspace(low, high, 60) for low, high in limits))
    density = gaussian_kde(points.T)(np.stack([x.ravel(), y.ravel()])).reshape(x.shape)
    axis.contour(x, y, density, levels=density.max() * np.array([0.1, 0.3, 0.5, 0.7, 0.9]),
                 colors=colour, linewidths=1)  # fmt: skip


def _draw_classes(
    axis: Axes, points: np.ndarray, targets: np.ndarray, classes: Sequence[str], chosen: int
) -> None:
    if targets.ndim == 2:
        has = targets[:, chosen].astype(bool)
        parts = {f"not {classes[chosen]}": ~has, classes[chosen]: has}
    else:
        parts = {name: np.equal(targets, c) for c, name in enumerate(classes)}
    for i, (name, rows) in enumerate(parts.items()):
        if not rows.any():
            continue
        axis.scatter(
            points[rows, 0],
            points[rows, 1],
            s=14,
            color=COLOURS[i % len(COLOURS)],
            marker=MARKERS[(i + i // len(COLOURS)) % len(MARKERS)],
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
