"""Tables of how the features of several models are distributed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from medept.analysis.model_features import ModelFeatures
from medept.data.labelled_images import LabelledImages


def distribution_table(models: Sequence[ModelFeatures], data: LabelledImages) -> pd.DataFrame:
    """One row per model: its score, and all numbers of its distribution.

    Two columns say what an adapter changed against its encoder. The trace of the scatter within
    classes changes by the product of both: ``scale_factor``, by which the whole scatter changes,
    and ``shape_factor``, by which the share within classes changes.
    """
    rows = []
    for model in models:
        row: dict[str, Any] = {"model": model.name, "source": model.source, "n": len(data)}
        row |= model.score | model.distribution.numbers()
        if model.pretrained is not None:
            after, before = model.distribution, model.pretrained
            scatter = after.trace + after.between, before.trace + before.between
            row["scale_factor"] = _factor(*scatter)
            row["shape_factor"] = _factor(after.equal_scale_trace, before.equal_scale_trace)
        rows.append(row)
    table = pd.DataFrame(rows)
    scores = [name for name in ("balanced_accuracy", "map") if name in table]
    return table[[*table.columns.drop(scores), *scores]]


def summary_table(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of :func:`distribution_table` as text: one column per model, mean ± deviation.

    >>> rows = pd.DataFrame({"model": "ept", "source": ["a", "b"], "n": 9, "trace": [1.0, 2.0]})
    >>> print(summary_table(rows))
                    ept
    trace  1.5 ± 0.71
    """
    columns = {}
    for name, rows in table.groupby("model", sort=False):
        columns[str(name)] = {
            key: _mean_and_deviation(rows[key].dropna())
            for key in table.columns.drop(["model", "source", "n"])
        }
    return pd.DataFrame(columns)


def as_dict(models: Sequence[ModelFeatures], data: LabelledImages) -> dict[str, Any]:
    """The content of ``analysis.json``."""
    return {
        "images": len(data),
        "classes": list(data.classes),
        "models": [
            {"model": model.name, "source": model.source} | model.score | asdict(model.distribution)
            for model in models
        ],
    }


def _factor(after: float, before: float) -> float:
    """after / before; NaN if ``before`` is 0, as within classes of one image each."""
    return after / before if before else float("nan")


def _mean_and_deviation(values: pd.Series) -> str:
    deviation = f" ± {values.std():.2g}" if len(values) > 1 else ""
    return f"{values.mean():.4g}{deviation}" if len(values) else ""
