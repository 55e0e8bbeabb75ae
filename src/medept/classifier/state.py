"""What is known of a classifier once it is fitted, and how it is kept."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from medept.classifier.case_prediction import CasePrediction
from medept.classifier.fitted import Fitted, HeldOut, Task
from medept.classifier.restore import check_method, frozen_encoder, restored_model
from medept.classifier.several import joined_states
from medept.errors import InputError, SettingsError
from medept.evaluation.calibration import Calibration
from medept.evaluation.familiarity import Familiarity
from medept.evaluation.operating_points import OperatingAim, OperatingPoint, choose_points
from medept.evaluation.prediction_sets import PredictionSets, Source, fit_prediction_sets
from medept.evaluation.predictions import indicators
from medept.evaluation.prevalence import (
    complete_prevalence,
    estimate_prevalence,
    with_prevalence,
)
from medept.fits.adapter import AdapterInfo, save_adapter
from medept.methods import AdaptedEncoder
from medept.training.device import make_accelerator
from medept.training.recipes import Recipe

logger = logging.getLogger(__name__)


class FittedState(BaseEstimator):
    """The fitted attributes of a classifier, which is saved and pickled by what was trained.

    Attributes:
        fitted_: the state of each encoder. What belongs to all (the operating points) is in the
            first's.
    """

    device: str
    precision: str
    tta: int | None
    prevalence: Mapping[str, float] | str | None
    operating_aim: OperatingAim | None
    coverage: float
    fitted_: list[Fitted]

    def info(self) -> AdapterInfo:
        """What ``adapter.json`` says."""
        first, *others = [one.info() for one in self._states]
        return first.model_copy(update={"prevalence": self.prevalence, "others": others})

    @property
    def classes_(self) -> np.ndarray:
        """(C,) the classes; for multi-label data the labels' names."""
        return self._state.classes

    @property
    def task_(self) -> Task:
        """``multiclass`` or ``multilabel``."""
        return self._state.task

    @property
    def model_(self) -> AdaptedEncoder:
        """The adapted encoder; its frozen matrices are in the precision it computes in."""
        return self._state.model

    @property
    def recipe_(self) -> Recipe:
        """How it was trained."""
        return self._state.recipe

    @property
    def calibration_(self) -> Calibration:
        """How logits become probabilities."""
        return self._state.calibration

    @property
    def operating_points_(self) -> list[OperatingPoint]:
        """From which probability on a case is positive: one for classes, or one for each label."""
        return self._state.operating_points

    @property
    def prediction_sets_(self) -> PredictionSets | None:
        """The thresholds of prediction sets; None where nothing was held out."""
        return self._state.prediction_sets

    @property
    def familiarity_(self) -> Familiarity | None:
        """How far from the training images others lie, by the first encoder; None where nothing
        was held out."""
        return self._state.familiarity

    @property
    def held_out_(self) -> HeldOut | None:
        """Predictions of the cross-validation inside the support set; of several encoders their
        mean. None where there was none, and after :meth:`load`."""
        found = self._held_out
        return found and replace(found, probabilities=self._at_prevalence(found.probabilities))

    @property
    def _held_out(self) -> HeldOut | None:
        """The same at the prevalence of the support set."""
        parts = [one.held_out for one in self._states if one.held_out is not None]
        if len(parts) < len(self._states):
            return None
        return replace(parts[0], probabilities=np.mean([p.probabilities for p in parts], axis=0))

    @property
    def history_(self) -> list[dict[str, Any]]:
        """The learning curve, one dict an epoch: what was ``trained`` (``head`` or ``all``),
        ``epoch``, ``loss``, ``lr``, ``encoder_lr``, ``seconds``; empty after :meth:`load`."""
        return self._state.history

    @property
    def precision_(self) -> str:
        """The precision it was trained in, where ``auto`` left it open."""
        return self._state.precision

    @property
    def _states(self) -> list[Fitted]:
        """The fitted state of each encoder."""
        check_is_fitted(self, "fitted_")
        return self.fitted_

    @property
    def _state(self) -> Fitted:
        """The fitted state of the first encoder."""
        return self._states[0]

    def _check_prevalence(self, targets: np.ndarray, names: np.ndarray) -> None:
        """Before training: refuse a stated prevalence that does not suit the classes."""
        if isinstance(self.prevalence, str):
            self._refuse_other_words()
            if self.operating_aim is not None:
                raise SettingsError(
                    "prevalence=estimate differs from one set of images to the next, and a "
                    "threshold cannot: state the prevalence as CLASS=P"
                )
        elif self.prevalence is not None:
            shares = indicators(targets, len(names)).mean(axis=0)
            task = "multilabel" if targets.ndim == 2 else "multiclass"
            complete_prevalence(self.prevalence, [str(name) for name in names], shares, task)

    def _refuse_other_words(self) -> None:
        if isinstance(self.prevalence, str) and self.prevalence != "estimate":
            raise SettingsError(
                f"prevalence={self.prevalence}: give CLASS=P, or estimate (data is for fit and "
                "evaluate, which read labels)"
            )

    def _cases_at_prevalence(self, found: CasePrediction) -> CasePrediction:
        """The same for cases, and for their images alike."""
        images = self._at_prevalence(found.image_probabilities, estimated_from=found.probabilities)
        cases = self._at_prevalence(found.probabilities)
        kept = self.prediction_sets_
        sets = None if kept is None else kept.contain(found.probabilities)
        return replace(found, probabilities=cases, image_probabilities=images, sets=sets)

    def _at_prevalence(
        self, probabilities: np.ndarray, *, estimated_from: np.ndarray | None = None
    ) -> np.ndarray:
        """Probabilities (n, C) at the prevalence that was stated or is to be estimated.

        Args:
            probabilities: (n, C) at that of the support set.
            estimated_from: (m, C) others that it is estimated from; None: the same.
        """
        if self.prevalence is None:
            return probabilities
        self._refuse_other_words()
        state = self._state
        before, classes = np.array(state.shares), state.info().classes
        if not len(before):
            raise SettingsError("prevalence= needs an adapter of this version: fit again")
        if isinstance(self.prevalence, str):
            if state.task == "multilabel":
                raise SettingsError("prevalence=estimate is for classes: give that of each label")
            complete_prevalence({}, classes, before, state.task)
            source = probabilities if estimated_from is None else estimated_from
            after, low, high = estimate_prevalence(source, before)
            told = zip(classes, after, low, high, strict=True)
            each = ", ".join(f"{c} {x:.3f} ({a:.3f} to {b:.3f})" for c, x, a, b in told)
            if estimated_from is None:
                logger.info("prevalence, estimated from %d cases: %s", len(source), each)
        else:
            after = complete_prevalence(self.prevalence, classes, before, state.task)
        return with_prevalence(probabilities, before, after, state.task)

    def stated_prevalence(self) -> np.ndarray | None:
        """The prevalence (C,) that probabilities are for; None if none was stated."""
        if self.prevalence is None or isinstance(self.prevalence, str):
            return None
        info = self._state.info()
        return complete_prevalence(self.prevalence, info.classes, np.array(info.shares), info.task)

    def _choose_points(self) -> None:
        """Choose the operating points that the aim asks for, on held-out predictions."""
        if self.operating_aim is None:
            return
        held_out, names = self.held_out_, self._state.info().classes
        if held_out is None:
            none = np.zeros((0, len(names)), dtype=np.int64)
            targets = none if self.task_ == "multilabel" else none[:, 0]
            points = choose_points(self.operating_aim, None, targets, targets, names)
        else:
            parts = held_out.probabilities, held_out.targets, held_out.groups
            points = choose_points(self.operating_aim, *parts, names)
        for note in filter(None, (point.note() for point in points)):
            logger.warning(note)
        self._keep(operating_points=points)

    def _choose_sets(self) -> None:
        """Find the thresholds of prediction sets on held-out predictions, if there are any."""
        if (held_out := self._held_out) is not None:
            parts = held_out.probabilities, held_out.targets, held_out.groups
            self._keep_sets(*parts, source="held-out folds")

    def _keep_sets(
        self, probabilities: np.ndarray, targets: np.ndarray, groups: np.ndarray, *, source: Source
    ) -> None:
        names = self._state.info().classes
        sets = fit_prediction_sets(
            probabilities, targets, groups, names, coverage=self.coverage, source=source
        )
        self._keep(prediction_sets=sets)

    def _keep(self, **changes: Any) -> None:
        """Change what is kept once, whatever the number of encoders: with the first of them."""
        self.fitted_[0] = replace(self.fitted_[0], **changes)

    def _forget(self) -> None:
        """Be unfitted: a fit that fails leaves nothing of an earlier one."""
        self.__dict__.pop("fitted_", None)

    def fingerprint(self) -> str:
        """SHA-256 of what was fitted, and of the parameters that change a prediction of it."""
        self._refuse_other_words()
        own = [self.info().model_dump_json(), self.precision, str(self.tta)]
        found = hashlib.sha256("\n".join(own).encode())
        for one in self._states:
            for name, tensor in sorted(one.model.trained_state().items()):
                found.update(name.encode())
                found.update(tensor.detach().cpu().float().numpy().tobytes())
        return found.hexdigest()

    def save(self, folder: str | Path) -> None:
        """Write the adapter (``adapter.safetensors``, ``adapter.json``) into ``folder``.

        The latter has the path of ``encoder_weights`` as it was given.
        """
        state = joined_states([one.tensors() for one in self._states])
        save_adapter(Path(folder), state, self.info())

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled: for each model what an adapter file holds, without the encoder."""
        state = dict(super().__getstate__())
        fitted: list[Any] = state.pop("fitted_", [])
        state["_adapters"] = [(one.model.trained_state(), one.info()) for one in fitted]
        state["_fitted"] = [replace(one, model=None) for one in fitted]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Load the encoders again, by their names, and put the adapters into them."""
        adapters, fitted = state.pop("_adapters"), state.pop("_fitted")
        super().__setstate__(state)
        if not fitted:
            return
        try:
            accelerator = make_accelerator(self.device, self.precision)
        except InputError:  # its device is not here; another may be set
            accelerator = None
        where = "the pickled classifier"
        for _, info in adapters:
            check_method(where, info)
        self.fitted_ = [
            replace(
                one, model=restored_model(frozen_encoder(info), trained, info, where, accelerator)
            )
            for one, (trained, info) in zip(fitted, adapters, strict=True)
        ]
