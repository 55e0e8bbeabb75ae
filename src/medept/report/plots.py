"""What all figures share, contact sheets and learning curves.

Colours are those of Okabe and Ito, which colour-blind readers can tell apart, without their yellow,
which is faint on white. Lines also differ in marker and dash, for printing in grey.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medept.files import whole_file

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#777777")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", "--", "-.", ":", "-", "--", "-.", ":")

TRAINED = {"head": "head alone", "all": "head and what is inside the encoder"}
"""What is trained -> label of that part of a learning curve."""


def contact_sheet(rows: Mapping[str, Sequence[np.ndarray]]) -> Figure:
    """Rows of images (H, W, 3), by the title of each row."""
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


def learning_curve(history: pd.DataFrame) -> Figure:
    """Loss by epoch.

    Args:
        history: one row per epoch, with the columns ``loss`` and ``trained`` (``head`` or
            ``all``).
    """
    figure = new_figure(5.2, 2.6)
    axis = figure.subplots()
    epochs = np.arange(1, len(history) + 1)
    for i, (trained, label) in enumerate(TRAINED.items()):
        part = (history["trained"] == trained).to_numpy()
        if part.any():
            axis.plot(epochs[part], history["loss"][part], label=label, markevery=[0, -1],
                      **line_style(i))  # fmt: skip
    axis.set(xlabel="epoch", ylabel="loss", yscale="log")
    axis.grid(alpha=0.3, which="both")
    axis.legend(frameon=False, fontsize=8)
    return figure


def line_style(i: int) -> dict[str, Any]:
    """Colour, marker and dash of line ``i``; from the ninth on, markers are hollow."""
    style: dict[str, Any] = {"color": COLOURS[i % 8], "marker": MARKERS[i % 8], "markersize": 5,
                             "linestyle": DASHES[(i + i // 8) % 8], "linewidth": 1.2}  # fmt: skip
    return style if i < 8 else style | {"markerfacecolor": "none"}


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, width and height in inches, whose parts make room for each other."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save(figure: Figure, file: Path) -> None:
    """Write a figure, whole or not at all, in the format that the suffix of the file names."""
    with whole_file(file) as partial:
        figure.savefig(partial, dpi=130, format=file.suffix[1:])
