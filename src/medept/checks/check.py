"""A check of a data set for whatever would inflate a result, stop a fit, or mislead it.

Images are decoded once, in parallel threads, and everything that the check needs of them is
computed in that one pass; :mod:`medept.checks.findings` puts into words what was found.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from medept.checks.duplicates import Fingerprint, exact_duplicates, fingerprint, near_duplicates
from medept.checks.findings import (
    DoubtedLabels,
    Finding,
    alike_groups,
    constant_images,
    doubted_labels,
    duplicate_images,
    files_left_out,
    predictive_sizes,
    shared_groups,
    unreadable_images,
    unusable_masks,
)
from medept.checks.label_errors import find_label_errors
from medept.data.cases import images_of, sizes_of
from medept.data.formats import FORMATS
from medept.data.images import ImageLike, read_images
from medept.data.labelled_images import LabelledImages
from medept.data.lazy_image import LazyImage
from medept.errors import InputError
from medept.progress import Progress, silent

_BATCH = 32


class Extractor(Protocol):
    """A frozen encoder in two steps: ``prepare`` runs in many threads, ``encode`` on batches."""

    def prepare(self, image: Image.Image) -> Any:
        """An RGB image in the form that ``encode`` takes."""

    def encode(self, prepared: list[Any]) -> np.ndarray:
        """Features (b, D) of b prepared images."""


@dataclass(frozen=True)
class CheckResult:
    """Everything that a check found.

    Attributes:
        data: the data set that was checked, one row an image.
        findings: those that inflate results first.
        sizes: how many readable images have each (width, height).
        modes: how many readable files have each mode (``RGB``, ``L``, ``I;16``, ...).
        probe_accuracy: cross-validated balanced accuracy of the probe that doubts labels, by name:
            ``all``, or each label of multi-label data; empty where no probe was fitted.
        cases: how many the images are of; 0 where each is its own.
    """

    data: LabelledImages
    findings: tuple[Finding, ...]
    sizes: Counter[tuple[int, int]]
    modes: Counter[str]
    probe_accuracy: dict[str, float] = field(default_factory=dict)
    cases: int = 0

    @property
    def flatters(self) -> bool:
        """Whether any finding would make a result look better than it is."""
        return any(finding.flatters for finding in self.findings)

    @property
    def unreadable(self) -> bool:
        """Whether any image cannot be read."""
        return any(finding.kind == "unreadable" for finding in self.findings)


def check_dataset(
    data: LabelledImages, extractor: Extractor | None = None, progress: Progress = silent
) -> CheckResult:
    """Check a data set for leakage, damage, and labels that look wrong.

    Cases are checked image by image, where those of one case belong together; their labels by the
    mean features of their images.

    Args:
        data: labelled images or cases; images that cannot be read become a finding.
        extractor: an encoder whose features show which labels look wrong; default: labels are not
            checked.

    >>> image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    >>> data = LabelledImages(
    ...     images=(image, image.copy()),
    ...     names=("1.png", "2.png"),
    ...     targets=np.array([0, 1]),
    ...     classes=("benign", "malignant"),
    ... )
    >>> result = check_dataset(data)
    >>> result.flatters, [finding.kind for finding in result.findings]
    (True, ['exact-ungrouped', 'exact-labels'])
    """
    whole, data = data, data.by_image()
    images = images_of(data.images)
    scan = _scan_images(images, extractor, progress, near=True)
    findings = [
        *unreadable_images(scan.errors),
        *files_left_out(data),
        *shared_groups(data),
        *alike_groups(data),
        *duplicate_images(data, exact_duplicates(scan.fingerprints), "exact"),
        *duplicate_images(data, near_duplicates(scan.fingerprints), "near"),
        *constant_images(scan.fingerprints),
        *predictive_sizes(data, scan.sizes),
        *unusable_masks(data, scan.sizes),
    ]
    readable = [row for row, size in enumerate(scan.sizes) if size is not None]
    accuracy: dict[str, float] = {}
    if scan.features is not None:
        owners = np.repeat(np.arange(len(whole)), sizes_of(whole.images))[readable]
        rows, first = np.unique(owners, return_index=True)
        counts = np.diff(np.append(first, len(owners)))[:, None]
        features = np.add.reduceat(scan.features, first, axis=0) / counts.astype(np.float32)
        doubts = _doubt_labels(whole.subset(rows), features, progress)
        accuracy = {doubt.name: doubt.errors.balanced_accuracy for doubt in doubts}
        findings += doubted_labels(data, np.array(readable, dtype=np.int64)[first], doubts)
    findings.sort(key=lambda finding: not finding.flatters)
    sizes = Counter(size for size in scan.sizes if size is not None)
    modes = Counter(_file_mode(images[row]) for row in readable)
    cases = len(whole) if whole.has_cases else 0
    return CheckResult(data, tuple(findings), sizes, modes, accuracy, cases)


def quick_check(support: LabelledImages, test: LabelledImages) -> list[Finding]:
    """The findings about a support and a test set that need no encoder and little time.

    These are unreadable and constant images, groups (or those that may be one) on both sides, and
    exact duplicates.
    """
    support, test = support.by_image(), test.by_image()
    both = LabelledImages(
        images=support.images + test.images,
        names=support.names + test.names,
        targets=np.concatenate([support.targets, test.targets]),
        classes=support.classes,
        groups=None
        if support.groups is None or test.groups is None
        else np.concatenate([support.groups, test.groups]),
        splits=np.array(["train"] * len(support) + ["test"] * len(test)),
    )
    scan = _scan_images(images_of(both.images), None, silent, near=False)
    return [
        *shared_groups(both),
        *alike_groups(both),
        *duplicate_images(both, exact_duplicates(scan.fingerprints), "exact"),
        *unreadable_images(scan.errors),
        *constant_images(scan.fingerprints),
    ]


@dataclass(frozen=True)
class _Scan:
    """What one pass over n images gives.

    Attributes:
        fingerprints: n fingerprints; None for an image that cannot be read.
        sizes: n pairs (width, height); None for an image that cannot be read.
        errors: why an image cannot be read, by row.
        features: (m, D) of the m images that can be read; None without an encoder.
    """

    fingerprints: list[Fingerprint | None]
    sizes: list[tuple[int, int] | None]
    errors: dict[int, str]
    features: np.ndarray | None


def _scan_images(
    images: Sequence[ImageLike],
    extractor: Extractor | None,
    progress: Progress,
    *,
    near: bool,
) -> _Scan:
    """Decode each image once.

    Args:
        near: whether fingerprints have to tell near duplicates.
    """

    def examine(image: Image.Image) -> tuple[Fingerprint, tuple[int, int], Any]:
        prepared = extractor.prepare(image) if extractor else None
        return fingerprint(image, near=near), image.size, prepared

    fingerprints: list[Fingerprint | None] = []
    sizes: list[tuple[int, int] | None] = []
    errors: dict[int, str] = {}
    batch: list[Any] = []
    features: list[np.ndarray] = []
    for row, examined in enumerate(read_images(images, examine)):
        if isinstance(examined, InputError):
            errors[row] = str(examined)
            fingerprints.append(None)
            sizes.append(None)
        else:
            fingerprints.append(examined[0])
            sizes.append(examined[1])
            batch.append(examined[2])
        if extractor and batch and (len(batch) == _BATCH or row == len(images) - 1):
            features.append(extractor.encode(batch))
            batch = []
        progress("images", row + 1, len(images))
    return _Scan(fingerprints, sizes, errors, np.concatenate(features) if features else None)


def _file_mode(image: ImageLike) -> str:
    if isinstance(image, np.ndarray):
        return f"array {image.dtype}"
    if isinstance(image, Image.Image):
        return image.mode
    if isinstance(image, LazyImage):
        return "slice of a volume"
    try:
        with Image.open(image, formats=FORMATS) as opened:
            return opened.mode
    except Exception:  # a format that Pillow does not read, such as DICOM
        return Path(image).suffix.lstrip(".").upper() or "unknown"


def _doubt_labels(
    data: LabelledImages, features: np.ndarray, progress: Progress
) -> list[DoubtedLabels]:
    """Labels that look wrong: of the classes, or of each label of multi-label data by itself."""
    questions: list[tuple[str, tuple[str, ...], np.ndarray]] = [("all", data.classes, data.targets)]
    if data.task == "multilabel":
        questions = [
            (name, (f"no {name}", name), data.targets[:, c]) for c, name in enumerate(data.classes)
        ]
    doubts = []
    for name, answers, targets in questions:
        what = "labels" if name == "all" else f"label {name}"
        errors = find_label_errors(features, targets, data.groups, partial(progress, what))
        if errors is not None:
            doubts.append(DoubtedLabels(name, answers, errors))
    return doubts
