"""The figures of a benchmark: those of the paper, from the runs of one encoder."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pandas as pd

from medept.benchmark import score_plots
from medept.benchmark.scores import REFERENCE, mean_over_shots, scores, shots_order, tasks
from medept.benchmark.suite import Suite

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZE = "numbers in the prompts"


def draw_figures(suite: Suite, runs: pd.DataFrame, table: pd.DataFrame) -> dict[str, Figure]:
    """Figures by name: the one of the paper that the suite repeats, else 3 and 7.

    A figure is left out if too few runs have ended.

    Args:
        runs: the rows of all runs of one encoder.
        table: its scores, one row per method and episode.
    """
    if suite.table in ("fig4", "fig5", "fig6"):
        whole = mean_over_shots(table)
        name = f"figure{suite.table[-1]}"
        if suite.table != "fig4":
            return {name: score_plots.dots(whole, REFERENCE)} if len(whole) else {}
        prompted = _with_prompt_size(whole, runs)
        return {name: score_plots.lines(prompted, "size", xlabel=SIZE)} if len(prompted) else {}
    figures = {}
    shots = list(dict.fromkeys(shots for _, shots in tasks(table)))
    if len(shots) > 1 and suite.table != "fig7":
        figures["figure3"] = score_plots.lines(table, "shots", over=shots, xlabel="shots")
    if suite.table in (None, "fig7"):
        each = scores(runs, as_in_paper=suite.table is not None, per="run")
        figures["figure7"] = score_plots.boxes(
            each.sort_values("shots", key=lambda s: s.map(shots_order), kind="stable"), REFERENCE
        )
    return figures


def _with_prompt_size(table: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Scores of methods with a prompt length, and the ``size`` of their prompts in numbers.

    Unlike lengths, sizes can be compared between methods: each unit of length is one number per
    token in EPT, and as many numbers as a token is wide in VPT.
    """
    first = runs[runs["error"] == ""].drop_duplicates("label").set_index("label")
    prompted = first[["length" in json.loads(text) for text in first["settings"]]]
    head = first["trainable_parameters"].get(REFERENCE, 0)
    some = table[table["label"].isin(prompted.index)]
    return some.assign(
        size=some["label"].map(prompted["trainable_parameters"] - head),
        label=some["label"].map(prompted["method"]),
    )
