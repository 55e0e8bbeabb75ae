"""What a careful data scientist looks at first: is there anything that would flatter a result?

Images are decoded once, in parallel, and all that is asked of them is taken in that one pass;
:mod:`medept.checks.findings` says what it comes to.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from medept.checks.duplicates import Fingerprint, exact_sets, fingerprint, near_sets
from medept.checks.findings import (
    Finding,
    constant,
    copies,
    predicted_by_size,
    shared_groups,
    unreadable,
    unusable_masks,
    wrong_labels,
)
from medept.checks.label_errors import Suspects, find_suspects
from medept.data.images import FORMATS, ImageLike, read_images
from medept.data.table import LabelledImages
from medept.errors import InputError
from medept.progress import Progress, silent

_BATCH = 32


class Encode(Protocol):
    """Frozen features, in two steps: the first runs in many threads, the second on batches."""

    def prepare(self, image: Image.Image) -> Any:
        """An RGB image as the encoder takes it."""

    def encode(self, prepared: list[Any]) -> np.ndarray:
        """(b, D) of b prepared images."""


@dataclass(frozen=True)
class Check:
    """All that was found, that which flatters first.

    Attributes:
        data: what was checked.
        findings: in order of weight.
        sizes: (width, height) of the images that can be read, and how many have it.
        modes: the files' modes likewise (``RGB``, ``L``, ``I;16``, ...).
        probe_accuracy: cross-validated balanced accuracy of the probe, by class set: ``all`` or,
            for multi-label data, each label; empty where none was fitted.
    """

    data: LabelledImages
    findings: tuple[Finding, ...]
    sizes: Counter[tuple[int, int]]
    modes: Counter[str]
    probe_accuracy: dict[str, float] = field(default_factory=dict)

    @property
    def flatters(self) -> bool:
        """Whether any finding does."""
        return any(finding.flatters for finding in self.findings)

    @property
    def unreadable(self) -> bool:
        """Whether any image cannot be read."""
        return any(finding.kind == "unreadable" for finding in self.findings)


@dataclass(frozen=True)
class _Seen:
    print: Fingerprint
    size: tuple[int, int]
    prepared: Any


def check(data: LabelledImages, encode: Encode | None = None, progress: Progress = silent) -> Check:
    """Look through a data set.

    Args:
        data: labelled images; those that cannot be read become a finding.
        encode: an encoder, to look for labels that look wrong; None leaves that out.
        progress: called with what is done, how many, of how many.
    """
    seen, errors, features = _look(data.images, encode, progress, near=True)
    prints = [None if one is None else one.print for one in seen]
    shapes = [None if one is None else one.size for one in seen]
    findings = [
        *unreadable(errors),
        *shared_groups(data),
        *copies(data, exact_sets(prints), "exact"),
        *copies(data, near_sets(prints), "near"),
        *constant(prints),
        *predicted_by_size(data, shapes),
        *unusable_masks(data, shapes),
    ]
    accuracy: dict[str, float] = {}
    if features is not None:
        rows = np.array([i for i, one in enumerate(seen) if one is not None], dtype=np.int64)
        doubts = _doubts(data.subset(rows), features, progress)
        accuracy = {name: suspects.balanced_accuracy for name, _, suspects in doubts}
        findings += wrong_labels(data, rows, doubts)
    findings.sort(key=lambda finding: not finding.flatters)
    sizes = Counter(size for size in shapes if size is not None)
    modes = Counter(
        _mode(image) for image, one in zip(data.images, seen, strict=True) if one is not None
    )
    return Check(data, tuple(findings), sizes, modes, accuracy)


def quick_check(support: LabelledImages, test: LabelledImages) -> list[Finding]:
    """What can be said of a support and a test set without an encoder, and soon.

    Unreadable and constant images, groups on both sides, and exact duplicates.
    """
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
    seen, errors, _ = _look(both.images, None, silent, near=False)
    prints = [None if one is None else one.print for one in seen]
    return [
        *shared_groups(both),
        *copies(both, exact_sets(prints), "exact"),
        *unreadable(errors),
        *constant(prints),
    ]


def _look(
    images: Sequence[ImageLike], encode: Encode | None, report: Progress, *, near: bool
) -> tuple[list[_Seen | None], dict[int, str], np.ndarray | None]:
    """One pass: what was seen of each image, why it could not be read, features of the others."""

    def look(image: Image.Image) -> _Seen:
        prepared = encode.prepare(image) if encode else None
        return _Seen(fingerprint(image, near=near), image.size, prepared)

    seen: list[_Seen | None] = []
    errors: dict[int, str] = {}
    batch: list[Any] = []
    features: list[np.ndarray] = []
    for row, one in enumerate(read_images(images, look)):
        if isinstance(one, InputError):
            errors[row] = str(one)
            seen.append(None)
        else:
            seen.append(replace(one, prepared=None))
            batch.append(one.prepared)
        if encode and batch and (len(batch) == _BATCH or row == len(images) - 1):
            features.append(encode.encode(batch))
            batch = []
        report("images", row + 1, len(images))
    return seen, errors, np.concatenate(features) if features else None


def _mode(image: ImageLike) -> str:
    if isinstance(image, np.ndarray):
        return f"array {image.dtype}"
    if isinstance(image, Image.Image):
        return image.mode
    try:
        with Image.open(image, formats=FORMATS) as opened:
            return opened.mode
    except Exception:  # read by another library than Pillow
        return Path(image).suffix.lstrip(".").upper() or "unknown"


def _doubts(
    data: LabelledImages, features: np.ndarray, report: Progress
) -> list[tuple[str, tuple[str, ...], Suspects]]:
    """Of the one choice of class, or of each label by itself: name, its values, suspects."""
    questions: list[tuple[str, tuple[str, ...], np.ndarray]] = [("all", data.classes, data.targets)]
    if data.task == "multilabel":
        questions = [
            (name, (f"no {name}", name), data.targets[:, c]) for c, name in enumerate(data.classes)
        ]
    doubts = []
    for name, values, targets in questions:
        what = "labels" if name == "all" else f"label {name}"
        found = find_suspects(features, targets, data.groups, partial(report, what))
        if found is not None:
            doubts.append((name, values, found))
    return doubts
