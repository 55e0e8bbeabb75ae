"""Figures of gates: the share of its attention output that each patch keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from medept.report.plots import COLOURS, DASHES, MARKERS, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def gate_maps(
    images: Sequence[np.ndarray | None],
    gates: np.ndarray,
    rollout: np.ndarray,
    *,
    titles: Sequence[str],
    layers: Sequence[int],
) -> Figure:
    """A row per image: the image, its attention rollout, its mean gate, and the gates by layer.

    Args:
        images: n arrays (H, W, 3); None for a row that is not of a single image.
        gates: (n, layers, rows, columns), means over heads.
        rollout: (n, rows, columns), drawn on its own scale.
        titles: one per row, written beside it.
        layers: numbers of the layers, from 1.
    """
    names = ["image", "rollout", "mean gate", *(f"layer {layer}" for layer in layers)]
    figure = new_figure(1.15 * len(names) + 1.6, 1.2 * len(images) + 0.3)
    axes = figure.subplots(len(images), len(names), squeeze=False)
    low, high = float(gates.min()), float(gates.max())
    shown: Any = None
    for row, line in enumerate(axes):
        if images[row] is not None:
            line[0].imshow(images[row])
        _title_left(line[0], titles[row])
        line[1].imshow(rollout[row], cmap="magma")
        for axis, values in zip(line[2:], [gates[row].mean(axis=0), *gates[row]], strict=True):
            shown = axis.imshow(values, cmap="viridis", vmin=low, vmax=high)
    _finish(figure, axes, names, shown)
    return figure


def gates_by_head(
    image: np.ndarray, gates: np.ndarray, *, title: str, layers: Sequence[int]
) -> Figure:
    """Gates of one image (H, W, 3): a row per layer, and a column per head and for their mean.

    Args:
        gates: (layers, heads, rows, columns).
        title: of the image, written above it.
        layers: numbers of the layers, from 1.
    """
    count = gates.shape[1]
    names = [title, *(f"head {head + 1}" for head in range(count)), "mean"]
    figure = new_figure(1.05 * len(names) + 2, 1.05 * len(layers) + 0.4)
    axes = figure.subplots(len(layers), len(names), squeeze=False)
    low, high = float(gates.min()), float(gates.max())
    axes[0, 0].imshow(image)
    shown: Any = None
    for layer, heads, line in zip(layers, gates, axes, strict=True):
        _title_left(line[1], f"layer {layer}")
        for axis, values in zip(line[1:], [*heads, heads.mean(axis=0)], strict=True):
            shown = axis.imshow(values, cmap="viridis", vmin=low, vmax=high)
    _finish(figure, axes, names, shown)
    return figure


def gates_by_layer(gates: Mapping[str, np.ndarray], layers: Mapping[str, Sequence[int]]) -> Figure:
    """Gates of all tokens by layer: median, central 50 % and central 90 %, a line per model.

    Args:
        gates: model -> gates (n, layers, heads, T).
        layers: model -> numbers of its layers, from 1.
    """
    figure = new_figure(5.6, 3.6)
    axis = figure.subplots()
    for i, (name, values) in enumerate(gates.items()):
        flat = np.moveaxis(values, 1, 0).reshape(values.shape[1], -1)
        low, lower, middle, upper, high = np.percentile(flat, (5, 25, 50, 75, 95), axis=1)
        place, colour = np.asarray(layers[name]), COLOURS[i % len(COLOURS)]
        axis.fill_between(place, low, high, color=colour, alpha=0.12, linewidth=0)
        axis.fill_between(place, lower, upper, color=colour, alpha=0.25, linewidth=0)
        axis.plot(place, middle, color=colour, marker=MARKERS[i % 8], linestyle=DASHES[i % 8],
                  label=name)  # fmt: skip
    axis.set(xlabel="layer", ylabel="gate", ylim=(0, 1.02))
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
    return figure


def _title_left(axis: Axes, title: str) -> None:
    axis.text(-0.06, 0.5, title, transform=axis.transAxes, ha="right", va="center", fontsize=8)


def _finish(figure: Figure, axes: np.ndarray, names: Sequence[str], shown: Any) -> None:
    """Hide the axes, make empty panels as large as others, and add headings and a colour scale."""
    for axis in axes.ravel():
        axis.set_axis_off()
        if not axis.images:
            axis.set_box_aspect(1)
    for name, axis in zip(names, axes[0], strict=True):
        axis.set_title(name, fontsize=8)
    figure.colorbar(shown, ax=axes, shrink=0.8, label="gate (1: all is kept)", pad=0.02)
