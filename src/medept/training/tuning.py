"""Search over settings inside the support set, so that methods can be compared fairly.

Each trial is scored by the log-loss of a cross-validation over groups within the support set; the
test set is never seen. Every method gets the same number of trials. Searched are the learning
rates that matter to the method, from a tenth to ten times its own, and the settings that it says.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from medept.episodes.folds import make_folds
from medept.errors import ResourceError, SettingsError
from medept.evaluation.calibration import negative_log_likelihood
from medept.methods import find_method, named_settings, read_settings
from medept.progress import Progress
from medept.training.checkpoint import Trials
from medept.training.recipes import make_recipe

if TYPE_CHECKING:
    import optuna

FOLDS = 3

Parameters = dict[str, Any]
"""``lr`` and ``encoder_lr``, and the method's settings, by name; what is not searched is absent."""

FitAndScore = Callable[[Parameters, np.ndarray, np.ndarray], np.ndarray]
"""Fits with the given parameters on some rows and gives the logits of others."""

logger = logging.getLogger(__name__)


class SearchSpace:
    """What of a method is searched over.

    Args:
        method: its name, which may state its k.
        recipe: whose learning rates are the middle of the search.
        changes: what is given in place of the recipe's values; its rates are not searched over.
        settings: that are given, and so not searched over.
    """

    def __init__(
        self, method: str, recipe: str, changes: dict[str, Any], settings: dict[str, Any]
    ) -> None:
        kind, base = find_method(method), make_recipe(recipe, method, **changes)
        defaults = read_settings(method, settings)
        self.method, self.given = method, settings
        self.rates = {name: getattr(base, name) for name in kind.rates if name not in changes}
        fixed = settings.keys() | named_settings(method).keys()
        self.choices = {name: c for name, c in kind.search.items() if name not in fixed}
        self.default = self.rates | {name: getattr(defaults, name) for name in self.choices}

    def propose(self, trial: optuna.Trial) -> Parameters:
        """Parameters of a trial.

        Raises:
            InputError: if settings do not go together.
        """
        rates = {r: trial.suggest_float(r, x / 10, x * 10, log=True) for r, x in self.rates.items()}
        settings = {n: trial.suggest_categorical(n, list(c)) for n, c in self.choices.items()}
        read_settings(self.method, self.given | settings)
        return rates | {"settings": settings}


def tune(
    fit_and_score: FitAndScore,
    space: SearchSpace,
    targets: np.ndarray,
    groups: np.ndarray,
    *,
    trials: int,
    seed: int,
    progress: Progress,
    done: Trials | None = None,
) -> Parameters:
    """The best of ``trials`` settings.

    The first trial is the defaults, so that a search never does worse than them on its own score.
    Where there is nothing to search over, nothing is tried.

    Args:
        done: what trials came to before the search was killed.

    Raises:
        InputError: if a class has a single group, optuna is missing, or the defaults cannot be
            trained.
    """
    try:
        import optuna
    except ImportError as error:
        raise ResourceError("--tune needs an extra: pip install 'medept[tune]'") from error

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folds = make_folds(targets, groups, FOLDS, seed)
    if not folds:
        raise SettingsError(
            "--tune cross-validates inside the support set: each class needs at least two shots, "
            "that can be dealt out so that each part leaves every class to learn from"
        )
    if not space.default:
        logger.info("%s has nothing to search over that is not given", space.method)
        return {"settings": {}}

    def tried(parameters: Parameters) -> float:
        losses = [
            negative_log_likelihood(fit_and_score(parameters, train, test), targets[test])
            for train, test in folds
        ]
        return float(np.mean(losses))

    def objective(trial: optuna.Trial) -> float:
        progress("tuning", trial.number, trials)
        try:
            parameters = space.propose(trial)
            trial.set_user_attr("parameters", parameters)
            if done and trial.number in done.losses:
                return done.losses[trial.number]
            loss = tried(parameters)
        except SettingsError as error:  # they do not go together, or training diverges
            if trial.number == 0:
                raise
            raise optuna.TrialPruned from error
        if done:
            done.add(trial.number, loss)
        return loss

    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
    study.enqueue_trial(space.default)
    study.optimize(objective, n_trials=trials)
    progress("tuning", trials, trials)
    best = study.best_trial
    logger.info(
        "the best of %d trials: %s (log-loss %.3f; by default %.3f)",
        trials,
        ", ".join(
            f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in best.params.items()
        ),
        best.value,
        study.trials[0].value,
    )
    return best.user_attrs["parameters"]
