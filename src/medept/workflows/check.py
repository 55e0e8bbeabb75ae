"""Look through a data set before anything is fitted to it."""

from __future__ import annotations

from medept.checks.check import Check
from medept.checks.check import check as look_through
from medept.data.table import LabelledImages
from medept.progress import Progress, silent
from medept.training.extractor import FeatureExtractor


def check(data: LabelledImages, *, device: str = "auto", progress: Progress = silent) -> Check:
    """Look through a data set; wrong labels are looked for by the embedded encoder's features."""
    return look_through(
        data, FeatureExtractor.load(device=device, precision="float32"), progress=progress
    )
