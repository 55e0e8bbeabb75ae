"""Draw the curves of a run: loss, and top-1 on 2,000 validation images, by step.

python pretraining/curves.py --work WORK --out pretraining/curves.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from medept.report.plots import COLOURS, new_figure, save

COLUMNS = ("step", "rate", "loss", "images a second", "seconds", "top-1")
PARTS = {"log.csv": "constant rate", "cooldown.csv": "cooldown"}


def draw(work: Path) -> Figure:
    """Two panels; a cooldown is a line of its own."""
    figure = new_figure(7.5, 2.9)
    panels = figure.subplots(1, 2)
    for (file, label), colour in zip(PARTS.items(), COLOURS, strict=False):
        if not (work / file).exists():
            continue
        table = pd.read_csv(work / file, names=COLUMNS)
        for panel, column in zip(panels, ("loss", "top-1"), strict=True):
            rows = table.dropna(subset=[column])
            panel.plot(rows["step"], rows[column], marker=".", color=colour, label=label)
            panel.set(xlabel="step", ylabel=column)
            panel.grid(alpha=0.3)
    panels[0].legend(frameon=False)
    return figure


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--work", type=Path, required=True, help="the folder that pretrain.py wrote"
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="the picture to write, such as curves.png"
    )
    arguments = parser.parse_args()
    save(draw(arguments.work), arguments.out)
