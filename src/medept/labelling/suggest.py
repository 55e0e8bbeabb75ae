"""Which images to label next.

Strategies are functions of features alone, and of the labels that are there; none needs a trained
network. Those of scikit-activeml are used where it has them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from medept.errors import ResourceError, SettingsError

DIMENSIONS = 64
"""Principal components of the features that distances are measured in, at most."""

CANDIDATES = 4000
"""Images that are compared with each other, at most: of a larger pool a random sample."""

UNLABELLED, UNSURE = -1, -2
"""In the place of a class index: an image that nobody has seen, and one without a clear answer."""


def suggest(
    features: np.ndarray,
    labels: np.ndarray,
    count: int,
    *,
    strategy: str = "auto",
    seed: int = 0,
) -> np.ndarray:
    """The rows of images to label next, the most useful first.

    Args:
        features: (n, D) of all images or cases.
        labels: (n,) class indices, :data:`UNLABELLED` or :data:`UNSURE`.
        count: how many; fewer if fewer are left.
        strategy: ``auto`` or one of :data:`STRATEGIES`.
        seed: of what is drawn.

    Returns:
        (count,) different rows that are unlabelled.

    Raises:
        SettingsError: if the strategy is not known, or needs labels of two classes.
        ResourceError: if scikit-activeml is missing.

    >>> points = np.array([[0.0, 0], [0.1, 0], [0, 0.1], [5, 5], [5.1, 5], [5, 5.1]])
    >>> sorted(suggest(points, np.full(6, UNLABELLED), 2, strategy="centres") // 3)
    [np.int64(0), np.int64(1)]
    """
    if strategy != "auto" and strategy not in STRATEGIES:
        known = ", ".join(STRATEGIES)
        raise SettingsError(f"strategy={strategy}: the strategies are auto, {known}")
    rng = np.random.default_rng(seed)
    free = np.flatnonzero(labels == UNLABELLED)
    count = min(count, len(free))
    if count == 0:
        return free
    classes = len(set(labels[labels >= 0].tolist()))
    if strategy in NEED_LABELS and classes < 2:
        raise SettingsError(f"strategy={strategy} learns from labels of two classes: label some")
    if strategy == "auto":
        strategy = DEFAULT
    if count == len(free) or strategy == "random":
        return rng.permutation(free)[:count]
    free = np.sort(rng.permutation(free)[:CANDIDATES])
    seen = np.flatnonzero(labels != UNLABELLED)
    rows = np.concatenate([seen, free])
    points = coordinates(features[rows], seed)
    chosen = STRATEGIES[strategy](points, labels[rows], count, int(rng.integers(2**31)))
    return rows[chosen]


def coordinates(features: np.ndarray, seed: int = 0) -> np.ndarray:
    """Principal components (n, d) of standardised features (n, D), scaled to a mean length of 1."""
    from sklearn.decomposition import PCA

    features = features.astype(np.float32)
    spread = features.std(axis=0)
    standard = (features - features.mean(axis=0)) / np.where(spread > 1e-6, spread, 1)
    size = min(DIMENSIONS, len(features) - 1, features.shape[1])
    points = PCA(max(size, 1), random_state=seed).fit_transform(standard)
    return points / max(np.linalg.norm(points, axis=1).mean(), 1e-12)


def _centres(points: np.ndarray, labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Of as many clusters as there will be labels, the centres of the largest without any."""
    from sklearn.cluster import KMeans

    seen = labels != UNLABELLED
    means = KMeans(int(seen.sum()) + count, n_init=3, random_state=seed).fit(points)
    sizes = np.bincount(means.labels_, minlength=means.n_clusters)
    sizes[np.unique(means.labels_[seen])] = 0
    distances = means.transform(points)
    distances[seen] = np.inf
    chosen: list[int] = []
    for cluster in np.argsort(-sizes, kind="stable")[:count]:
        nearest = int(distances[:, cluster].argmin())
        chosen.append(nearest)
        distances[nearest] = np.inf
    return np.array(chosen)


def _margin(points: np.ndarray, labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Of the images with the smallest margin between two classes, different ones (Zhdanov 2019)."""
    from sklearn.cluster import KMeans
    from sklearn.linear_model import LogisticRegression

    known, free = np.flatnonzero(labels >= 0), np.flatnonzero(labels == UNLABELLED)
    model = LogisticRegression(class_weight="balanced", max_iter=500)
    model.fit(points[known], labels[known])
    best = np.sort(model.predict_proba(points[free]), axis=1)
    margins = best[:, -1] - best[:, -2]
    doubtful = np.argsort(margins, kind="stable")[: POOL_FACTOR * count]
    near, weights = points[free[doubtful]], 1 - margins[doubtful] + 1e-6
    means = KMeans(count, n_init=3, random_state=seed).fit(near, sample_weight=weights)
    distances = means.transform(near)
    chosen: list[int] = []
    for cluster in range(count):
        nearest = int(distances[:, cluster].argmin())
        chosen.append(nearest)
        distances[nearest] = np.inf
    chosen.sort()  # the most doubtful first
    return free[doubtful[chosen]]


POOL_FACTOR = 10
"""How many times as many doubtful images as are wanted are looked at for different ones."""


def _active(name: str) -> Callable[[np.ndarray, np.ndarray, int, int], np.ndarray]:
    """A strategy of scikit-activeml, by the name of its class."""

    def choose(points: np.ndarray, labels: np.ndarray, count: int, seed: int) -> np.ndarray:
        pool = _activeml()
        more: dict[str, Any] = {}
        y = np.where(labels == UNLABELLED, np.nan, labels.astype(float))
        if name == "Badge":
            y[labels < 0] = np.nan
            more["clf"] = _logistic(sorted(set(labels[labels >= 0].tolist())))
        query = getattr(pool, name)(random_state=seed)
        free = np.flatnonzero(labels == UNLABELLED)
        return np.asarray(query.query(points, y, candidates=free, batch_size=count, **more))

    return choose


def _activeml() -> Any:
    try:
        from skactiveml import pool
    except ImportError as error:
        raise ResourceError(
            "suggestions need an extra: pip install 'medept[label]', or strategy=centres"
        ) from error
    return pool


def _logistic(classes: list[int]) -> Any:
    from skactiveml.classifier import SklearnClassifier
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(class_weight="balanced", max_iter=500)
    return SklearnClassifier(model, classes=classes)


STRATEGIES: dict[str, Callable[[np.ndarray, np.ndarray, int, int], np.ndarray]] = {
    "random": lambda points, labels, count, seed: np.empty(0),  # drawn before points are made
    "typical": _active("TypiClust"),
    "centres": _centres,
    "cover": _active("ProbCover"),
    "herding": _active("MaxHerding"),
    "margin": _margin,
    "badge": _active("Badge"),
}
"""Functions of points (n, d), labels (n,), a count and a seed, to rows.

``typical`` is TypiClust (Hacohen et al. 2022), ``cover`` ProbCover (Yehuda et al. 2022),
``herding`` MaxHerding (Bae et al. 2024), ``badge`` BADGE (Ash et al. 2020).
"""

NEED_LABELS = ("margin", "badge")

DEFAULT = "typical"
"""What ``auto`` is: the best measured (``docs/labelling.md``)."""
