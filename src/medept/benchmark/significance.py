"""Which differences between methods are real.

Two methods are compared over pairs: their scores on the same data set, shots and episode.
Wilcoxon's signed-rank test says how likely such differences are by chance, and Holm's correction
allows for testing every pair of methods. Pairs are not wholly independent: episodes of one data set
share most of their test images, and of the support sets of one episode the larger ones contain the
smaller ones. Read p as a guide.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd


def paired_tests(table: pd.DataFrame) -> pd.DataFrame:
    """Compare every two methods.

    Args:
        table: one row per method and episode, from :func:`medept.benchmark.scores.scores`.

    Returns:
        one row per two methods: ``method``, ``against``, the number of ``pairs``, their mean
        ``difference`` and its ``standard_error``, in how many pairs the method is ``ahead`` or
        ``behind``, ``p``, and ``p_holm``.
    """
    from scipy.stats import wilcoxon

    wide = table.pivot_table(
        index=["encoder", "data", "shots", "episode"], columns="label", values="score"
    )
    rows = []
    for one, other in combinations(dict.fromkeys(table["label"]), 2):
        differences = (wide[one] - wide[other]).dropna().to_numpy()
        count = len(differences)
        if not count:
            continue
        rows.append(
            {
                "method": one,
                "against": other,
                "pairs": count,
                "difference": differences.mean(),
                "standard_error": differences.std(ddof=1) / count**0.5 if count > 1 else np.nan,
                "ahead": int((differences > 0).sum()),
                "behind": int((differences < 0).sum()),
                "p": float(wilcoxon(differences).pvalue) if differences.any() else 1.0,
            }
        )
    found = pd.DataFrame(rows)
    return found.assign(p_holm=holm(found["p"].to_numpy())) if len(found) else found


def holm(p: np.ndarray) -> np.ndarray:
    """Correct m p-values for testing m hypotheses (Holm 1979, step-down).

    >>> holm(np.array([0.01, 0.04, 0.03])).tolist()
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p)
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1)
    corrected = np.empty(len(p))
    corrected[order] = steps
    return corrected
