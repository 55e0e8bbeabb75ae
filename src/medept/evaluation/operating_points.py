"""Operating points: from which probability on a case counts as positive.

A point is chosen on predictions of the cross-validation inside the support set, and never on test
data. It lies half way between two of the scores seen there.

With ``guarantee`` the miss rate (or false alarm rate) is bounded by conformal risk control
(Angelopoulos et al. 2024) over groups: with n groups of positives, a mean proportion R of whose
images is missed, the bound is ``(n R + 1) / (n + 1)``. It holds on average over support sets, for
cases like those of the support set, as far as the predictions of the folds are those of the whole
fit. MAPIE's risk control knows no groups.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from medept.errors import DataError, SettingsError
from medept.evaluation.predictions import indicators

SENSITIVITIES = (0.80, 0.90, 0.95, 0.99)
"""Sensitivities whose thresholds are kept beside the one asked for."""

ONE_AIM = "give one of sensitivity=, specificity=, threshold= and cost="


@dataclass(frozen=True)
class OperatingAim:
    """What is asked of an operating point.

    Attributes:
        positive: classes that together count as positive. In multi-label data each label has a
            point of its own; none given: all labels.
        sensitivity: proportion of positives that is to be found, between 0 and 1.
        specificity: proportion of negatives that is to be left alone, between 0 and 1.
        threshold: the probability itself, between 0 and 1.
        cost: of a missed positive, and of a false alarm, whose expected sum is to be least.
        guarantee: whether sensitivity or specificity is to be bounded by conformal risk control.

    Raises:
        SettingsError: if not exactly one aim is given, or it is out of range.

    >>> OperatingAim(("malignant",), sensitivity=0.95).describe()
    'sensitivity 0.95'
    """

    positive: tuple[str, ...] = ()
    sensitivity: float | None = None
    specificity: float | None = None
    threshold: float | None = None
    cost: tuple[float, float] | None = None
    guarantee: bool = False

    def __post_init__(self) -> None:
        aims = [name for name in ("sensitivity", "specificity", "threshold", "cost")
                if getattr(self, name) is not None]  # fmt: skip
        if len(aims) != 1:
            raise SettingsError(f"an operating point has one aim: {ONE_AIM}")
        value = getattr(self, aims[0])
        if aims[0] == "cost":
            if not all(np.isfinite(each) and each > 0 for each in value):
                raise SettingsError(f"cost={value}: give two numbers above 0")
        elif not 0 < value < 1:
            raise SettingsError(f"{aims[0]}={value}: give a number between 0 and 1, such as 0.95")
        if self.guarantee and aims[0] not in ("sensitivity", "specificity"):
            raise SettingsError("guarantee= is for sensitivity= and specificity=")

    def describe(self) -> str:
        """The aim in words."""
        if self.cost is not None:
            return f"least cost (missed {self.cost[0]:g}, false alarm {self.cost[1]:g})"
        for name in ("sensitivity", "specificity", "threshold"):
            if (value := getattr(self, name)) is not None:
                return f"{name} {value:g}" + " guaranteed" * self.guarantee
        raise AssertionError("one aim is given")


class OperatingPoint(BaseModel):
    """A threshold, and where it is from.

    Attributes:
        positive: classes that count as positive; in multi-label data one label.
        threshold: from this probability of them together on, a case is positive.
        aim: what was asked for, in words.
        positives: groups of positives that it was chosen on; 0 if the threshold was given.
        negatives: groups of negatives, likewise.
        sensitivity: on these held-out predictions; None without them.
        specificity: likewise.
        promised: with a guarantee, the rate that can be promised.
        needed: with a guarantee that cannot be given, the number of groups that could give it.
        others: sensitivity -> threshold, for common sensitivities.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    positive: list[str]
    threshold: float = Field(ge=0, le=1)
    aim: str
    positives: int = 0
    negatives: int = 0
    sensitivity: float | None = None
    specificity: float | None = None
    promised: float | None = None
    needed: int | None = None
    others: dict[str, float] = {}

    @property
    def name(self) -> str:
        """The positive classes in words."""
        return " or ".join(self.positive)

    def scores(self, probabilities: np.ndarray, classes: Sequence[str]) -> np.ndarray:
        """(n,) probability of the positive classes together.

        Args:
            probabilities: (n, C).
            classes: C names.
        """
        columns = [list(classes).index(name) for name in self.positive]
        return np.asarray(probabilities[:, columns].sum(axis=1))

    def decide(self, probabilities: np.ndarray, classes: Sequence[str]) -> np.ndarray:
        """(n,) of bool: whether a case is positive. Arguments are those of :meth:`scores`."""
        return self.scores(probabilities, classes) >= self.threshold

    def prevalence(self, of_classes: np.ndarray | None, classes: Sequence[str]) -> float | None:
        """Of the positives, if that of classes (C,) is stated."""
        if of_classes is None:
            return None
        return float(of_classes[np.isin(list(classes), self.positive)].sum())

    def note(self) -> str:
        """What the user should know of it, in one sentence; empty if there is nothing."""
        if self.needed is not None and self.promised is not None:
            return (
                f"{self.name}: {self.aim} cannot be promised from so few cases: {self.promised:.2f}"
                f" can, and {self.needed} groups would do"
            )
        return ""


def choose_points(
    aim: OperatingAim,
    probabilities: np.ndarray | None,
    targets: np.ndarray,
    groups: np.ndarray,
    classes: Sequence[str],
) -> list[OperatingPoint]:
    """The operating point of classes, or of each label.

    Args:
        aim: what is asked for.
        probabilities: (n, C) of held-out cases; None if there are none.
        targets: (n,) class indices, or (n, C) of 0 and 1.
        groups: (n,) ids of groups.
        classes: C names.

    Raises:
        InputError: if a positive class is unknown, or there is nothing to choose a threshold on.

    >>> p = np.array([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.2, 0.8]])
    >>> aim = OperatingAim(("ill",), sensitivity=0.95)
    >>> found = choose_points(aim, p, np.array([0, 0, 1, 1]), np.arange(4), ["well", "ill"])
    >>> round(found[0].threshold, 2), found[0].sensitivity, found[0].specificity
    (0.55, 1.0, 1.0)
    """
    sets = check_aim(aim, targets, classes, held_out=probabilities is not None)
    if probabilities is None:
        return [
            OperatingPoint(positive=names, threshold=aim.threshold or 0.0, aim=aim.describe())
            for names, _ in sets
        ]
    return [
        _chosen(
            aim,
            names,
            probabilities[:, np.isin(list(classes), names)].sum(axis=1),
            positive,
            groups,
        )
        for names, positive in sets
    ]


def check_aim(
    aim: OperatingAim, targets: np.ndarray, classes: Sequence[str], *, held_out: bool
) -> list[tuple[list[str], np.ndarray]]:
    """For each point its positive classes, and which cases (n,) are positive.

    Args:
        aim: what is asked for.
        targets: (n,) class indices, or (n, C) of 0 and 1.
        classes: C names.
        held_out: whether there are, or can be, predictions of held-out cases.

    Raises:
        InputError: as :func:`choose_points`.
    """
    if not held_out and aim.threshold is None:
        raise DataError(
            "no operating point can be chosen: each class needs two shots, one of them to hold "
            f"out{_single(targets, classes)}; give more, or the threshold= itself"
        )
    truth = indicators(targets, len(classes))
    found = []
    for names in _positive_sets(aim.positive, classes, multilabel=targets.ndim == 2):
        positive = np.asarray(truth[:, np.isin(list(classes), names)].any(axis=1))
        if aim.threshold is None and (positive.all() or not positive.any()):
            raise DataError(
                f"no operating point can be chosen for {' or '.join(names)}: the support set "
                "needs cases with it and cases without it"
            )
        found.append((names, positive))
    return found


def _single(targets: np.ndarray, classes: Sequence[str]) -> str:
    """The classes of one case, in brackets; nothing if there are none."""
    if targets.ndim == 2:
        return ""
    counts = np.bincount(targets, minlength=len(classes))
    names = [name for name, count in zip(classes, counts, strict=True) if count == 1]
    return f" ({', '.join(names)} {'has' if len(names) == 1 else 'have'} one)" if names else ""


def _positive_sets(
    positive: Sequence[str], classes: Sequence[str], *, multilabel: bool
) -> list[list[str]]:
    """The classes of each point."""
    unknown = [name for name in positive if name not in classes]
    if unknown:
        raise SettingsError(
            f"positive={','.join(unknown)}: not a class; the classes are {', '.join(classes)}"
        )
    if multilabel:
        return [[name] for name in positive or classes]
    if not positive:
        raise SettingsError(f"give positive=, one or more of {', '.join(classes)}")
    if len(set(positive)) == len(classes):
        raise SettingsError(f"positive={','.join(positive)}: these are all classes; leave some out")
    return [list(dict.fromkeys(positive))]


def _chosen(
    aim: OperatingAim,
    names: list[str],
    scores: np.ndarray,
    positive: np.ndarray,
    groups: np.ndarray,
) -> OperatingPoint:
    """The point of one set of classes, on held-out scores (n,)."""
    if positive.all() or not positive.any():  # and the threshold is given
        return OperatingPoint(positive=names, threshold=aim.threshold or 0.0, aim=aim.describe())
    candidates = _candidates(scores)
    misses = _rates(candidates, scores, positive, groups, missed=True)
    alarms = _rates(candidates, scores, ~positive, groups, missed=False)
    promised = needed = None
    if aim.threshold is not None:
        threshold = aim.threshold
    elif aim.cost is not None:
        share = positive.mean()
        costs = aim.cost[0] * share * misses.by_image + aim.cost[1] * (1 - share) * alarms.by_image
        best = np.flatnonzero(costs <= costs.min() + 1e-12)
        threshold = float(candidates[best[len(best) // 2]])
    else:
        rising = aim.sensitivity is not None  # a higher threshold misses more
        rates = misses if rising else alarms
        allowed = 1 - (aim.sensitivity or aim.specificity or 0.0)
        bound = rates.bound if aim.guarantee else rates.by_image
        within = np.flatnonzero(bound <= allowed + 1e-9)
        if not len(within):
            within = np.flatnonzero(bound <= bound.min() + 1e-9)
            promised, needed = 1 - float(bound.min()), int(np.ceil((1 - allowed) / allowed - 1e-9))
        threshold = float(candidates[within[-1] if rising else within[0]])
        if aim.guarantee and promised is None:
            promised = 1 - allowed
    found = scores >= threshold
    return OperatingPoint(
        positive=names,
        threshold=threshold,
        aim=aim.describe(),
        positives=misses.groups,
        negatives=alarms.groups,
        sensitivity=float(found[positive].mean()),
        specificity=float((~found[~positive]).mean()),
        promised=promised,
        needed=needed,
        others={
            f"{rate:.2f}": float(candidates[misses.by_image <= 1 - rate + 1e-9][-1])
            for rate in SENSITIVITIES
        },
    )


def _candidates(scores: np.ndarray) -> np.ndarray:
    """Thresholds between the scores, and one below and above all of them, in ascending order."""
    seen = np.unique(scores.clip(0, 1))  # a sum of probabilities may exceed 1 by rounding
    return np.concatenate([[seen[0] / 2], (seen[1:] + seen[:-1]) / 2, [(seen[-1] + 1) / 2]])


@dataclass(frozen=True)
class _Rates:
    """Error rates at K thresholds: by image, by conformal risk control, and of how many groups."""

    by_image: np.ndarray
    bound: np.ndarray
    groups: int


def _rates(
    candidates: np.ndarray,
    scores: np.ndarray,
    rows: np.ndarray,
    groups: np.ndarray,
    *,
    missed: bool,
) -> _Rates:
    """How often the images in ``rows`` lie on the wrong side of each threshold."""
    compare: Callable[..., np.ndarray] = np.less if missed else np.greater_equal
    wrong = compare(scores[rows][:, None], candidates)
    ids = np.unique(groups[rows], return_inverse=True)[1]
    sums = np.zeros((ids.max() + 1, len(candidates)))
    np.add.at(sums, ids, wrong)
    each = sums / np.bincount(ids)[:, None]
    n = len(each)
    return _Rates(wrong.mean(axis=0), (each.sum(axis=0) + 1) / (n + 1), n)
