"""Figures of gates: the share of its attention output that each patch keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from medept.report.plots import COLOURS, DASHES, MARKERS, new_figure

if TYPE_CHECKING:
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
    panels = _Panels(len(images), names, gates)
    for row, (image, title) in enumerate(zip(images, titles, strict=True)):
        panels.title(row, 0, title)
        if image is not None:
            panels.picture(row, 0, image)
        panels.picture(row, 1, rollout[row], cmap="magma")
        for column, values in enumerate([gates[row].mean(axis=0), *gates[row]], start=2):
            panels.gate(row, column, values)
    return panels.figure


def gates_by_head(
    image: np.ndarray, gates: np.ndarray, *, title: str, layers: Sequence[int]
) -> Figure:
    """Gates of one image (H, W, 3): a row per layer, and a column per head and for their mean.

    Args:
        gates: (layers, heads, rows, columns).
        title: of the image, written above it.
        layers: numbers of the layers, from 1.
    """
    heads = gates.shape[1]
    names = [title, "", *(f"head {head + 1}" for head in range(heads)), "mean"]
    panels = _Panels(len(layers), names, gates)
    panels.picture(0, 0, image)
    for row, (layer, by_head) in enumerate(zip(layers, gates, strict=True)):
        panels.title(row, 2, f"layer {layer}")
        for column, values in enumerate([*by_head, by_head.mean(axis=0)], start=2):
            panels.gate(row, column, values)
    return panels.figure


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


class _Panels:
    """Rows and columns of small pictures in one pair of axes, with headings and a colour scale.

    Axes of its own for each of some hundred pictures would take matplotlib many seconds.

    Args:
        rows: their number.
        names: headings of the columns.
        gates: all that :meth:`gate` will draw, which sets the scale of their colours.
    """

    def __init__(self, rows: int, names: Sequence[str], gates: np.ndarray) -> None:
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import Normalize

        self.figure = new_figure(1.1 * len(names) + 1.8, 1.1 * rows + 0.4)
        self._axis = self.figure.subplots()
        self._axis.set(xlim=(0, len(names)), ylim=(rows, 0), aspect="equal")
        self._axis.set_axis_off()
        self._scale: dict[str, Any] = {
            "cmap": "viridis",
            "norm": Normalize(gates.min(), gates.max()),
        }
        for column, name in enumerate(names):
            self._axis.text(column + 0.5, -0.05, name, ha="center", va="bottom", fontsize=8)
        self.figure.colorbar(
            ScalarMappable(**self._scale),
            ax=self._axis, shrink=0.8, label="gate (1: all is kept)", pad=0.02,
        )  # fmt: skip

    def title(self, row: int, column: int, text: str) -> None:
        """Text to the left of a picture."""
        self._axis.text(column - 0.03, row + 0.5, text, ha="right", va="center", fontsize=8)

    def gate(self, row: int, column: int, values: np.ndarray) -> None:
        """Gates of one image (rows, columns), on the scale that all share."""
        self.picture(row, column, values, **self._scale)

    def picture(self, row: int, column: int, values: np.ndarray, **colours: Any) -> None:
        """An array (H, W) or (H, W, 3), in the middle of its square."""
        height, width = (0.94 * side / max(values.shape[:2]) / 2 for side in values.shape[:2])
        across, down = column + 0.5, row + 0.5
        self._axis.imshow(
            values,
            extent=(across - width, across + width, down + height, down - height),
            interpolation="nearest",
            **colours,
        )
