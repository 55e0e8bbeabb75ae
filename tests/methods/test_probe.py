"""The probe against scikit-learn, and how it chooses C."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from clusters import FEATURES, LABELS, NEW, TARGETS, logits
from sklearn.exceptions import FitFailedWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold

from medept.encoders.encoder import Encoder
from medept.methods import adapt


def test_probe_equals_scikit_learn_where_it_cannot_cross_validate(encoder: Encoder) -> None:
    """One group a class: C is 1, and the folded head gives scikit-learn's own probabilities."""
    model = adapt(encoder, "probe", 3)
    model.fit_features(FEATURES, TARGETS, groups=TARGETS)
    mean, scale = FEATURES.mean(0), FEATURES.std(0) + 1e-3
    own = LogisticRegression(max_iter=2000).fit((FEATURES - mean) / scale, TARGETS)
    found = torch.from_numpy(logits(model, NEW)).softmax(-1).numpy()
    np.testing.assert_allclose(found, own.predict_proba((NEW - mean) / scale), atol=1e-4)


def test_probe_for_two_classes_and_for_labels(encoder: Encoder) -> None:
    two = TARGETS < 2
    model = adapt(encoder, "probe", 2)
    model.fit_features(FEATURES[two], TARGETS[two], groups=TARGETS[two])
    mean, scale = FEATURES[two].mean(0), FEATURES[two].std(0) + 1e-3
    own = LogisticRegression(max_iter=2000).fit((FEATURES[two] - mean) / scale, TARGETS[two])
    found = torch.from_numpy(logits(model, NEW[two])).softmax(-1).numpy()
    np.testing.assert_allclose(found, own.predict_proba((NEW[two] - mean) / scale), atol=1e-4)

    model = adapt(encoder, "probe", 3)
    constant = np.column_stack([LABELS, np.zeros(60, dtype=np.uint8)])
    model.fit_features(FEATURES, constant, groups=None)
    guess = logits(model, NEW) > 0
    assert (guess[:, :2] == LABELS).mean() > 0.85
    assert not guess[:, 2].any()


def test_probe_chooses_c_by_groups(encoder: Encoder) -> None:
    """Labels that only a group's own look explains: by groups, the strongest shrinkage wins."""
    groups = np.arange(60) // 6
    look = np.random.default_rng(1).normal(size=(10, 48))[groups].astype(np.float32)
    labels = np.array([0, 1, 1, 0, 1, 0, 0, 1, 0, 1])[groups]
    norms = {}
    for name, ids in (("grouped", groups), ("images", np.arange(60))):
        model = adapt(encoder, "probe", 2)
        model.fit_features(look + 0.1 * FEATURES, labels, ids)
        norms[name] = model.head.weight.norm().item()
    assert norms["grouped"] < norms["images"] / 2


def test_probe_chooses_c_where_folds_lack_a_class(encoder: Encoder) -> None:
    """Patients with several classes each: a fold without one of them must not spoil the choice."""
    random = np.random.default_rng(28)
    targets, groups = random.integers(0, 7, 42), random.integers(0, 12, 42)
    features = 2 * random.normal(size=(7, 48))[targets] + random.normal(size=(42, 48))
    model = adapt(encoder, "probe", 7)
    model.fit_features(features.astype(np.float32), targets, groups)
    probabilities = torch.from_numpy(logits(model, features.astype(np.float32))).softmax(-1)
    assert probabilities.max(dim=1).values.mean() > 0.8  # the strongest shrinkage gives 1/7


def test_probe_passes_over_folds_that_leave_one_class(encoder: Encoder) -> None:
    """Patients who have both classes: one of two folds has a single class to learn from."""
    groups = np.array([4, 2, 0, 0, 0, 2, 0, 2, 2, 2, 4, 4, 0, 0])
    labels = np.array([1, 0, 0, 0, 0, 1, 0, 1, 1, 1, 0, 0, 0, 0])
    parts = list(
        StratifiedGroupKFold(2, shuffle=True, random_state=0).split(labels, labels, groups)
    )
    assert [len(set(labels[learnt])) for learnt, _ in parts] == [2, 1]
    features = FEATURES[: len(labels)] + 3 * labels[:, None].astype(np.float32)
    model = adapt(encoder, "probe", 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error", FitFailedWarning)
        model.fit_features(features, labels, groups)
    found = torch.from_numpy(logits(model, features)).softmax(-1).numpy()[:, 1]
    assert (found > 0.5).tolist() == labels.astype(bool).tolist()
    assert min(found[labels == 1]) > 0.8, "it is not shrunk to nothing"
