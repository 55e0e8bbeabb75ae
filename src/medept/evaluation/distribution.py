"""How features are distributed within and between classes.

Zu et al. 2024 say that prompt tuning calibrates this distribution. The scatter within classes is
their equation 11,

    Sigma_W = 1/N sum_k sum_i (x_ki - mean_k)(x_ki - mean_k)^T,

and the scatter between classes is Sigma_B = 1/N sum_k N_k (mean_k - mean)(mean_k - mean)^T. They
add up to the total scatter. A gate makes features *shorter*, and so reduces all distances, within
classes and between them alike. Each trace is therefore given twice: raw, and at equal scale, that
is, of features divided by the square root of the trace of their total scatter. A change at equal
scale is one of shape. All other numbers, except the norm, do not depend on scale.

In multi-label data an image counts once for each of its labels, and numbers that suppose exclusive
classes (silhouette, purity) are undefined.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np

from medept.errors import DataError

NEIGHBOURS = 5
"""Number of nearest neighbours that the purity counts."""


@dataclass(frozen=True)
class FeatureDistribution:
    """How features (n, D) of C classes are distributed.

    Attributes:
        trace: trace of Sigma_W: the mean squared distance of features from their class mean.
        leading: largest eigenvalue of Sigma_W.
        between: trace of Sigma_B.
        norm: mean length of a feature vector.
        equal_scale_trace: trace of Sigma_W as a share of the trace of the total scatter, 0 to 1.
        equal_scale_leading: largest eigenvalue of Sigma_W, likewise.
        fisher_ratio: trace of Sigma_B over trace of Sigma_W; larger if classes are further apart.
        silhouette: mean over images, -1 to 1 (Rousseeuw 1987); None for multi-label data.
        purity: share of an image's five nearest neighbours that are of its class, mean over
            images; None for multi-label data.
        centroid_angle: angle in degrees between two class means, seen from the mean of all
            features; mean over pairs of classes.
        effective_rank: exp of the entropy of the normalised singular values of the centred
            features (Roy and Vetterli 2007).
        by_class: class -> ``trace`` and ``leading`` of its own scatter, and ``n``, its images.
    """

    trace: float
    leading: float
    between: float
    norm: float
    equal_scale_trace: float
    equal_scale_leading: float
    fisher_ratio: float
    silhouette: float | None
    purity: float | None
    centroid_angle: float
    effective_rank: float
    by_class: dict[str, dict[str, float]]

    def numbers(self) -> dict[str, float | None]:
        """All numbers by name, except those by class."""
        return {name: value for name, value in asdict(self).items() if name != "by_class"}


def within_class_scatter(features: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Sigma_W (D, D), which the paper calls intra-class distance.

    Args:
        features: (n, D).
        targets: (n,) class indices, or (n, C) of 0 and 1.

    >>> features = np.array([[0.0, 0.0], [2.0, 0.0], [5.0, 1.0], [5.0, 3.0]])
    >>> within_class_scatter(features, np.array([0, 0, 1, 1]))
    array([[0.5, 0. ],
           [0. , 0.5]])
    """
    rows = np.concatenate(_centred(features, targets))
    return np.asarray(rows.T @ rows / len(rows))


def between_class_scatter(features: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Sigma_B (D, D). Arguments are those of :func:`within_class_scatter`.

    >>> features = np.array([[0.0, 0.0], [2.0, 0.0], [5.0, 1.0], [5.0, 3.0]])
    >>> between_class_scatter(features, np.array([0, 0, 1, 1]))
    array([[4., 2.],
           [2., 1.]])
    """
    rows = _means_apart(features, targets)
    return rows.T @ rows


def feature_distribution(
    features: np.ndarray, targets: np.ndarray, classes: Sequence[str]
) -> FeatureDistribution:
    """Describe how features are distributed within and between classes.

    Args:
        features: (n, D).
        targets: (n,) class indices, or (n, C) of 0 and 1.
        classes: C names.

    Raises:
        InputError: if fewer than two classes have images, or all features are equal.

    >>> features = np.array([[0.0, 0.0], [2.0, 0.0], [5.0, 1.0], [5.0, 3.0]])
    >>> found = feature_distribution(features, np.array([0, 0, 1, 1]), ["benign", "malignant"])
    >>> found.trace, round(found.between, 3), round(found.equal_scale_trace, 3)
    (1.0, 5.0, 0.167)
    """
    features = np.asarray(features, dtype=np.float64)
    names = [
        name for name, rows in zip(classes, _rows(targets, len(classes)), strict=True) if rows.any()
    ]
    if len(names) < 2:
        raise DataError("a distribution of features needs images of at least two classes")
    centred = _centred(features, targets)
    within = np.concatenate(centred)
    trace = _spread(within) / len(within)
    apart = _spread(_means_apart(features, targets))
    whole = trace + apart
    if not whole > 0:
        raise DataError("all features are equal, so they have no distribution to describe")
    leading = _leading(within)
    silhouette, purity = _neighbourhood(features, targets)
    return FeatureDistribution(
        trace=trace,
        leading=leading,
        between=apart,
        norm=float(np.linalg.norm(features, axis=1).mean()),
        equal_scale_trace=trace / whole,
        equal_scale_leading=leading / whole,
        fisher_ratio=apart / trace if trace else float("inf"),
        silhouette=silhouette,
        purity=purity,
        centroid_angle=_mean_angle(features, targets),
        effective_rank=_effective_rank(features),
        by_class={
            name: {
                "trace": _spread(part) / len(part),
                "leading": _leading(part),
                "n": float(len(part)),
            }
            for name, part in zip(names, centred, strict=True)
        },
    )


def project(
    features: Mapping[str, np.ndarray],
    *,
    kind: Literal["tsne", "pca"] = "tsne",
    joint: bool = True,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Project the features of several models to two dimensions.

    First, the features of each model are centred and brought to equal scale. In a joint
    projection, distances between points of different models mean something. In separate ones, as
    in figure 2 of the paper, each model has its own axes, and they mean nothing.

    Args:
        features: (n, D) of each model, by its name.
        kind: ``tsne`` or ``pca``.
        joint: whether one projection is fitted to all models.
        seed: of the projection.

    Returns:
        (n, 2) of each model, by its name.

    Raises:
        InputError: if the projection is joint, and the widths D of the models differ.

    >>> features = np.random.default_rng(0).normal(size=(6, 4))
    >>> points = project({"before": features, "after": features / 2}, kind="pca")
    >>> bool(np.allclose(points["before"], points["after"]))  # they differ in scale alone
    True
    """
    even = {name: at_equal_scale(values) for name, values in features.items()}
    if not joint:
        return {name: _two_dimensions(values, kind, seed) for name, values in even.items()}
    if len({values.shape[1] for values in even.values()}) > 1:
        raise DataError(
            "features of different widths have no joint projection: project them separately"
        )
    together = _two_dimensions(np.concatenate(list(even.values())), kind, seed)
    ends = np.cumsum([len(values) for values in even.values()])[:-1]
    return dict(zip(even, np.split(together, ends), strict=True))


def first_component(features: np.ndarray) -> np.ndarray:
    """First principal component (n,) of features (n, D), centred.

    As the sign of a component is arbitrary, it is chosen so that the longer tail is positive.

    >>> first_component(np.array([[0.0, 0.0], [0.0, 0.0], [3.0, 4.0]])).round(2)
    array([-1.67, -1.67,  3.33])
    """
    apart = features - features.mean(axis=0)
    along = apart @ np.linalg.svd(apart, full_matrices=False)[2][0]
    return along * (1 if (along**3).sum() >= 0 else -1)


def at_equal_scale(features: np.ndarray) -> np.ndarray:
    """Features (n, D), centred and divided by the square root of the trace of their scatter.

    >>> at_equal_scale(np.array([[1.0, 0.0], [5.0, 0.0]]))
    array([[-1.,  0.],
           [ 1.,  0.]])
    """
    apart = np.asarray(features, dtype=np.float64) - features.mean(axis=0)
    scale = np.sqrt((apart**2).sum(axis=1).mean())
    return apart / scale if scale > 0 else apart


# --- parts -----------------------------------------------------------------------------------


def _rows(targets: np.ndarray, count: int) -> list[np.ndarray]:
    """For each class, (n,) whether an image is of it."""
    if targets.ndim == 2:
        return [column.astype(bool) for column in targets.T]
    return [np.equal(targets, c) for c in range(count)]


def _members(features: np.ndarray, targets: np.ndarray) -> list[np.ndarray]:
    """The features of each class that has images."""
    count = targets.shape[1] if targets.ndim == 2 else int(targets.max()) + 1
    return [features[rows] for rows in _rows(targets, count) if rows.any()]


def _centred(features: np.ndarray, targets: np.ndarray) -> list[np.ndarray]:
    """The features of each class that has images, less their mean."""
    return [part - part.mean(axis=0) for part in _members(features, targets)]


def _means_apart(features: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Each class's mean less the mean of all (C, D), times the square root of its share."""
    parts = _members(features, targets)
    shares = np.array([len(part) for part in parts], dtype=np.float64)
    shares /= shares.sum()
    means = np.stack([part.mean(axis=0) for part in parts])
    return np.asarray((means - shares @ means) * np.sqrt(shares)[:, None])


def _spread(rows: np.ndarray) -> float:
    """Trace of rows.T @ rows (D, D), without forming it."""
    return float((rows**2).sum())


def _leading(centred: np.ndarray) -> float:
    """Greatest eigenvalue of the scatter (D, D) of n centred rows, which is not formed."""
    return float(np.linalg.norm(centred, ord=2) ** 2 / len(centred))


def _mean_angle(features: np.ndarray, targets: np.ndarray) -> float:
    means = np.stack([part.mean(axis=0) for part in _members(features, targets)])
    apart = means - features.mean(axis=0)
    unit = apart / np.linalg.norm(apart, axis=1, keepdims=True).clip(1e-12)
    pairs = np.triu_indices(len(unit), 1)
    return float(np.degrees(np.arccos((unit @ unit.T)[pairs].clip(-1, 1))).mean())


def _effective_rank(features: np.ndarray) -> float:
    values = np.linalg.svd(features - features.mean(axis=0), compute_uv=False)
    share = values[values > 0] / values.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


def _neighbourhood(features: np.ndarray, targets: np.ndarray) -> tuple[float | None, float | None]:
    """Silhouette and purity."""
    from sklearn.metrics import silhouette_score
    from sklearn.neighbors import NearestNeighbors

    n = len(features)
    if targets.ndim == 2 or not 2 <= len(np.unique(targets)) < n:
        return None, None
    count = min(NEIGHBOURS, n - 1)
    near = NearestNeighbors(n_neighbors=count).fit(features).kneighbors(return_distance=False)
    purity = float(np.equal(targets[near], targets[:, None]).mean())
    return float(silhouette_score(features, targets)), purity


def _two_dimensions(features: np.ndarray, kind: str, seed: int) -> np.ndarray:
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    if kind == "pca":
        return PCA(n_components=2, random_state=seed).fit_transform(features)
    fewer = PCA(n_components=min(50, *features.shape), random_state=seed).fit_transform(features)
    perplexity = min(30.0, (len(fewer) - 1) / 3)
    return TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(fewer)
