"""The few-shot classifier: images and labels in, probabilities out, with scikit-learn's manners."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import torch
from PIL import Image
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from medept.data.images import ImageLike, image_key
from medept.data.labels import encode_labels
from medept.encoders.encoder import Encoder
from medept.encoders.load import EMBEDDED, load_encoder
from medept.encoders.preprocessing import Preprocessing
from medept.encoders.tensors import is_finite
from medept.encoders.weights import RANDOM
from medept.episodes.folds import make_folds
from medept.errors import InputError
from medept.evaluation.calibration import KINDS, Calibration, Kind, fit_calibration
from medept.evaluation.predictions import decide
from medept.fits.adapter import (
    LABEL_TYPES,
    AdapterInfo,
    EncoderIdentity,
    current_versions,
    load_adapter,
    save_adapter,
)
from medept.methods import AdaptedEncoder, adapt, find_method, read_settings, trained_of
from medept.progress import Progress, quietly, silent
from medept.training.cache import Kept
from medept.training.checkpoint import Checkpoint, Trials, remove_checkpoint
from medept.training.cost import estimate_cost, spent
from medept.training.device import make_accelerator, precision_of
from medept.training.inference import (
    encode_images,
    logits_of_features,
    plain_features,
    predict_logits,
)
from medept.training.loop import train
from medept.training.recipes import make_recipe
from medept.training.tuning import FOLDS, SearchSpace, tune
from medept.training.views import Views

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import Tensor

logger = logging.getLogger(__name__)


@dataclass
class _Support:
    """The support set, and what fits to parts of it share: views, and what is computed of them."""

    images: Sequence[ImageLike]
    targets: np.ndarray
    classes: np.ndarray
    groups: np.ndarray
    kept: Kept
    seeds: int = 1
    _views: Views | None = None
    _encoder: Encoder | None = None

    def views(self, preprocessing: Preprocessing, crop_scale: float, seed: int) -> Views:
        """Of all images; the encoder, the crops and the seed are those of one classifier."""
        if self._views is None:
            self._views = Views(self.images, preprocessing, crop_scale=crop_scale, seed=seed)
        return self._views

    def encoder(self, load: Callable[[], Encoder]) -> Encoder:
        """A twin of the frozen encoder, which is loaded, hashed and tried once."""
        if self._encoder is None:
            self._encoder = load()
            self._encoder.identity()
            _ = self._encoder.width
        return self._encoder.twin()


def _as_list(X: Sequence[ImageLike]) -> list[ImageLike]:
    if isinstance(X, str | PathLike | Image.Image):
        raise InputError("one image was given: give a list of images, [image]")
    if isinstance(X, pd.DataFrame):
        if X.shape[1] != 1:
            raise InputError("a table was given: give its column of images alone")
        X = X.iloc[:, 0]
    images = list(X)
    if not images:
        raise InputError("no images were given: give one at least")
    return images


def _distinct(images: Sequence[ImageLike]) -> np.ndarray:
    """(n,) numbers, the same for an image that is given twice, as some official lists do."""
    keys = [str(x) if isinstance(x, str | PathLike) else image_key(x) for x in images]
    return pd.factorize(np.array(keys, dtype=object))[0]


class FewShotClassifier(ClassifierMixin, BaseEstimator):
    """Adapts a frozen encoder to a few labelled images.

    Args:
        encoder: a name for :func:`medept.encoders.load.load_encoder` (default: the one that ships
            inside medept).
        method: how it is adapted; ``medept methods`` lists them.
        encoder_weights: a local safetensors file, ``"random"``, or None for the encoder's own.
        image_size: pixels a side; None for the encoder's own.
        settings: of the method, such as ``{"length": 100, "layers": "9-12"}`` for ``ept``.
        recipe: ``medept`` or ``paper``; the next four replace one of its values each.
        epochs: passes over the support set.
        batch_size: images a step.
        lr: learning rate of the head.
        encoder_lr: learning rate of what is trained inside the encoder.
        recipe_settings: other values of the recipe (:class:`medept.training.recipes.Recipe`), such
            as ``{"optimizer": "sgd", "views": 4}``.
        tune: how many settings and learning rates to try by cross-validation over groups inside
            the support set; 0: take those given. What is given is not searched over.
        seed: of initial values, views and order: the same seed gives the same bits on one CPU, in
            one precision.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        precision: ``auto``, ``float32``, ``bfloat16`` or ``float16``.
        calibrate: how logits become probabilities: ``temperature``, ``vector`` or ``isotonic``
            scaling, fitted by cross-validation over groups inside the support set (which trains
            the method two or three times more), or ``none``. Where a class has a single group
            there is nothing to hold out, and it is ``none``.
        progress: called with (what, done, total) while it works.

    Attributes:
        classes_: (C,) the classes; for multi-label data the labels' names.
        task_: ``multiclass`` or ``multilabel``.
        model_: the adapted encoder, which holds frozen matrices in bfloat16 alone where it computes
            in that.
        history_: the learning curve, one dict an epoch: what was ``trained`` (``head`` or
            ``all``), ``epoch``, ``loss``, ``lr``, ``encoder_lr``, ``seconds``.
        calibration_: how logits become probabilities.
        precision_: what was computed in, where ``auto`` left it open.

    Images are paths, PIL images or uint8 arrays, in a list, an object array (n,) or a table's one
    column. A fitted classifier can be pickled: what was trained is, and the encoder's name.
    """

    def __init__(
        self,
        encoder: str = EMBEDDED,
        method: str = "ept",
        *,
        encoder_weights: str | Path | None = None,
        image_size: int | None = None,
        settings: dict[str, Any] | None = None,
        recipe: str = "medept",
        epochs: int | None = None,
        batch_size: int | None = None,
        lr: float | None = None,
        encoder_lr: float | None = None,
        recipe_settings: dict[str, Any] | None = None,
        tune: int = 0,
        seed: int = 0,
        device: str = "auto",
        precision: str = "auto",
        calibrate: Kind = "temperature",
        progress: Progress | None = None,
    ) -> None:
        self.encoder = encoder
        self.method = method
        self.encoder_weights = encoder_weights
        self.image_size = image_size
        self.settings = settings
        self.recipe = recipe
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.encoder_lr = encoder_lr
        self.recipe_settings = recipe_settings
        self.tune = tune
        self.seed = seed
        self.device = device
        self.precision = precision
        self.calibrate = calibrate
        self.progress = progress

    def fit(
        self,
        X: Sequence[ImageLike],
        y: Any,
        *,
        groups: np.ndarray | None = None,
        classes: Sequence[str] | None = None,
        checkpoint: str | Path | None = None,
    ) -> FewShotClassifier:
        """Train on the support set.

        Args:
            X: n images.
            y: (n,) labels, or (n, C) of 0 and 1 for multi-label data.
            groups: (n,) patients or studies, which cross-validation inside the support set keeps
                together; None: each image is its own.
            classes: names of the labels (default: the sorted labels; ``0``.. for multi-label).
            checkpoint: a file in which the state is kept after each epoch, but for those of the
                head alone, which take seconds; a fit that was killed goes on from it, to the same
                final weights, and a search (``tune``) from a file beside it. When the adapter is
                saved, :func:`~medept.training.checkpoint.remove_checkpoint` removes them.

        Raises:
            InputError: if an image cannot be read, or the labels leave nothing to learn.
        """
        with Kept() as kept:
            support = self._read(X, y, groups, classes, kept)
            try:
                self._fit(support, np.arange(len(support.targets)), checkpoint)
            except BaseException:
                self.__dict__.pop("model_", None)  # it is not fitted, whatever it was before
                raise
        return self

    def fit_seeds(
        self,
        X: Sequence[ImageLike],
        y: Any,
        seeds: Sequence[int],
        *,
        groups: np.ndarray | None = None,
        classes: Sequence[str] | None = None,
    ) -> list[FewShotClassifier]:
        """Fitted classifiers that differ in their seed: to compare them, or to average.

        All are trained on the random views of the first seed (``views_seed`` in their
        ``adapter.json``), of which what they share is computed once: the others differ from it in
        initial values, in the order of images, and in folds.

        Args:
            X: as in :meth:`fit`, and so are the others.
            seeds: one for each classifier, in place of this one's.

        Raises:
            InputError: as :meth:`fit`.
        """
        with Kept() as kept:
            support = self._read(X, y, groups, classes, kept)
            support.seeds = len(seeds)
            fitted = [self._alike(seed=seed) for seed in seeds]
            for one in fitted:
                one._check()
            for one in fitted:
                one._fit(support, np.arange(len(support.targets)))
        return fitted

    def _read(
        self,
        X: Sequence[ImageLike],
        y: Any,
        groups: np.ndarray | None,
        classes: Sequence[str] | None,
        kept: Kept,
    ) -> _Support:
        """The support set, which has been looked at."""
        self._check()
        images = _as_list(X)
        targets, names = encode_labels(y, classes)
        if len(images) != len(targets):
            raise InputError(f"{len(images)} images but {len(targets)} labels were given")
        groups = _distinct(images) if groups is None else np.asarray(groups)
        if groups.shape != (len(images),):
            raise InputError(f"groups of shape {groups.shape} for {len(images)} images")
        read_settings(self.method, self.settings)  # before anything takes time
        return _Support(images, targets, names, groups, kept)

    def _alike(self, **changes: Any) -> FewShotClassifier:
        """Another classifier, not fitted, with other parameters."""
        return type(self)(**(self.get_params(deep=False) | changes))

    def _fit(
        self,
        support: _Support,
        rows: np.ndarray,
        checkpoint: str | Path | None = None,
    ) -> None:
        """Train on some rows of the support set."""
        targets, groups = support.targets[rows], support.groups[rows]
        self.classes_ = support.classes
        self.task_: Literal["multiclass", "multilabel"] = (
            "multiclass" if targets.ndim == 1 else "multilabel"
        )
        accelerator = self._accelerator()
        self.precision_ = precision_of(accelerator)
        self.support_images_ = len(rows)
        self.calibration_ = Calibration()
        self._build(support, **self._parameters({}))
        self.model_.to(accelerator.device)
        folds = self._folds(targets, groups)
        preprocessing = self.model_.encoder.preprocessing
        views = support.views(preprocessing, self.recipe_.crop_scale, self.seed).part(rows)
        self.views_seed_ = views.seed
        search = self._search_folds(targets, groups) if self.tune else []
        held_out = [len(folds)] if folds else []
        fits = support.seeds * (1 + sum([*search, *held_out]))
        support.kept.fits = max(support.kept.fits, fits)  # those of a fold, which has none, are one
        self._announce(views, accelerator, search, held_out)
        began = time.perf_counter()
        found: dict[str, Any] = {}
        content = [image_key(image) for image in support.images] if checkpoint else []

        def key() -> list[Any]:
            return [self.info().model_dump(), content, targets.tolist(), groups.tolist()]

        if self.tune:
            given = [self._changes, self.settings]  # which are not searched over
            done = Trials(Path(checkpoint), [*key(), *given]) if checkpoint else None
            found = self._tuned(support, groups, done)
            self._build(support, **self._parameters(found))
        state = Checkpoint(Path(checkpoint), key()) if checkpoint else None
        self._train(support, rows, views, state)
        if self.calibrate != "none":
            self.calibration_ = self._calibrated(support, folds, found)
        logger.info("fitted in %s", spent(time.perf_counter() - began, support.kept.bytes))

    def _train(
        self, support: _Support, rows: np.ndarray, views: Views, checkpoint: Checkpoint | None
    ) -> None:
        """Train the model that was built; what the optimiser needs beside it is let go."""
        accelerator = self._accelerator()
        self.history_ = train(
            self.model_,
            views,
            support.targets[rows],
            self.recipe_,
            accelerator,
            groups=support.groups[rows],
            seed=self.seed,
            progress=self._report,
            checkpoint=checkpoint,
            kept=support.kept,
        )
        self.model_.zero_grad(set_to_none=True)
        if not is_finite(self.model_.trained_state()):
            if checkpoint and accelerator.is_main_process:
                remove_checkpoint(checkpoint.file)
            raise InputError("training diverged: give a smaller lr (--lr) or encoder_lr")

    @property
    def _report(self) -> Progress:
        return self.progress or silent

    def _check(self) -> None:
        """Refuse what no other part would refuse in words."""
        if self.calibrate not in KINDS:
            raise InputError(f"calibrate={self.calibrate!r}: use one of {', '.join(KINDS)}")
        if not 0 <= self.seed < 2**32:
            raise InputError(f"seed {self.seed}: give a whole number from 0 to {2**32 - 1}")
        if self.tune < 0:
            raise InputError(f"tune={self.tune}: give the number of trials, or 0 for none")
        rates = find_method(self.method).rates
        for name in ("lr", "encoder_lr"):
            if getattr(self, name) is not None and name not in rates:
                raise InputError(
                    f"{self.method} has no {name}: it learns by "
                    + (", ".join(rates) or "no rate at all")
                )

    def _build(
        self, support: _Support, recipe_settings: dict[str, Any], settings: dict[str, Any]
    ) -> None:
        """Set the recipe and the adapted encoder, untrained."""
        self.recipe_ = make_recipe(self.recipe, self.method, **recipe_settings)
        encoder = support.encoder(self._held)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.seed)
            self.model_ = adapt(encoder, self.method, len(self.classes_), settings)

    def _encoder(self) -> Encoder:
        return load_encoder(self.encoder, weights=self.encoder_weights, image_size=self.image_size)

    def _accelerator(self) -> Accelerator:
        return make_accelerator(self.device, self.precision)

    def _held(self) -> Encoder:
        """The encoder in what it computes in, but for what the method may train of it."""
        encoder = self._encoder()
        trained = trained_of(encoder, self.method, self.settings)
        may_choose_others = trained and self.tune
        if precision_of(self._accelerator()) == "bfloat16" and not may_choose_others:
            encoder.hold_in_bfloat16(besides=trained)
        return encoder

    @property
    def _space(self) -> SearchSpace:
        return SearchSpace(self.method, self.recipe, self._changes, self.settings or {})

    def _search_folds(self, targets: np.ndarray, groups: np.ndarray) -> list[int]:
        """Of each trial of a search, the number of parts that it is cross-validated on."""
        parts = len(make_folds(targets, groups, FOLDS, self.seed)) if self._space.default else 0
        return [parts] * self.tune if parts else []

    def _announce(
        self, views: Views, accelerator: Accelerator, search: list[int], folds: list[int]
    ) -> None:
        """Say what a fit will cost, which is cross-validated on so many parts each time."""
        if not logger.isEnabledFor(logging.INFO):
            return
        with quietly():
            cost = estimate_cost(self.model_, views, self.recipe_, accelerator, [*search, *folds])
        processes = accelerator.num_processes
        logger.info(
            "%s: %s trained parameters beside %s frozen ones; %d support images%s%s%s%s; about %s",
            self.method,
            f"{self.model_.trainable_count():,}",
            f"{self.model_.encoder_identity['parameters']:,}",
            len(views),
            f", {self.recipe_.epochs} epochs" if self.model_.rates else "",
            f", {len(search)} trials of {search[0]} folds first" if search else "",
            f", and again for {folds[0]} folds" if folds else "",
            f", on {processes} processes" if processes > 1 else "",
            cost,
        )

    def _fold(
        self,
        support: _Support,
        parameters: dict[str, Any],
        train: np.ndarray,
        test: np.ndarray,
    ) -> np.ndarray:
        """Logits of the rows ``test`` by a classifier fitted to the rows ``train``.

        Args:
            parameters: what a search chose.
        """
        given = self._parameters(parameters)
        fold = self._alike(**given, tune=0, calibrate="none", progress=None)
        with quietly():
            fold._fit(support, train)
            model, recipe = fold.model_, fold.recipe_
            views = support.views(model.encoder.preprocessing, recipe.crop_scale, self.seed)
            accelerator = self._accelerator()
            if model.alters_features:
                return predict_logits(model, views.part(test), accelerator)
            features = plain_features(model, views.part(test), accelerator, support.kept)
            return logits_of_features(model, features)

    def _parameters(self, searched: dict[str, Any]) -> dict[str, Any]:
        """Recipe and settings as they are given, and beside that what a search chose."""
        rates = {name: value for name, value in searched.items() if name != "settings"}
        settings = (self.settings or {}) | searched.get("settings", {})
        return {"recipe_settings": self._changes | rates, "settings": settings}

    @property
    def _changes(self) -> dict[str, Any]:
        """Values that are given in place of the recipe's."""
        own = {name: getattr(self, name) for name in ("epochs", "batch_size", "lr", "encoder_lr")}
        given = {name: value for name, value in own.items() if value is not None}
        return (self.recipe_settings or {}) | given

    def _folds(
        self, targets: np.ndarray, groups: np.ndarray
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Parts of the support set to hold out for the calibration; none where that cannot be."""
        if self.calibrate == "none":
            return []
        return make_folds(targets, groups, 2 if self.model_.trains_encoder else 3, self.seed)

    def _calibrated(
        self,
        support: _Support,
        folds: list[tuple[np.ndarray, np.ndarray]],
        parameters: dict[str, Any],
    ) -> Calibration:
        """The calibration that logits of held-out parts of the support set ask for."""
        if not folds:
            note = "no calibration: each class needs two shots, one of them to hold out"
            logger.info(note)
            return Calibration(note=note)
        logits = np.zeros((len(support.targets), len(self.classes_)))
        for i, (rows, held_out) in enumerate(folds):
            self._report("calibrating", i, len(folds))
            logits[held_out] = self._fold(support, parameters, rows, held_out)
        self._report("calibrating", len(folds), len(folds))
        return fit_calibration(self.calibrate, logits, support.targets)

    def _tuned(self, support: _Support, groups: np.ndarray, done: Trials | None) -> dict[str, Any]:
        """The best parameters that a search inside the support set finds."""
        return tune(
            partial(self._fold, support),
            self._space,
            support.targets,
            groups,
            trials=self.tune,
            seed=self.seed,
            progress=self._report,
            done=done,
        )

    def logits(self, X: Sequence[ImageLike]) -> np.ndarray:
        """Logits (n, C), before any calibration."""
        check_is_fitted(self, "model_")
        accelerator = self._accelerator()
        model = self._model(accelerator)
        return predict_logits(model, _as_list(X), accelerator, progress=self._report)

    def decision_function(self, X: Sequence[ImageLike]) -> np.ndarray:
        """Logits (n, C); of two classes, by how much the second's is above the first's (n,)."""
        logits = self.logits(X)
        two_classes = self.task_ == "multiclass" and len(self.classes_) == 2
        return logits[:, 1] - logits[:, 0] if two_classes else logits

    def predict_proba(self, X: Sequence[ImageLike]) -> np.ndarray:
        """Probabilities (n, C): a row sums to 1, but for multi-label data."""
        logits = self.logits(X)
        return self.calibration_.probabilities(logits, self.task_)

    def predict_proba_of_features(self, features: np.ndarray) -> np.ndarray:
        """Probabilities (n, C) from features (n, D) that :meth:`embed` gave."""
        check_is_fitted(self, "model_")
        logits = logits_of_features(self.model_, features)
        return self.calibration_.probabilities(logits, self.task_)

    def predict(self, X: Sequence[ImageLike]) -> np.ndarray:
        """Labels (n,), or (n, C) of 0 and 1 (calibrated probability above one half)."""
        predicted = decide(self.predict_proba(X), self.task_)
        return predicted if self.task_ == "multilabel" else self.classes_[predicted]

    def embed(self, X: Sequence[ImageLike]) -> np.ndarray:
        """Features (n, D) of the encoder: as adapted once fitted, and frozen as it came before."""
        accelerator = self._accelerator()
        fitted = hasattr(self, "model_")
        encoder = self._model(accelerator).encoder if fitted else self._held()
        return encode_images(encoder, _as_list(X), accelerator, progress=self._report)

    def _model(self, accelerator: Accelerator) -> AdaptedEncoder:
        """The adapted encoder, loaded again if it is to compute in more than it is held in."""
        encoder = self.model_.encoder
        if precision_of(accelerator) == "bfloat16":
            if not encoder.held:
                encoder.hold_in_bfloat16(p for p in encoder.parameters() if p.requires_grad)
        elif encoder.held:
            again = self.model_.trained_state(), self.info(), "the fitted classifier"
            self.model_ = _adapted(self._encoder(), *again, accelerator)
        return self.model_

    def save(self, folder: str | Path) -> None:
        """Write the adapter (``adapter.safetensors``, ``adapter.json``) into ``folder``.

        The latter has the path of ``encoder_weights`` as it was given.
        """
        check_is_fitted(self, "model_")
        save_adapter(Path(folder), self.model_.trained_state(), self.info())

    def info(self) -> AdapterInfo:
        """What ``adapter.json`` says."""
        local = self.encoder_weights
        return AdapterInfo(
            encoder=EncoderIdentity.model_validate(self.model_.encoder_identity),
            encoder_weights=None if local is None else str(local),
            task=self.task_,
            classes=[str(int(x) if isinstance(x, float) else x) for x in self.classes_.tolist()],
            label_type=LABEL_TYPES.get(self.classes_.dtype.kind, "text"),
            method=self.method,
            settings=self.model_.settings.model_dump(),
            recipe=self.recipe_.model_dump() if self.model_.rates else {},  # else not trained by it
            seed=self.seed,
            views_seed=self.views_seed_,
            precision=self.precision_,
            calibration=self.calibration_,
            trainable_parameters=self.model_.trainable_count(),
            support_images=self.support_images_,
            versions=current_versions(),
        )

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        encoder_weights: str | Path | None = None,
        device: str = "auto",
        precision: str = "auto",
        progress: Progress | None = None,
    ) -> FewShotClassifier:
        """A fitted classifier from a saved adapter.

        Args:
            folder: what :meth:`save` or ``medept fit --out`` wrote.
            encoder_weights: where the encoder's local weights are now, if they have moved.
            device: as in the constructor.
            precision: as in the constructor.
            progress: as in the constructor.

        Raises:
            InputError: if the adapter is damaged, or the encoder's weights are not those it was
                trained on.
        """
        state, info = load_adapter(Path(folder))
        try:
            read_settings(info.method, info.settings)
            recipe = make_recipe(**info.recipe)
        except InputError as error:
            raise InputError(
                f"{folder}: it was fitted by another version of medept ({error}); fit again"
            ) from error
        weights = encoder_weights or info.encoder_weights
        size = info.encoder.preprocessing.size
        if weights not in (None, RANDOM) and not Path(weights).exists():
            raise InputError(
                f"{folder}: its encoder's weights, {weights}, are not there; say where they are "
                "now with --encoder-weights (encoder_weights=)"
            )
        encoder = load_encoder(info.encoder.name, weights=weights)
        if encoder.preprocessing.size != size:
            encoder = load_encoder(info.encoder.name, weights=weights, image_size=size[0])
        model = _adapted(encoder, state, info, str(folder), make_accelerator(device, precision))
        self = cls(
            info.encoder.name,
            info.method,
            encoder_weights=weights,
            image_size=size[0],
            settings=info.settings,
            recipe_settings=info.recipe,
            calibrate=info.calibration.kind if not info.calibration.note else "temperature",
            seed=info.seed,
            device=device,
            precision=precision,
            progress=progress,
        )
        self.task_ = info.task
        self.classes_ = info.labels()
        self.support_images_ = info.support_images
        self.views_seed_ = info.views_seed
        self.precision_ = info.precision
        self.recipe_ = recipe
        self.calibration_ = info.calibration
        self.model_ = model
        return self

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled: of the model what an adapter file holds, without the encoder."""
        state = dict(super().__getstate__())
        if (model := state.pop("model_", None)) is not None:
            state["_adapter"] = model.trained_state(), self.info()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Load the encoder again, by its name, and put the adapter into it."""
        adapter = state.pop("_adapter", None)
        super().__setstate__(state)
        if adapter is not None:
            trained, info = adapter
            try:
                accelerator = self._accelerator()
            except InputError:  # its device is not here; another may be set
                accelerator = None
            encoder = self._encoder()
            self.model_ = _adapted(encoder, trained, info, "what was pickled", accelerator)


def _adapted(
    encoder: Encoder,
    state: dict[str, Tensor],
    info: AdapterInfo,
    where: str,
    accelerator: Accelerator | None,
) -> AdaptedEncoder:
    """The model of a saved adapter, held in what is computed in, where that is known.

    Raises:
        InputError: if the encoder's weights are not those it was trained on.
    """
    if encoder.fingerprint != info.encoder.sha256:
        raise InputError(
            f"{where}: this adapter was trained on other weights of {encoder.name!r} "
            f"(SHA-256 {info.encoder.sha256[:12]}..., here {encoder.fingerprint[:12]}...): "
            "give the right file with --encoder-weights"
        )
    encoder.preprocessing = info.encoder.preprocessing  # the library's own may have changed since
    if accelerator is not None and precision_of(accelerator) == "bfloat16":
        encoder.hold_in_bfloat16(besides=trained_of(encoder, info.method, info.settings))
    with torch.random.fork_rng(devices=[]):  # initial values, of which nothing stays
        model = adapt(encoder, info.method, len(info.classes), info.settings)
    model.load_trained_state(state)
    return model
