"""The few-shot classifier: images and labels in, probabilities out, with scikit-learn's manners.

The class is long by its parameters, each of which is described, declared and assigned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin

from medept.classifier.case_prediction import CasePrediction, mean_prediction
from medept.classifier.fitted import Fitted
from medept.classifier.fitting import fit
from medept.classifier.restore import in_precision, restore
from medept.classifier.several import Weights, logits_of_probabilities
from medept.classifier.specification import Specification, specifications
from medept.classifier.state import FittedState
from medept.classifier.support import SupportSet, as_items
from medept.data.cases import Item, sizes_of, without
from medept.data.labels import encode_labels
from medept.encoders.load import EMBEDDED
from medept.encoders.preprocessing import OWN_FIT
from medept.evaluation.calibration import Kind
from medept.evaluation.operating_points import OperatingAim
from medept.evaluation.predictions import decide
from medept.progress import Progress, silent
from medept.training.cache import TensorCache
from medept.training.checkpoint import checkpoint_of
from medept.training.cropped import warn_of_cropping
from medept.training.device import make_accelerator
from medept.training.inference import (
    CaseLogits,
    Unreadable,
    encode_images,
    logits_of_features,
    predict_cases,
)

if TYPE_CHECKING:
    from accelerate import Accelerator

Cases = Sequence[Any] | np.ndarray | None
"""(n,) the case of each of n images; None where each is classified by itself."""


class FewShotClassifier(FittedState, ClassifierMixin, BaseEstimator):
    """Adapts a frozen encoder to a few labelled images.

    Args:
        encoder: a name for :func:`medept.load_encoder` (default: the one that ships inside
            medept), or several, whose probabilities are averaged.
        method: how it is adapted; ``medept methods`` lists them. ``auto``: the one measured to be
            most accurate, ``ridge``; in the recipe ``paper`` it is ``ept``.
        encoder_weights: a local safetensors file, ``"random"``, or None for the encoder's own; of
            several encoders one for each, or for each but ``embedded``.
        image_size: pixels a side; None for the encoder's own. Of several encoders ``embedded``
            keeps its own.
        readout: what is read of the encoder: ``pooled``, or PARTS[:BLOCKS] such as ``class:last-4``
            (:mod:`medept.encoders.readout`); ``auto``: for ``ridge`` and ``lda`` the class token
            and the spread of the patches of every block, else ``pooled``.
        symmetry: views of an image that mean the same: ``none``, ``flip`` (left to right),
            ``flips``, ``turns``, or ``all`` eight; with ``+corners`` as many corners of the image
            enlarged by a quarter. Training sees them, and a prediction averages over them.
            ``auto``: for ``ridge`` and ``lda`` ``all+corners`` (flips, if the input is not square);
            for trained methods ``flip``, in training alone.
        tta: how many of these views a prediction averages over; None for all. Its cost is in
            proportion.
        fit_image: what is done with images of other proportions than the encoder's input: ``crop``
            (the sides are cut off), ``squeeze`` (proportions change), ``pad`` (with a border), or
            ``auto``, what the encoder's own processor does.
        settings: the method's settings, such as ``{"length": 100, "layers": "9-12"}`` for ``ept``.
        recipe: ``medept`` or ``paper``; the next four replace one of its values each.
        epochs: passes over the support set.
        batch_size: images per step.
        lr: learning rate of the head.
        encoder_lr: learning rate of what is trained inside the encoder.
        recipe_settings: other values of the recipe (:class:`medept.training.recipes.Recipe`), such
            as ``{"optimizer": "sgd", "views": 4}``.
        tune: how many combinations of settings and learning rates to try by cross-validation over
            groups inside the support set; 0 takes those given. What is given is not searched over.
        seed: determines initial values, views and the order of images; the same seed gives the
            same bits on one CPU, in one precision.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        precision: ``auto``, ``float32``, ``bfloat16`` or ``float16``.
        calibrate: how logits become probabilities: ``temperature``, ``vector`` or ``isotonic``
            scaling, fitted by cross-validation over groups inside the support set (which trains
            the method two or three more times), or ``none``. Where a class has a single group
            there is nothing to hold out, and probabilities stay as they are.
        pool: how the features of a case of several images come from theirs: ``mean``, ``max`` (of
            each feature), or ``attention``, which learns which images matter, for methods on
            frozen features (:mod:`medept.methods.pooling`).
        prevalence: class -> how common it is among the cases to be predicted; other classes share
            the rest as they do in the support set. ``"estimate"`` estimates it from the images of
            each call, which should then be many. None: as in the support set, where a fixed number
            of shots makes classes equally common.
        operating_aim: what a threshold for decisions is to reach, such as
            ``OperatingAim(("malignant",), sensitivity=0.95)``. It is chosen on the predictions of
            the same cross-validation (:attr:`operating_points_`).
        coverage: how often the prediction set of a case is to contain the truth, for each class.
            Thresholds come from the same cross-validation, or from :meth:`calibrate_sets`
            (:attr:`prediction_sets_`).
        false_alarms: share of images like the support set's that may be told to be unfamiliar
            (:attr:`~medept.classifier.case_prediction.CasePrediction.unfamiliar`).
        progress: called with (what, done, total) while it works. With it, a fit begins by
            estimating what it will cost, which takes a training step, and notes that.

    Images are paths, PIL images or uint8 arrays, in a list, an object array (n,) or a table's one
    column. With ``cases``, the case (patient, study, slide) of each image, there is one row of
    labels and probabilities a case, in the order of their first images, and a case weighs the same
    whatever its number of images. A fitted classifier can be pickled: what was trained is kept,
    and the encoder's name.

    >>> import numpy as np
    >>> images = [np.full((64, 64, 3), grey, np.uint8) for grey in (10, 30, 220, 240)]
    >>> classifier = FewShotClassifier(method="prototype", device="cpu")
    >>> classifier.fit(images, ["dark", "dark", "bright", "bright"]).predict(images[:1])
    array(['dark'], dtype='<U6')
    """

    _warned_of_cropping: bool = False

    def __init__(
        self,
        encoder: str | Sequence[str] = EMBEDDED,
        method: str = "auto",
        *,
        encoder_weights: Weights | Sequence[Weights] = None,
        image_size: int | None = None,
        readout: str = "auto",
        symmetry: str = "auto",
        tta: int | None = None,
        fit_image: str = OWN_FIT,
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
        pool: str = "mean",
        prevalence: Mapping[str, float] | str | None = None,
        operating_aim: OperatingAim | None = None,
        coverage: float = 0.9,
        false_alarms: float = 0.05,
        progress: Progress | None = None,
    ) -> None:
        self.encoder = encoder
        self.method = method
        self.encoder_weights = encoder_weights
        self.image_size = image_size
        self.readout = readout
        self.symmetry = symmetry
        self.tta = tta
        self.fit_image = fit_image
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
        self.pool = pool
        self.prevalence = prevalence
        self.operating_aim = operating_aim
        self.coverage = coverage
        self.false_alarms = false_alarms
        self.progress = progress

    def fit(
        self,
        X: Sequence[Item],
        y: Any,
        *,
        cases: Cases = None,
        groups: np.ndarray | None = None,
        classes: Sequence[str] | None = None,
        checkpoint: str | Path | None = None,
    ) -> FewShotClassifier:
        """Train on the support set.

        Args:
            X: n images, or :class:`~medept.data.cases.Case` objects of several each.
            y: (n,) labels, or (n, C) of 0 and 1 for multi-label data. With ``cases`` one for each
                of them, or for each image.
            cases: (n,) ids of what is classified as one; None: each image by itself.
            groups: (n,) patients or studies, which cross-validation inside the support set keeps
                together; None: each image or case is its own.
            classes: names of the labels (default: the sorted labels; ``0``.. for multi-label).
            checkpoint: a file in which the state is kept after each epoch, but for those of the
                head alone, which take seconds. A fit that was killed resumes from it, to the same
                final weights, and a search (``tune``) from a file beside it. When the adapter is
                saved, :func:`~medept.training.checkpoint.remove_checkpoint` removes them.

        Raises:
            InputError: if an image cannot be read, or the labels leave nothing to learn.
        """
        self._check_prevalence(*encode_labels(y, classes))
        fitted = []
        for i, spec in enumerate(self.specifications()):
            file = checkpoint_of(Path(checkpoint), i) if checkpoint else None
            with TensorCache() as cache:
                support = SupportSet.read(X, y, groups, classes, cache, cases)
                self._forget()
                fitted.append(fit(spec, support, checkpoint=file, progress=self._report))
        self.fitted_ = fitted
        self._warned_of_cropping = self._warn_of_cropping(support.items)
        self._choose_points()
        self._choose_sets()
        return self

    def calibrate_sets(
        self,
        X: Sequence[Item],
        y: Any,
        *,
        cases: Cases = None,
        groups: np.ndarray | None = None,
    ) -> FewShotClassifier:
        """Take the thresholds of prediction sets from labelled images of other patients.

        Args:
            X, y, cases, groups: as for :meth:`fit`; none of them may have been trained on.

        Raises:
            InputError: if an image cannot be read, or a label is unknown.
        """
        classes = self.classes_.tolist()
        support = SupportSet.read(X, y, groups, classes, TensorCache(), cases)
        probabilities = self._predicted(support.items).probabilities
        self._keep_sets(probabilities, support.targets, support.groups, source="other patients")
        return self

    def logits(self, X: Sequence[Item], cases: Cases = None) -> np.ndarray:
        """Logits (n, C), before any calibration; of several encoders, of their mean probability."""
        if len(self._states) > 1:
            return logits_of_probabilities(self.predict_proba(X, cases), self.task_)
        (found,) = self._case_logits(as_items(X, cases))
        return found.logits

    def decision_function(self, X: Sequence[Item], cases: Cases = None) -> np.ndarray:
        """Logits (n, C); for two classes, by how much the second's exceeds the first's (n,)."""
        logits = self.logits(X, cases)
        two_classes = self.task_ == "multiclass" and len(self.classes_) == 2
        return logits[:, 1] - logits[:, 0] if two_classes else logits

    def predict_proba(self, X: Sequence[Item], cases: Cases = None) -> np.ndarray:
        """Probabilities (n, C): a row sums to 1, but for multi-label data."""
        return self.predict_cases(X, cases).probabilities

    def predict_cases(
        self,
        X: Sequence[Item],
        cases: Cases = None,
        *,
        unreadable: Unreadable | None = None,
    ) -> CasePrediction:
        """Probabilities of each case and of each of its images by itself, and what decided.

        Args:
            X, cases: as for :meth:`fit`.
            unreadable: if given, images that cannot be read are added to it, with the reason, by
                their number among all images (those of cases counted singly). The prediction is
                that of the others; a case of which none is left has no row.

        Raises:
            InputError: if an image cannot be read and ``unreadable`` is not given, or none can be.
        """
        return self._cases_at_prevalence(self._predicted(as_items(X, cases), unreadable))

    def _predicted(
        self, items: Sequence[Item], unreadable: Unreadable | None = None
    ) -> CasePrediction:
        """What the encoders predict on average, at the prevalence of the support set."""
        each = [
            CasePrediction(
                probabilities=one.probabilities(found.logits),
                image_probabilities=one.probabilities(found.image_logits),
                weights=found.weights,
                strangeness=found.strangeness,
                sizes=sizes_of(list(without(items, unreadable or ()).values())),
            )
            for one, found in zip(self._states, self._case_logits(items, unreadable), strict=True)
        ]
        return mean_prediction(each)

    def predict_proba_of_features(self, features: np.ndarray) -> np.ndarray:
        """Probabilities (n, C) from features (n, D) that :meth:`embed` gave."""
        widths = [one.model.encoder.width for one in self._states]
        parts = np.split(features, np.cumsum(widths)[:-1], axis=1)
        each = [
            one.probabilities(logits_of_features(one.model, part))
            for one, part in zip(self._states, parts, strict=True)
        ]
        return self._at_prevalence(np.mean(each, axis=0))

    def predict(self, X: Sequence[Item], cases: Cases = None) -> np.ndarray:
        """Labels (n,), or (n, C) of 0 and 1 (calibrated probability above one half)."""
        predicted = decide(self.predict_proba(X, cases), self.task_)
        return predicted if self.task_ == "multilabel" else self.classes_[predicted]

    def embed(
        self,
        X: Sequence[Item],
        cases: Cases = None,
        *,
        unreadable: Unreadable | None = None,
    ) -> np.ndarray:
        """Features (n, D) of the encoder: as adapted once fitted, and as it came before.

        They are the mean over the views that a prediction averages over; those of several encoders
        stand side by side. Those of a case are pooled (before a fit: their mean). With
        ``unreadable``, images that cannot be read are added to it, and their rows are NaN.
        """
        items = as_items(X, cases)
        if not hasattr(self, "fitted_"):
            extractors = [spec.extractor() for spec in self.specifications()]
            each = [ex.features(items, self._report, unreadable) for ex in extractors]
        else:
            accelerator = make_accelerator(self.device, self.precision)
            each = [
                encode_images(
                    one.model.encoder,
                    items,
                    accelerator,
                    symmetry=one.symmetry,
                    tta=self.tta or one.tta,
                    pool=one.model.pool,
                    unreadable=unreadable,
                    progress=self._report,
                )
                for one in self._in_precision(accelerator, items)
            ]
        return np.concatenate(each, axis=1)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        encoder_weights: Weights | Sequence[Weights] = None,
        tta: int | None = None,
        device: str = "auto",
        precision: str = "auto",
        progress: Progress | None = None,
    ) -> FewShotClassifier:
        """A fitted classifier from a saved adapter.

        Args:
            folder: what :meth:`save` or ``medept fit --out`` wrote.
            encoder_weights: where the encoder's local weights are now, if they have moved.
            tta: how many views a prediction averages over; None for as many as in the fit.
            device: as in the constructor, and so are ``precision`` and ``progress``.

        Raises:
            InputError: if the adapter is damaged, or the encoder's weights are not those it was
                trained on.
        """
        parameters, fitted = restore(
            Path(folder), encoder_weights=encoder_weights, device=device, precision=precision
        )
        views = {} if tta is None else {"tta": tta}
        self = cls(**parameters | views, progress=progress)
        self.fitted_ = fitted
        return self

    def specifications(self) -> list[Specification]:
        """The parameters, checked: one specification for each encoder."""
        return specifications(self.get_params(deep=False))

    @property
    def _report(self) -> Progress:
        return self.progress or silent

    def _case_logits(
        self, items: Sequence[Item], unreadable: Unreadable | None = None
    ) -> list[CaseLogits]:
        """What each adapted encoder makes of images or cases."""
        accelerator = make_accelerator(self.device, self.precision)
        return [
            predict_cases(
                one.model,
                items,
                accelerator,
                symmetry=one.symmetry,
                tta=self.tta or one.tta,
                progress=self._report,
                unreadable=unreadable,
                strangeness=None if one.familiarity is None else one.familiarity.strangeness,
            )
            for one in self._in_precision(accelerator, items)
        ]

    def _in_precision(self, accelerator: Accelerator, items: Sequence[Item]) -> list[Fitted]:
        """The fitted state in the precision asked for now, which may have changed since the fit.

        What a crop leaves out of the first items that it is for is said, unless the fit said it.
        """
        self.fitted_ = [in_precision(one, accelerator) for one in self._states]
        if not self._warned_of_cropping:
            self._warn_of_cropping(items)
            self._warned_of_cropping = True
        return self.fitted_

    def _warn_of_cropping(self, items: Sequence[Item]) -> bool:
        warned = [warn_of_cropping(items, one.model.encoder) for one in self.fitted_]
        return any(warned)
