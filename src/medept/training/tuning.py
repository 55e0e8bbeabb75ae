"""Search over settings inside the support set, so that methods can be compared fairly.

Each trial is scored by the log-loss of a cross-validation over groups within the support set; the
test set is never seen. Every method gets the same number of trials. The search covers the learning
rates that matter to the method, from a tenth of its own to ten times, and the settings for which it
states values to try.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
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
"""Parts of the support set in each trial's cross-validation, if it has that many groups."""

Parameters = dict[str, Any]
"""``lr``, ``encoder_lr`` and ``settings`` of the method, by name, without what is not searched."""

FitAndScore = Callable[[Parameters, np.ndarray, np.ndarray], np.ndarray]
"""Called with parameters, the rows to train on and those held out; returns logits of the latter."""

logger = logging.getLogger(__name__)


class SearchSpace:
    """What a search for one method covers.

    Args:
        method: its name, which may include its k.
        recipe: its learning rates are the middle of the search.
        changes: values given in place of the recipe's; rates among them are not searched.
        settings: settings that are given, and so not searched.

    Attributes:
        rates: the learning rates that are searched, with the middle of each range.
        choices: the settings that are searched, with their possible values.
        default: a value for each of them, by name: the first trial.

    >>> space = SearchSpace("lora", "medept", {"lr": 1e-3}, {})
    >>> space.default
    {'encoder_lr': 0.0005, 'rank': 8}
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
        """Parameters for a trial.

        Raises:
            SettingsError: if they do not go together.
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
    """The best of ``trials`` combinations of parameters, by Optuna's TPE sampler.

    The first trial is the defaults, so a search never does worse than them by its own score.

    Args:
        fit_and_score: trains and predicts.
        space: what is searched. If that is nothing, nothing is tried.
        targets: (n,) class indices, or (n, C) of 0 and 1.
        groups: (n,) ids that folds keep together.
        trials: how many combinations to try.
        seed: determines folds and proposals.
        progress: called with ``"tuning"``, the trials done, and all of them.
        done: losses of trials from before the search was killed; new ones are added.

    Raises:
        ResourceError: if optuna is missing.
        SettingsError: if a class has a single group, or the defaults cannot be trained. In other
            trials that means a bad setting, which is passed over.
    """
    try:
        import optuna
    except ImportError as error:
        raise ResourceError("tune= needs an extra: pip install 'medept[tune]'") from error

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folds = _make_folds(targets, groups, seed)
    if not space.default:
        logger.info("%s has nothing to search over that is not given", space.method)
        return {"settings": {}}

    def loss_of_trial(trial: optuna.Trial) -> float:
        progress("tuning", trial.number, trials)
        try:
            parameters = space.propose(trial)
            trial.set_user_attr("parameters", parameters)
            if done and trial.number in done.losses:
                return done.losses[trial.number]
            loss = _cross_validated_loss(fit_and_score, parameters, targets, folds)
        except SettingsError as error:
            if trial.number == 0:
                raise
            raise optuna.TrialPruned from error
        if done:
            done.add(trial.number, loss)
        return loss

    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
    study.enqueue_trial(space.default)
    study.optimize(loss_of_trial, n_trials=trials)
    progress("tuning", trials, trials)
    _log_best(study)
    return study.best_trial.user_attrs["parameters"]


def _make_folds(
    targets: np.ndarray, groups: np.ndarray, seed: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    folds = make_folds(targets, groups, FOLDS, seed)
    if not folds:
        raise SettingsError(
            "tune= cross-validates inside the support set: each class needs at least two shots, "
            "that can be dealt out so that each part leaves every class to learn from"
        )
    return folds


def _cross_validated_loss(
    fit_and_score: FitAndScore,
    parameters: Parameters,
    targets: np.ndarray,
    folds: Sequence[tuple[np.ndarray, np.ndarray]],
) -> float:
    """The mean log-loss of held-out parts."""
    losses = [
        negative_log_likelihood(fit_and_score(parameters, train, held_out), targets[held_out])
        for train, held_out in folds
    ]
    return float(np.mean(losses))


def _log_best(study: optuna.Study) -> None:
    best = study.best_trial
    logger.info(
        "the best of %d trials: %s (log-loss %.3f; by default %.3f)",
        len(study.trials),
        ", ".join(
            f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in best.params.items()
        ),
        best.value,
        study.trials[0].value,
    )
