"""The feature distribution: against scikit-learn, against algebra, and where the claim fails."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.covariance import empirical_covariance
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from medept.ept.attention import gates, prompted_attention
from medept.errors import InputError
from medept.evaluation.distribution import (
    at_equal_scale,
    between_class_scatter,
    feature_distribution,
    first_component,
    project,
    within_class_scatter,
)

CLASSES = ("a", "b", "c")


def clouds(seed: int = 0, *, n: int = 90, width: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Three clouds of different sizes, shapes and places."""
    random = np.random.default_rng(seed)
    targets = np.concatenate([np.full(n // 2, 0), np.full(n // 3, 1), np.full(n // 6, 2)])
    place, shape = random.normal(size=(3, width)) * 2, random.normal(size=(3, width, width))
    features = place[targets] + np.einsum(
        "nw,nwv->nv", random.normal(size=(len(targets), width)), shape[targets]
    )
    return features, targets


def test_equation_11_is_the_covariance_that_lda_pools() -> None:
    features, targets = clouds()
    lda = LinearDiscriminantAnalysis(solver="lsqr", store_covariance=True).fit(features, targets)
    assert np.allclose(within_class_scatter(features, targets), lda.covariance_)


def test_within_and_between_sum_to_the_whole() -> None:
    features, targets = clouds(1)
    whole = within_class_scatter(features, targets) + between_class_scatter(features, targets)
    assert np.allclose(whole, empirical_covariance(features))
    found = feature_distribution(features, targets, CLASSES)
    assert found.trace + found.between == pytest.approx(np.trace(whole))
    assert found.equal_scale_trace == pytest.approx(1 / (1 + found.fisher_ratio))
    pooled = sum(part["trace"] * part["n"] for part in found.by_class.values()) / len(features)
    assert pooled == pytest.approx(found.trace)


@settings(max_examples=30, deadline=None)
@given(scale=st.floats(0.01, 100), seed=st.integers(0, 100))
def test_scale_changes_raw_numbers_and_no_others(scale: float, seed: int) -> None:
    features, targets = clouds(seed)
    before = feature_distribution(features, targets, CLASSES).numbers()
    after = feature_distribution(scale * features, targets, CLASSES).numbers()
    power = {"trace": 2, "leading": 2, "between": 2, "norm": 1}
    for name, value in before.items():
        assert after[name] == pytest.approx(value * scale ** power.get(name, 0), rel=1e-6)


def test_effective_rank_of_known_shapes() -> None:
    targets = np.arange(8) % 2
    line = np.outer(np.arange(8.0), np.ones(4))
    assert feature_distribution(line, targets, "ab").effective_rank == pytest.approx(1)
    cross = np.concatenate([np.eye(4), -np.eye(4)])
    assert feature_distribution(cross, np.arange(8) // 2 % 2, "ab").effective_rank == pytest.approx(
        4
    )


def test_angles_of_known_means() -> None:
    corners = np.array([[1, 0], [-0.5, 3**0.5 / 2], [-0.5, -(3**0.5) / 2]])
    features = np.repeat(corners, 4, axis=0)
    found = feature_distribution(features, np.repeat(np.arange(3), 4), CLASSES)
    assert found.centroid_angle == pytest.approx(120)
    assert found.trace == pytest.approx(0, abs=1e-12)
    assert found.purity == 1 - 2 / 5, (
        "an image has three neighbours of its class, and five are asked"
    )


def test_labels_that_overlap_count_once_each() -> None:
    features = np.random.default_rng(0).normal(size=(12, 3))
    targets = np.zeros((12, 2), dtype=int)
    targets[:8, 0], targets[4:, 1] = 1, 1
    twice = np.concatenate([features[:8], features[4:]])
    single = feature_distribution(twice, np.repeat([0, 1], 8), "ab")
    both = feature_distribution(features, targets, "ab")
    assert both.trace == pytest.approx(single.trace)
    assert both.between == pytest.approx(single.between)
    assert both.silhouette is None
    assert both.purity is None


def test_one_class_and_equal_features_are_refused() -> None:
    with pytest.raises(InputError, match="at least two classes"):
        feature_distribution(np.eye(3), np.zeros(3, dtype=int), "ab")
    with pytest.raises(InputError, match="all features are equal"):
        feature_distribution(np.ones((4, 2)), np.arange(4) % 2, "ab")


def test_planes_keep_who_is_who() -> None:
    features, targets = clouds(2)
    apart = features + 20 * np.eye(6)[targets]
    for joint in (True, False):
        for kind in ("pca", "tsne"):
            found = project({"one": apart, "half": apart / 2}, joint=joint, kind=kind)  # type: ignore[arg-type]
            for points in found.values():
                assert feature_distribution(points, targets, CLASSES).purity > 0.95
    joint = project({"one": apart, "half": apart / 2}, kind="pca")
    assert np.allclose(joint["one"], joint["half"]), "scale alone makes no difference"
    with pytest.raises(InputError, match="separately"):
        project({"one": apart, "narrow": apart[:, :3]})


def test_the_first_component_has_the_leading_variance() -> None:
    features, _ = clouds(3)
    leading = np.linalg.eigvalsh(np.cov(features.T, bias=True))[-1]
    along = first_component(features)
    assert along.var() == pytest.approx(leading)
    assert np.allclose(first_component(-features), along)
    assert (at_equal_scale(features) ** 2).sum(axis=1).mean() == pytest.approx(1)


# --- the claim: prompts draw a class together -------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), length=st.integers(1, 40), size=st.floats(0.01, 5))
def test_prompts_shorten_every_token_by_its_gate(seed: int, length: int, size: float) -> None:
    """Lemma 1: the prompted output is the ordinary one times Z / (Z + sum exp p), below 1."""
    random = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(2, 3, 7, 8, generator=random, dtype=torch.float64) for _ in range(3))
    prompt = size * torch.randn(7, length, generator=random, dtype=torch.float64)
    plain = torch.softmax(q @ k.mT / 8**0.5, -1) @ v
    gate = gates(q, k, prompt.logsumexp(-1))
    assert bool(((gate > 0) & (gate < 1)).all())
    out = prompted_attention(q, k, v, prompt, kernel="formula")
    assert torch.allclose(out, plain * gate[..., None], atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(gate=st.floats(0.05, 0.999), seed=st.integers(0, 100))
def test_one_gate_for_all_images_draws_classes_together_but_no_further_apart(
    gate: float, seed: int
) -> None:
    """Proposition 1, where a token's gate is the same in all images: a matter of scale alone."""
    features, targets = clouds(seed)
    before = feature_distribution(features, targets, CLASSES)
    after = feature_distribution(gate * features, targets, CLASSES)
    assert after.trace <= before.trace
    assert after.leading <= before.leading
    assert after.equal_scale_trace == pytest.approx(before.equal_scale_trace)
    assert after.fisher_ratio == pytest.approx(before.fisher_ratio)


def test_gates_that_differ_between_images_can_spread_a_class() -> None:
    """Where proposition 1 fails: gates below 1, and yet a larger distance within the class."""
    features = np.array([[10.0, 0], [10, 0], [0, 10], [0, 10]])
    targets = np.array([0, 0, 1, 1])
    gate = np.array([0.9, 0.3, 0.9, 0.3])[:, None]
    assert feature_distribution(gate * features, targets, "ab").trace > 0
    assert feature_distribution(features, targets, "ab").trace == 0


def test_a_residual_path_keeps_a_gate_from_shrinking_features() -> None:
    """Where it fails otherwise: a block adds to what came in, and the gate scales what is added."""
    came_in = np.array([[5.0, 0], [-5, 0], [0, 5], [0, -5]])
    added = -0.8 * came_in
    targets = np.array([0, 0, 1, 1])
    before = feature_distribution(came_in + added, targets, "ab")
    after = feature_distribution(came_in + 0.5 * added, targets, "ab")
    assert after.trace > before.trace
