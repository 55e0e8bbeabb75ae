"""What is computed while the reader labels: features, suggestions, the learning curve."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

import numpy as np

from medept.app.project import ROUND, Project
from medept.errors import InputError

if TYPE_CHECKING:
    from medept.labelling.curve import FitPredict, LearningCurve
    from medept.labelling.feature_cache import FeatureCache

logger = logging.getLogger(__name__)

PART = 32
"""Images that are encoded between two looks at whether there are new labels."""


class Learner:
    """A thread that keeps up with the labels of a project.

    Attributes:
        curve: of the labels whose features are known; None as long as there are too few.
        labels: how many labels it was computed from.
        predicted: class of each known row by the quick classifier, by name.
        known: how many images are encoded.
        unreadable: how many cannot be read, and are left out.
        problem: why it stopped, in words; empty if it did not.
    """

    def __init__(self, project: Project) -> None:
        self._project = project
        self._wake = threading.Event()
        self._ended = False
        self.curve: LearningCurve | None = None
        self.labels = 0
        self.predicted: dict[str, str] = {}
        self.known, self.unreadable = 0, 0
        self.problem = ""
        self._given: list[str] = []
        self._thread = threading.Thread(target=self._run, daemon=True, name="learner")

    def start(self) -> None:
        """Begin; the first images are suggested as soon as all are encoded."""
        self._thread.start()

    def wake(self) -> None:
        """Say that there are new labels."""
        self._wake.set()

    def stop(self) -> None:
        """End after the part that is computed now."""
        self._ended = True
        self._wake.set()

    def _run(self) -> None:
        try:
            self._keep_up()
        except (InputError, OSError, MemoryError) as error:
            logger.warning("suggestions and the learning curve stop: %s", error)
            self.problem = str(error)

    def _keep_up(self) -> None:
        from medept.training.extractor import FeatureExtractor
        from medept.workflows.label import pool_features, quick_classifier

        project = self._project
        extractor = FeatureExtractor.load(
            project.settings.encoder, readout="auto", precision="float32"
        )
        cache = pool_features(project.pool, project.folder / "features", extractor)
        classify = quick_classifier(extractor)
        while not self._ended:
            self._wake.clear()
            more = cache.compute_part(PART, skip_unreadable=True)
            self.known, self.unreadable = len(cache.rows), len(cache.unreadable)
            self._learn(cache, classify)
            if cache.complete:
                self._suggest(cache)
            if not more:
                self._wake.wait()

    def _learn(self, cache: FeatureCache, classify: FitPredict) -> None:
        """The learning curve, if there are labels that it does not know."""
        from medept.labelling.curve import learning_curve

        labels = self._project.store.agreed()
        subjects = self._project.pool.subjects
        places = [i for i, row in enumerate(cache.rows) if subjects[row].name in labels]
        given = [labels[subjects[cache.rows[i]].name] for i in places]
        if given == self._given:
            return
        self._given = given
        classes, targets = np.unique(given, return_inverse=True)
        if len(classes) < 2:
            self.curve, self.labels, self.predicted = None, len(given), {}
            return
        features, groups = cache.features(), self._project.pool.groups
        own = None if groups is None else groups[cache.rows[places]]
        self.curve = learning_curve(features[places], targets, classify, groups=own)
        found = classify(features[places], targets, features)
        names = [subjects[row].name for row in cache.rows]
        self.predicted = {name: str(classes[c]) for name, c in zip(names, found, strict=True)}
        self.labels = len(given)

    def _suggest(self, cache: FeatureCache) -> None:
        """New suggestions, once those that were made are answered."""
        from medept.workflows.label import suggest_from

        project = self._project
        seen = project.store.seen()
        if any(project.pool.subjects[row].name not in seen for row in project.suggested):
            return
        answers: dict[str, str | None] = dict.fromkeys(seen) | project.store.agreed()
        project.suggest(suggest_from(project.pool, cache, answers, ROUND, seed=len(seen)))
