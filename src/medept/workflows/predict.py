"""Predict or embed any number of images, and write a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from medept.classifier.classifier import FewShotClassifier
from medept.data.images import readable_images
from medept.errors import DataError
from medept.files import whole_file, write_table
from medept.fits.tables import prediction_columns


def predict(
    classifier: FewShotClassifier,
    images: Sequence[Path],
    out: Path,
    *,
    skip_unreadable: bool = False,
) -> pd.DataFrame:
    """Probabilities of each image, written to the new table ``out``: .csv or .parquet.

    Args:
        skip_unreadable: leave out images that cannot be read, with a warning for each.

    Raises:
        InputError: if ``out`` has another suffix or exists, or an image that is not skipped, or
            every one, cannot be read.
    """
    refuse_output(out, "predictions", ".csv", ".parquet")
    if skip_unreadable:
        images = readable_images(images)
    probabilities = classifier.predict_proba(images)
    classes = tuple(classifier.info().classes)
    table = pd.DataFrame({"image": [str(image) for image in images]}).join(
        prediction_columns(probabilities, classes, classifier.task_)
    )
    write_table(out, table)
    return table


def embed(
    encode: Callable[[Sequence[Path]], np.ndarray], images: Sequence[Path], out: Path
) -> np.ndarray:
    """Features of each image, written to the new file ``out``.

    Args:
        encode: images to features (n, D): :meth:`medept.FewShotClassifier.embed`, say.
        images: n files.
        out: .npy (n, D), or .csv or .parquet with the images' names.

    Raises:
        InputError: if ``out`` has another suffix or exists.
    """
    refuse_output(out, "features", ".npy", ".csv", ".parquet")
    features = encode(images)
    if out.suffix == ".npy":
        with whole_file(out) as partial, partial.open("wb") as file:
            np.save(file, features)
    else:
        table = pd.DataFrame(features, columns=[f"f{i}" for i in range(features.shape[1])])
        table.insert(0, "image", [str(image) for image in images])
        write_table(out, table)
    return features


def refuse_output(out: Path, what: str, *suffixes: str) -> None:
    """Before anything is computed: a file of another kind, or one that is there already."""
    if out.suffix not in suffixes:
        raise DataError(f"{out}: {what} are written as {' or '.join(suffixes)}")
    if out.exists():
        raise DataError(f"{out}: exists already; name another or remove it")
