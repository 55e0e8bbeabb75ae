"""The whole folder of a fit, read back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medept.evaluation.predictions import confidence, decide, indicators, is_correct
from medept.fits import layout
from medept.fits.adapter import AdapterInfo, read_info
from medept.fits.results import read_findings, read_metrics
from medept.fits.tables import (
    read_distribution,
    read_history,
    read_image_predictions,
    read_predictions,
    read_support,
    read_targets,
)


@dataclass(frozen=True)
class Fit:
    """The content of the folder of a fit.

    Attributes:
        info: the content of ``adapter.json``.
        metrics: the content of ``metrics.json``; None where there was no test set.
        names: of the n test images, or the ids of the n test cases.
        has_cases: whether rows of the test set are cases.
        images: ``images.csv``, one row per image of the test cases; None without cases.
        groups: (n,) ids of the groups of the test images; None if there are none.
        targets: (n,) class indices of the test images, or (n, C) of 0 and 1.
        probabilities: (n, C) of the test images.
        support: ``support.csv``, one row per support image.
        support_targets: those of the support images, in the form of ``targets``.
        findings: of the data check; None where there was none.
        distribution: how the adapter's features are distributed, by name; empty where that was
            not computed.
        held_out: targets, probabilities and groups of the support set by the cross-validation
            inside it; None where nothing was held out.
        history: the learning curve, one row per epoch; None for a method without epochs.
    """

    info: AdapterInfo
    metrics: dict[str, Any] | None
    names: list[str]
    has_cases: bool
    images: pd.DataFrame | None
    groups: np.ndarray | None
    targets: np.ndarray
    probabilities: np.ndarray
    support: pd.DataFrame
    support_targets: np.ndarray
    findings: list[dict[str, Any]] | None
    distribution: dict[str, Any]
    history: pd.DataFrame | None
    held_out: tuple[np.ndarray, np.ndarray, np.ndarray | None] | None

    @property
    def multilabel(self) -> bool:
        """Whether an image can have any number of labels."""
        return self.info.task == "multilabel"

    @property
    def truth(self) -> np.ndarray:
        """Targets as (n, C) of 0 and 1."""
        return indicators(self.targets, len(self.info.classes))

    @property
    def predicted(self) -> np.ndarray:
        """Predictions, in the form of ``targets``."""
        return decide(self.probabilities, self.info.task)

    @property
    def correct(self) -> np.ndarray:
        """(n,) whether the prediction is correct; for multi-label data, in every label."""
        return is_correct(self.probabilities, self.targets)

    @property
    def confidence(self) -> np.ndarray:
        """(n,) probability of the prediction; for multi-label data, of the least certain label."""
        return confidence(self.probabilities, self.info.task)


def read_fit(folder: Path) -> Fit:
    """Read a folder that ``medept fit`` wrote.

    Raises:
        InputError: if a file is missing or damaged.

    >>> from medept import FewShotClassifier
    >>> from medept.fits.tables import write_support
    >>> from medept.phantoms import make_phantoms
    >>> data = make_phantoms("colon", patients=4, images_per_patient=1, size=48)
    >>> classifier = FewShotClassifier(method="prototype", calibrate="none")
    >>> classifier.fit(data.images, data.labels).save("my-fit")
    >>> write_support(Path("my-fit"), data)
    >>> fit = read_fit(Path("my-fit"))
    >>> fit.info.method, len(fit.support), fit.metrics  # it has no test set
    ('prototype', 4, None)
    """
    info = read_info(folder)
    support = read_support(folder, info.support_images)
    parts: dict[str, Any] = {
        "info": info,
        "support": support,
        "support_targets": read_targets(
            support["label"], info.classes, info.task, folder / layout.SUPPORT
        ),
        "findings": read_findings(folder),
        "distribution": read_distribution(folder),
        "history": read_history(folder),
        "held_out": _read_held_out(folder, info),
    }
    metrics = read_metrics(folder)
    if metrics is None:
        none = np.zeros((0, len(info.classes)))
        targets = none if info.task == "multilabel" else np.zeros(0, dtype=np.int64)
        return Fit(
            **parts,
            metrics=None,
            names=[],
            has_cases="case" in support,
            images=None,
            groups=None,
            targets=targets,
            probabilities=none,
        )
    table, probabilities = read_predictions(folder, info.classes)
    return Fit(
        **parts,
        metrics=metrics,
        names=table["case" if "case" in table else "image"].tolist(),
        has_cases="case" in table,
        images=read_image_predictions(folder, info.classes),
        groups=table["group"].to_numpy() if "group" in table else None,
        targets=read_targets(table["label"], info.classes, info.task, folder / layout.PREDICTIONS),
        probabilities=probabilities,
    )


def _read_held_out(
    folder: Path, info: AdapterInfo
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None] | None:
    """Targets, probabilities and groups of ``held-out.csv``; None if there is no such file."""
    file = folder / layout.HELD_OUT
    if not file.exists():
        return None
    table, probabilities = read_predictions(folder, info.classes, layout.HELD_OUT)
    targets = read_targets(table["label"], info.classes, info.task, file)
    return targets, probabilities, table["group"].to_numpy() if "group" in table else None
