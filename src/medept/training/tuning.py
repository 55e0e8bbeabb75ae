"""Search over settings inside the support set, so that methods can be compared fairly.

Each trial is scored by the log-loss of a cross-validation over groups within the support set; the
test set is never seen. Every method gets the same number of trials.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from medept.errors import InputError
from medept.evaluation.calibration import negative_log_likelihood
from medept.methods import find_method
from medept.training.folds import make_folds
from medept.training.recipes import make_recipe

FOLDS = 3

FitAndScore = Callable[[dict[str, Any], np.ndarray, np.ndarray], np.ndarray]
"""Fits with the given parameters on some rows and gives the logits of others."""


def tune(
    fit_and_score: FitAndScore,
    method: str,
    recipe: str,
    targets: np.ndarray,
    groups: np.ndarray,
    *,
    trials: int,
    seed: int,
    progress: Callable[[str, int, int], None],
) -> dict[str, Any]:
    """The best of ``trials`` settings: ``settings`` of the method, ``lr`` and ``encoder_lr``.

    The first trial is the defaults, so that a search never does worse than them on its own score.

    Raises:
        InputError: if a class has a single group, or optuna is missing.
    """
    try:
        import optuna
    except ImportError as error:
        raise InputError("--tune needs an extra: pip install 'medept[tune]'") from error

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folds = make_folds(targets, groups, FOLDS, seed)
    if not folds:
        raise InputError(
            "--tune cross-validates inside the support set: each class needs at least two shots"
        )
    base = make_recipe(recipe, method)
    kind = find_method(method)

    def objective(trial: optuna.Trial) -> float:
        parameters = {
            "lr": trial.suggest_float("lr", base.lr / 10, base.lr * 10, log=True),
            "encoder_lr": trial.suggest_float(
                "encoder_lr", base.encoder_lr / 10, base.encoder_lr * 10, log=True
            ),
            "settings": kind.suggest(trial),
        }
        trial.set_user_attr("parameters", parameters)
        losses = [
            negative_log_likelihood(fit_and_score(parameters, train, test), targets[test])
            for train, test in folds
        ]
        progress("tuning", trial.number + 1, trials)
        return float(np.mean(losses))

    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
    study.enqueue_trial({"lr": base.lr, "encoder_lr": base.encoder_lr})
    study.optimize(objective, n_trials=trials)
    return study.best_trial.user_attrs["parameters"]
