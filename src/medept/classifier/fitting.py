"""Fitting a specification to a support set: estimate, search, train, calibrate.

Folds of the calibration and trials of a search are fits of their own, to parts of the same support
set.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medept.classifier.fitted import Fitted, HeldOut
from medept.classifier.specification import Specification
from medept.classifier.support import SupportSet
from medept.data.cases import images_of, sizes_of
from medept.data.image_hashes import image_key
from medept.encoders.tensors import is_finite
from medept.episodes.folds import make_folds
from medept.errors import SettingsError
from medept.evaluation.calibration import Calibration, fit_calibration
from medept.evaluation.familiarity import distances, fit_familiarity, spread
from medept.evaluation.operating_points import check_aim
from medept.evaluation.predictions import indicators
from medept.methods import AdaptedEncoder, adapt, find_method
from medept.methods.features import FeatureMethod
from medept.methods.pooling import pool_cases
from medept.progress import Progress, quietly, silent
from medept.training.checkpoint import Checkpoint, Trials, remove_checkpoint
from medept.training.cost import estimate_cost, spent
from medept.training.device import precision_of
from medept.training.inference import (
    AS_IT_IS,
    encode_images,
    frozen_features,
    logits_of_features,
)
from medept.training.loop import train
from medept.training.tuning import FOLDS, SearchSpace, tune

logger = logging.getLogger(__name__)


def fit(
    spec: Specification,
    support: SupportSet,
    *,
    checkpoint: Path | None = None,
    progress: Progress = silent,
) -> Fitted:
    """Fit to the whole support set.

    Args:
        progress: called with what is done; with it, the cost is estimated and said first.
        checkpoint: a file in which the state is kept after each epoch, and from which a fit that
            was killed resumes, to the same weights.

    Raises:
        InputError: if an image cannot be read, or training diverges.
    """
    began = time.perf_counter()
    if spec.recipe_changes and not find_method(spec.method).rates:
        unused = ", ".join(spec.recipe_changes)
        logger.warning("%s is fitted at once: %s is not used", spec.method, unused)
    everything = np.arange(len(support))
    fitted = _untrained(spec, support, everything)
    trials = _folds_of_each_trial(spec, support)
    folds = _folds_to_calibrate(spec, support, fitted.model)
    if spec.operating_aim is not None:
        can = bool(folds)
        check_aim(spec.operating_aim, support.targets, fitted.info().classes, held_out=can)
    support.cache.fits = 1 + sum(trials) + len(folds)
    if progress is not silent:
        _say_the_cost(spec, support, fitted, trials, len(folds))
    contents = [image_key(x) for x in images_of(support.items)] if checkpoint else []
    contents += [str(size) for size in sizes_of(support.items)] if support.has_cases else []

    def key(of: Fitted) -> list[Any]:
        labels = support.targets.tolist(), support.groups.tolist()
        return [of.info().model_dump(), contents, *labels]

    if spec.tune:
        given = [spec.recipe_changes, spec.settings]  # which are not searched over
        done = Trials(checkpoint, [*key(fitted), *given]) if checkpoint else None
        spec = spec.with_parameters(_searched(spec, support, progress, done))
        fitted = _untrained(spec, support, everything)
    state = Checkpoint(checkpoint, key(fitted)) if checkpoint else None
    fitted = _trained(spec, support, everything, fitted, state, progress)
    if spec.holds_out:
        fitted = _calibrated(spec, support, fitted, folds, progress)
    logger.info("fitted in %s", spent(time.perf_counter() - began, support.cache.bytes))
    return fitted


def held_out_logits(
    spec: Specification,
    support: SupportSet,
    found: dict[str, Any],
    rows: np.ndarray,
    held_out: np.ndarray,
) -> np.ndarray:
    """Logits (m, C) of the rows ``held_out``, after training on ``rows``.

    Args:
        found: rates and settings that a search proposes, in place of the specification's.
    """
    spec = spec.with_parameters(found)
    with quietly():
        fitted = _trained(spec, support, rows, _untrained(spec, support, rows))
        return logits_of_features(fitted.model, _features(spec, support, fitted, held_out))


def _features(
    spec: Specification, support: SupportSet, fitted: Fitted, rows: np.ndarray
) -> np.ndarray:
    """Features (m, D) of rows of the support set, as a prediction has them."""
    model, accelerator = fitted.model, spec.accelerator()
    views = support.views(fitted).subset(rows)
    symmetry, tta = fitted.symmetry, fitted.tta
    if model.alters_features:
        return encode_images(
            model.encoder, views, accelerator, symmetry=symmetry, tta=tta, pool=model.pool
        )
    if not isinstance(model, FeatureMethod) and tta == 1:
        symmetry = AS_IT_IS  # the other views are of training alone
    features = frozen_features(model, views, accelerator, support.cache, symmetry=symmetry)
    if model.pool.learns:
        features = pool_cases(model.pool, features[:, :tta], views.sizes.numpy())
    return features[:, :tta].mean(axis=1)


def _untrained(spec: Specification, support: SupportSet, rows: np.ndarray) -> Fitted:
    """The adapted encoder on its device, with its initial values."""
    accelerator, encoder = spec.accelerator(), support.encoder(spec)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(spec.seed)
        model = adapt(encoder, spec.method, len(support.classes), spec.settings, spec.pool)
    recipe, symmetry = spec.make_recipe(), spec.chosen_symmetry(encoder)
    return Fitted(
        model=model.to(accelerator.device),
        task=support.task,
        classes=support.classes,
        method=spec.method,
        recipe=recipe,
        seed=spec.seed,
        views_seed=spec.seed,
        precision=precision_of(accelerator),
        symmetry=symmetry,
        tta=spec.chosen_tta(symmetry),
        fit_image=spec.fit_image,
        support_images=int(sizes_of(support.items)[rows].sum()),
        support_cases=len(rows) if support.has_cases else None,
        volumes=support.volumes,
        shares=indicators(support.targets[rows], len(support.classes)).mean(axis=0).tolist(),
        encoder_weights=spec.encoder_weights,
    )


def _trained(
    spec: Specification,
    support: SupportSet,
    rows: np.ndarray,
    fitted: Fitted,
    checkpoint: Checkpoint | None = None,
    progress: Progress = silent,
) -> Fitted:
    """Train the model; what the optimiser needed beside it is let go."""
    model, accelerator = fitted.model, spec.accelerator()
    history = train(
        model,
        support.views(fitted).subset(rows),
        support.targets[rows],
        fitted.recipe,
        accelerator,
        groups=support.groups[rows],
        seed=spec.seed,
        progress=progress,
        symmetry=fitted.symmetry,
        checkpoint=checkpoint,
        cache=support.cache,
    )
    model.zero_grad(set_to_none=True)
    if not is_finite(model.trained_state()):
        if checkpoint and accelerator.is_main_process:
            remove_checkpoint(checkpoint.file)
        raise SettingsError("training diverged: give a smaller lr= or encoder_lr=")
    return replace(fitted, history=history)


def _folds_of_each_trial(spec: Specification, support: SupportSet) -> list[int]:
    """For each trial of a search, the number of parts of its cross-validation."""
    space = _space(spec) if spec.tune else None
    if space is None or not space.default:
        return []
    parts = len(make_folds(support.targets, support.groups, FOLDS, spec.seed))
    return [parts] * spec.tune if parts else []


def _folds_to_calibrate(
    spec: Specification, support: SupportSet, model: AdaptedEncoder
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Parts of the support set to hold out for the calibration; none where that cannot be."""
    if not spec.holds_out:
        return []
    parts = 2 if model.trains_encoder else 3
    return make_folds(support.targets, support.groups, parts, spec.seed)


def _space(spec: Specification) -> SearchSpace:
    return SearchSpace(spec.method, spec.recipe, spec.recipe_changes, spec.settings)


def _searched(
    spec: Specification, support: SupportSet, progress: Progress, done: Trials | None
) -> dict[str, Any]:
    """The best rates and settings that a search inside the support set finds."""
    return tune(
        partial(held_out_logits, spec, support),
        _space(spec),
        support.targets,
        support.groups,
        trials=spec.tune,
        seed=spec.seed,
        progress=progress,
        done=done,
    )


def _calibrated(
    spec: Specification,
    support: SupportSet,
    fitted: Fitted,
    folds: Sequence[tuple[np.ndarray, np.ndarray]],
    progress: Progress,
) -> Fitted:
    """The fit with what held-out parts of the support set tell: the calibration of logits, their
    predictions by it, and how far from the training images others lie. Without folds there is
    none of these."""
    if not folds:
        note = "no calibration: each class needs two shots, one of them to hold out"
        logger.info(note)
        return replace(fitted, calibration=Calibration(note=note))
    logits, apart = np.zeros((len(support), len(support.classes))), np.zeros(len(support))
    for i, (rows, held_out) in enumerate(folds):
        progress("calibrating", i, len(folds))
        with quietly():
            fold = _trained(spec, support, rows, _untrained(spec, support, rows))
            known, new = (_features(spec, support, fold, part) for part in (rows, held_out))
            logits[held_out] = logits_of_features(fold.model, new)
            apart[held_out] = distances(new, *spread(known))
    progress("calibrating", len(folds), len(folds))
    calibration = fit_calibration(spec.calibrate, logits, support.targets)
    probabilities = calibration.probabilities(logits, support.task)
    features = _features(spec, support, fitted, np.arange(len(support)))
    return replace(
        fitted,
        calibration=calibration,
        held_out=HeldOut(probabilities, support.targets, support.groups),
        familiarity=fit_familiarity(features, apart, support.groups, spec.false_alarms),
    )


def _say_the_cost(
    spec: Specification, support: SupportSet, fitted: Fitted, trials: list[int], folds: int
) -> None:
    """Estimate what the fit will take, and say it before it begins."""
    model, accelerator = fitted.model, spec.accelerator()
    views = support.views(fitted)
    each = [*trials, folds] if folds else trials
    with quietly():
        cost = estimate_cost(
            model,
            views,
            fitted.recipe,
            accelerator,
            each,
            symmetry=len(fitted.symmetry),
            tta=fitted.tta,
        )
    processes = accelerator.num_processes
    cases = f" of {len(support)} cases" if support.has_cases else ""
    logger.info(
        "%s: %s trained parameters beside %s frozen ones; %d support images%s%s%s%s%s; about %s",
        spec.method,
        f"{model.trainable_count():,}",
        f"{model.encoder_identity['parameters']:,}",
        fitted.support_images,
        cases,
        f", {fitted.recipe.epochs} epochs" if model.rates else "",
        f", {len(trials)} trials of {trials[0]} folds first" if trials else "",
        f", and again for {folds} folds" if folds else "",
        f", on {processes} processes" if processes > 1 else "",
        cost,
    )
