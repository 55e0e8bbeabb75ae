"""Look through a data set before anything is fitted to it."""

from __future__ import annotations

from medept.checks.check import CheckResult, check_dataset
from medept.data.labelled_images import LabelledImages
from medept.progress import Progress, silent
from medept.training.extractor import FeatureExtractor


def check(
    data: LabelledImages, *, device: str = "auto", progress: Progress = silent
) -> CheckResult:
    """Check a data set; its labels by features of the embedded encoder."""
    extractor = FeatureExtractor.load(device=device, precision="float32")
    return check_dataset(data, extractor, progress=progress)
