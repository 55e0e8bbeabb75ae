"""Pictures: contact sheets, accuracy against shots, and gates over an image.

Colours are those of Okabe and Ito, which colour-blind readers can tell apart; lines also differ
in marker and dash, so that they survive a grey printer.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medept.files import whole_file

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", "--", "-.", ":", "-", "--", "-.", ":")


def contact_sheet(rows: dict[str, Sequence[np.ndarray]], file: Path) -> None:
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
    _save(figure, file)


def shots_curve(results: pd.DataFrame, metric: str, file: Path) -> None:
    """Mean and standard deviation of ``metric`` against shots, a line a method.

    Args:
        results: one row a run with the columns ``method``, ``shots`` and ``metric``.
    """
    figure = _figure(5.2, 3.6)
    axis = figure.subplots()
    for i, (method, runs) in enumerate(results.groupby("method", sort=False)):
        by_shots = runs.groupby("shots")[metric]
        mean, spread = by_shots.mean(), by_shots.std().fillna(0)
        place = np.arange(len(mean)) + 0.06 * i
        axis.errorbar(
            place, mean, yerr=spread, label=str(method), color=COLOURS[i], marker=MARKERS[i],
            linestyle=DASHES[i], capsize=3,
        )  # fmt: skip
        axis.set_xticks(np.arange(len(mean)), [str(s) for s in mean.index])
    axis.set_xlabel("shots (patients per class)")
    axis.set_ylabel(metric.replace("_", " "))
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
    _save(figure, file)


def gate_maps(images: Sequence[np.ndarray], gates: np.ndarray, file: Path) -> None:
    """Images beside their gates: how much of its attention output each patch keeps.

    Args:
        images: n arrays (H, W, 3).
        gates: (n, layers, rows, columns), mean over heads.
    """
    count, layers = gates.shape[:2]
    figure = _figure(1.3 * (layers + 1) + 0.9, 1.35 * count + 0.3)
    axes = figure.subplots(count, layers + 1, squeeze=False)
    low, high = float(gates.min()), float(gates.max())
    shown: Any = None
    for image, maps, line in zip(images, gates, axes, strict=True):
        line[0].imshow(image)
        for axis, values in zip(line[1:], maps, strict=True):
            shown = axis.imshow(values, cmap="viridis", vmin=low, vmax=high)
        for axis in line:
            axis.set_axis_off()
    for layer, axis in enumerate(axes[0][1:], start=1):
        axis.set_title(f"layer {layer}", fontsize=9)
    figure.colorbar(shown, ax=axes, shrink=0.8, label="gate", pad=0.02)
    _save(figure, file)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: Figure, file: Path) -> None:
    with whole_file(file) as partial:
        figure.savefig(partial, dpi=130, format=file.suffix[1:])
