"""Prediction sets that an adapter keeps: their thresholds, and what these rest on.

Thresholds are conformal (:mod:`medept.evaluation.conformal`), from predictions of held-out folds of
the support set or of a table of other patients. Folds are predicted by fits to fewer images than
the adapter's, which makes sets a little larger than they need be (``benchmarks/decisions.py``
measures it). MAPIE's cross-conformal sets need the fits of all folds at prediction, and know no
groups.

Sets are of the probabilities before any correction for prevalence. Their coverage holds within
classes, and so at every prevalence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from medept.evaluation.conformal import conformal_threshold, groups_needed
from medept.evaluation.influence import proportion_estimate
from medept.evaluation.intervals import Metric
from medept.evaluation.predictions import group_ids, indicators

Source = Literal["held-out folds", "other patients"]


class PredictionSets(BaseModel):
    """Thresholds of prediction sets.

    Attributes:
        coverage: proportion of sets that are to contain the truth, for each class.
        present: of each class, the lowest probability with which it is in a set.
        absent: of each label, the lowest probability of its absence with which that is in a set;
            empty for classes.
        groups: groups of each class that its threshold rests on.
        absent_groups: groups without each label, likewise.
        pooled: classes of too few groups for a threshold of their own, which share one: for them
            the coverage holds on average alone.
        source: what was predicted to find the thresholds.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    coverage: float = Field(gt=0, lt=1)
    present: list[float]
    absent: list[float] = []
    groups: list[int]
    absent_groups: list[int] = []
    pooled: list[str] = []
    source: Source

    def fits(self, classes: int, task: str) -> bool:
        """Whether it is for so many classes, or labels."""
        labels = classes if task == "multilabel" else 0
        return (len(self.present), len(self.absent)) == (classes, labels)

    def contain(self, probabilities: np.ndarray) -> np.ndarray:
        """What is in the set of each case: (n, C) of bool, for labels (n, C, 2), of which the first
        is absence. The most probable class always is.

        Args:
            probabilities: (n, C), before any correction for prevalence.
        """
        present = probabilities >= np.array(self.present)
        if not self.absent:
            present[np.arange(len(present)), probabilities.argmax(axis=1)] = True
            return present
        return np.stack([1 - probabilities >= np.array(self.absent), present], axis=2)

    def note(self, classes: Sequence[str]) -> str:
        """What the user should know of the sets, in a sentence.

        Args:
            classes: C names.
        """
        needed = groups_needed(self.coverage)
        always = [c for c, t in zip(classes, self.present, strict=True) if t == 0]
        least, most = min(self.groups), max(self.groups)
        words = (
            f"sets are to hold the truth in {100 * self.coverage:g} % of cases of every class; "
            f"they rest on {f'{least} to ' * (least < most)}{most} cases or groups of a class, "
            f"from {self.source}"
        )
        if self.pooled:
            words += (
                f"; {_named(self.pooled)} have fewer than {needed}, so that for them it holds on "
                "average over these classes"
            )
        if always:
            words += f"; every set has {_named(always)}, for which {needed} are needed"
        return words


def _named(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def fit_prediction_sets(
    probabilities: np.ndarray,
    targets: np.ndarray,
    groups: np.ndarray,
    classes: Sequence[str],
    *,
    coverage: float = 0.9,
    source: Source = "held-out folds",
) -> PredictionSets:
    """Thresholds from predictions of cases that were not trained on.

    Args:
        probabilities: (n, C), before any correction for prevalence.
        targets: (n,) class indices, or (n, C) of 0 and 1.
        groups: (n,) ids of groups.
        classes: C names.
        coverage: proportion of sets that are to contain the truth, between 0 and 1.
        source: what was predicted.

    Raises:
        SettingsError: if the coverage is not between 0 and 1.

    >>> p = np.array([[0.9, 0.1], [0.6, 0.4], [0.8, 0.2], [0.3, 0.7], [0.2, 0.8]])
    >>> y, each = np.array([0, 0, 0, 1, 1]), np.arange(5)
    >>> sets = fit_prediction_sets(p, y, each, ["well", "ill"], coverage=0.6)
    >>> sets.present
    [0.6, 0.7]
    >>> sets.contain(np.array([[0.65, 0.35], [0.25, 0.75]]))
    array([[ True, False],
           [False,  True]])
    """
    truth = indicators(targets, len(classes)) == 1
    sizes = [len(set(groups[rows].tolist())) for rows in truth.T]
    needed = groups_needed(coverage)

    def threshold(scores: np.ndarray, rows: np.ndarray) -> float:
        return conformal_threshold(scores[rows], groups[rows], coverage=coverage)

    present = [threshold(p, rows) for p, rows in zip(probabilities.T, truth.T, strict=True)]
    if targets.ndim == 2:
        absent = [threshold(1 - p, ~rows) for p, rows in zip(probabilities.T, truth.T, strict=True)]
        without = [len(set(groups[~rows].tolist())) for rows in truth.T]
        return PredictionSets(
            coverage=coverage,
            present=present,
            absent=absent,
            groups=sizes,
            absent_groups=without,
            source=source,
        )
    few = [c for c, size in enumerate(sizes) if size < needed]
    rows = np.isin(targets, few)
    shared = threshold(probabilities[np.arange(len(targets)), targets], rows)
    return PredictionSets(
        coverage=coverage,
        present=[shared if c in few else alone for c, alone in enumerate(present)],
        groups=sizes,
        pooled=[classes[c] for c in few] if shared > 0 else [],
        source=source,
    )


@dataclass(frozen=True)
class SetCoverage:
    """How often sets hold the truth.

    Attributes:
        stated: the coverage asked for.
        observed: proportion of cases whose set contains the truth; of labels, proportion of
            answers.
        by_class: class -> the same for its cases; label -> for cases with it.
        absent: label -> the same for cases without it; empty for classes.
        mean_size: mean number of classes in a set; of labels, of answers (yes, no) for a label.
    """

    stated: float
    observed: Metric
    by_class: dict[str, Metric]
    absent: dict[str, Metric]
    mean_size: float


def judge_sets(
    sets: PredictionSets,
    contained: np.ndarray,
    targets: np.ndarray,
    classes: Sequence[str],
    groups: np.ndarray | None = None,
) -> SetCoverage:
    """How often sets hold the truth, with intervals.

    Args:
        sets: their thresholds.
        contained: (n, C), or (n, C, 2), from :meth:`PredictionSets.contain`.
        targets: (n,) class indices, or (n, C) of 0 and 1.
        classes: C names.
        groups: (n,) ids of groups that count as one; None: each case is its own.
    """
    n, ids = len(targets), group_ids(groups, len(targets))
    truth = indicators(targets, len(classes)).astype(np.float64)

    def share(hit: np.ndarray, among: np.ndarray, of: np.ndarray = ids) -> Metric:
        found = proportion_estimate(hit.astype(np.float64), among, of)
        return Metric.of(found, int(among.sum()))

    if contained.ndim == 2:
        hit = contained[np.arange(n), targets]
        return SetCoverage(
            sets.coverage,
            share(hit, np.ones(n)),
            {c: share(hit, t) for c, t in zip(classes, truth.T, strict=True)},
            {},
            float(contained.sum(axis=1).mean()),
        )
    hits = np.where(truth == 1, contained[:, :, 1], contained[:, :, 0])
    columns = list(zip(classes, hits.T, truth.T, strict=True))
    return SetCoverage(
        sets.coverage,
        share(hits.ravel(), np.ones(hits.size), np.repeat(ids, len(classes))),
        {c: share(hit, t) for c, hit, t in columns},
        {c: share(hit, 1 - t) for c, hit, t in columns},
        float(contained.sum(axis=2).mean()),
    )


def set_texts(contained: np.ndarray, classes: Sequence[str]) -> list[str]:
    """Sets as text: their classes, with ``|`` between them.

    Of labels, those that are certain stand alone, and those that are undecided with ``?``.

    Args:
        contained: (n, C), or (n, C, 2), from :meth:`PredictionSets.contain`.
        classes: C names.

    >>> set_texts(np.array([[True, True], [False, True]]), ["a", "b"])
    ['a|b', 'b']
    >>> set_texts(np.array([[[True, True], [False, True]]]), ["mass", "effusion"])
    ['mass?|effusion']
    """
    if contained.ndim == 2:
        return ["|".join(np.array(classes)[row].tolist()) for row in contained]
    return [
        "|".join(
            f"{name}{'' if present and not absent else '?'}"
            for name, (absent, present) in zip(classes, row, strict=True)
            if present or not absent
        )
        for row in contained
    ]
