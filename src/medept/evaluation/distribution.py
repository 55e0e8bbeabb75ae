"""How features of a class lie together and apart: what prompt tuning is said to calibrate.

The scatter within classes is equation 11 of Zu et al. 2024,

    Sigma_W = 1/N sum_k sum_i (x_ki - mean_k)(x_ki - mean_k)^T,

and that between classes Sigma_B = 1/N sum_k N_k (mean_k - mean)(mean_k - mean)^T, so that the two
sum to the scatter of all features. A gate makes features *shorter*, and with them every distance,
within classes and between them alike. So each trace is given twice: raw, and at equal scale, which
is of features divided by the root of their whole scatter. What is left of a change at equal scale
is one of shape; all the other numbers here do not depend on scale at all.

Of multi-label data an image counts once for each label that it has, and what supposes that classes
exclude each other (silhouette, purity) is not defined.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np

from medept.errors import DataError

NEIGHBOURS = 5
"""Whose labels are asked for the purity."""


@dataclass(frozen=True)
class Distribution:
    """The distribution of features (n, D) of C classes.

    Attributes:
        trace: of Sigma_W: the mean squared distance of a feature from its class's mean.
        leading: the largest eigenvalue of Sigma_W.
        between: the trace of Sigma_B.
        norm: mean length of a feature.
        equal_scale_trace: the trace of Sigma_W as a share of the whole scatter, 0 to 1.
        equal_scale_leading: its largest eigenvalue, likewise.
        fisher_ratio: trace of Sigma_B over trace of Sigma_W; larger is better told apart.
        silhouette: mean over images, -1 to 1 (Rousseeuw 1987); None for multi-label data.
        purity: share of an image's five nearest neighbours that are of its class; None likewise.
        centroid_angle: mean angle in degrees between two classes' means, seen from the mean.
        effective_rank: exp of the entropy of the scatter's singular values (Roy, Vetterli 2007).
        by_class: class -> trace and leading eigenvalue of its own scatter, and its images' n.
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
        """Those of all classes together, by name."""
        return {name: value for name, value in asdict(self).items() if name != "by_class"}


def intra_class_distances(features: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Sigma_W of equation 11, (D, D), of features (n, D) and targets (n,) or (n, C)."""
    parts = _members(features, targets)
    scatter = sum(_scatter(part) * len(part) for part in parts)
    return np.asarray(scatter / sum(map(len, parts)))


def between_class_distances(features: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Sigma_B, (D, D), of features (n, D) and targets (n,) or (n, C)."""
    parts = _members(features, targets)
    sizes = np.array([len(part) for part in parts], dtype=np.float64)
    means = np.stack([part.mean(axis=0) for part in parts])
    apart = means - np.average(means, axis=0, weights=sizes)
    return (apart.T * sizes) @ apart / sizes.sum()


def describe_distribution(
    features: np.ndarray, targets: np.ndarray, classes: Sequence[str]
) -> Distribution:
    """All numbers of features (n, D) and targets, (n,) class indices or (n, C) of 0 and 1.

    Raises:
        InputError: if fewer than two classes have images, or all features are equal.
    """
    features = np.asarray(features, dtype=np.float64)
    names = [
        name for name, rows in zip(classes, _rows(targets, len(classes)), strict=True) if rows.any()
    ]
    if len(names) < 2:
        raise DataError("a distribution of features needs images of at least two classes")
    within = intra_class_distances(features, targets)
    between = between_class_distances(features, targets)
    trace, apart = float(np.trace(within)), float(np.trace(between))
    whole = trace + apart
    if not whole > 0:
        raise DataError("all features are equal: nothing can be said of their distribution")
    leading = float(np.linalg.eigvalsh(within)[-1])
    silhouette, purity = _neighbourhood(features, targets)
    return Distribution(
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
            name: _of_class(part)
            for name, part in zip(names, _members(features, targets), strict=True)
        },
    )


def project(
    features: Mapping[str, np.ndarray],
    *,
    kind: Literal["tsne", "pca"] = "tsne",
    joint: bool = True,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Features (n, D) of each model in two dimensions, (n, 2).

    Each model's are centred and brought to equal scale first. Fitted jointly, near points are near
    whichever panel they stand in; separately, as in the paper's figure 2, each panel has axes of
    its own, and only what it shows inside itself means anything.

    Raises:
        InputError: if they are to be fitted jointly, and the models' widths D differ.
    """
    even = {name: at_equal_scale(values) for name, values in features.items()}
    if not joint:
        return {name: _two_dimensions(values, kind, seed) for name, values in even.items()}
    if len({values.shape[1] for values in even.values()}) > 1:
        raise DataError("features of different widths have no joint plane: fit them separately")
    together = _two_dimensions(np.concatenate(list(even.values())), kind, seed)
    ends = np.cumsum([len(values) for values in even.values()])[:-1]
    return dict(zip(even, np.split(together, ends), strict=True))


def first_component(features: np.ndarray) -> np.ndarray:
    """Features (n, D) of one class along their first principal component, (n,), about their mean.

    The sign is that which makes the longer tail positive: components have none of their own.
    """
    apart = features - features.mean(axis=0)
    along = apart @ np.linalg.svd(apart, full_matrices=False)[2][0]
    return along * (1 if (along**3).sum() >= 0 else -1)


def at_equal_scale(features: np.ndarray) -> np.ndarray:
    """Features (n, D) about their mean, divided by the root of their whole scatter."""
    apart = np.asarray(features, dtype=np.float64) - features.mean(axis=0)
    scale = np.sqrt((apart**2).sum(axis=1).mean())
    return apart / scale if scale > 0 else apart


# --- parts -----------------------------------------------------------------------------------


def _rows(targets: np.ndarray, count: int) -> list[np.ndarray]:
    """For each class, which images (n,) are of it."""
    if targets.ndim == 2:
        return [column.astype(bool) for column in targets.T]
    return [np.equal(targets, c) for c in range(count)]


def _members(features: np.ndarray, targets: np.ndarray) -> list[np.ndarray]:
    """The features of each class that has any."""
    count = targets.shape[1] if targets.ndim == 2 else int(targets.max()) + 1
    return [features[rows] for rows in _rows(targets, count) if rows.any()]


def _scatter(part: np.ndarray) -> np.ndarray:
    apart = part - part.mean(axis=0)
    return apart.T @ apart / len(part)


def _of_class(part: np.ndarray) -> dict[str, float]:
    scatter = _scatter(part)
    leading = float(np.linalg.eigvalsh(scatter)[-1])
    return {"trace": float(np.trace(scatter)), "leading": leading, "n": float(len(part))}


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
