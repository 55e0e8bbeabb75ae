"""What labelling needs of an encoder: features of the pool, suggestions, a quick classifier."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath

import numpy as np
import pandas as pd

from medept.data.columns import find_columns
from medept.data.dataset import read_dataset
from medept.data.exports.journal import is_form
from medept.data.image_paths import read_image_names
from medept.data.table import read_table
from medept.data.targets import read_targets
from medept.errors import DataError
from medept.files import read_csv, write_table, write_text
from medept.labelling.curve import FitPredict
from medept.labelling.feature_cache import FeatureCache
from medept.labelling.pool import Pool
from medept.labelling.store import LabelStore, Subject
from medept.labelling.suggest import UNLABELLED, UNSURE, suggest
from medept.methods.ridge import Ridge
from medept.training.extractor import FeatureExtractor
from medept.training.inference import logits_of_features
from medept.workflows.predict import refuse_output


def pool_features(pool: Pool, folder: Path, extractor: FeatureExtractor) -> FeatureCache:
    """The features of a pool, which are kept in ``folder``; none is computed yet."""
    identity = json.dumps([extractor.identity(), str(extractor.encoder.readout)], default=str)
    return FeatureCache(pool, folder, identity, extractor.features)


def quick_classifier(extractor: FeatureExtractor) -> FitPredict:
    """Ridge regression on features that are there: it learns in a fraction of a second."""

    def fit_predict(features: np.ndarray, targets: np.ndarray, new: np.ndarray) -> np.ndarray:
        present, own = np.unique(targets, return_inverse=True)
        if len(present) < 2:
            return np.full(len(new), present[0])
        model = Ridge(extractor.encoder, len(present), Ridge.Settings())
        model.fit_features(features.astype(np.float32), own, None)
        return present[logits_of_features(model, new.astype(np.float32)).argmax(axis=1)]

    return fit_predict


def suggest_from(
    pool: Pool,
    cache: FeatureCache,
    answers: Mapping[str, str | None],
    count: int,
    *,
    strategy: str = "auto",
    seed: int = 0,
) -> list[int]:
    """Rows of the pool to label next, among those whose features are known.

    Args:
        answers: by name: the label, or None for "not sure".
        count: how many, at most.

    Raises:
        InputError: if the strategy is not known or needs labels.
    """
    classes = sorted({label for label in answers.values() if label is not None})
    labels = np.full(len(pool), UNLABELLED)
    for name, label in answers.items():
        if name in pool.rows:
            labels[pool.rows[name]] = UNSURE if label is None else classes.index(label)
    known = cache.rows
    rows = suggest(cache.features(), labels[known], count, strategy=strategy, seed=seed)
    return known[rows].tolist()


def read_answers(pool: Pool, file: Path) -> dict[str, str | None]:
    """What a table of labels says of the images of a pool, by name.

    Args:
        file: a journal of labels, or a table or folder as for ``medept fit``.

    Raises:
        DataError: if it cannot be read, or names no image of the pool.
    """
    if file.suffix.lower() != ".csv" or not is_form(read_csv(file)):
        return {**import_labels(pool, file)}
    store = LabelStore(file)
    found = dict.fromkeys(store.seen()) | store.agreed()
    known = {name: label for name, label in found.items() if name in pool.rows}
    if not known:
        raise DataError(f"{file}: it names no image of {pool.source}; check the paths in it")
    return known


def import_labels(pool: Pool, file: Path) -> dict[str, str]:
    """The labels of a table, an export of an annotation tool, or a folder of classes, by name.

    An image is found by its path or the end of it, else by its name if no other image has that.

    Raises:
        DataError: if it cannot be read, an image has several labels, or none is of the pool.
    """
    if file.is_dir():
        data = read_dataset(file)
        names, targets, classes = list(data.names), data.targets, data.classes
    else:
        table = read_table(file)
        columns = find_columns(table)
        names = list(read_image_names(table, columns.image, columns.frame).values())
        targets, classes = read_targets(table, columns.labels, None, None)
    if targets.ndim == 2:
        raise DataError(f"{file}: its images have several labels each; give one label an image")
    labels = {name: classes[target] for name, target in zip(names, targets, strict=True)}
    found = match_names(pool, labels)
    if not found:
        raise DataError(f"{file}: it names no image of {pool.source}; check the paths in it")
    return found


def match_names(pool: Pool, labels: Mapping[str, str]) -> dict[str, str]:
    """The labels by the names of the pool; those of other images are left out.

    >>> from medept.labelling.store import Subject
    >>> pool = Pool(Path("."), ("a/1.png",), (Subject("a/1.png", ("a/1.png",)),))
    >>> match_names(pool, {"benign/1.png": "benign", "2.png": "malignant"})
    {'a/1.png': 'benign'}
    """
    by_name: dict[str, list[str]] = {}
    of_image: dict[str, str] = {}
    for subject in pool.subjects:
        for image in {subject.name, *subject.images}:
            of_image[image] = subject.name
            by_name.setdefault(PurePath(image).name, []).append(subject.name)
    found = {}
    for name, label in labels.items():
        parts = PurePath(name.replace("\\", "/")).parts
        ends = ["/".join(parts[k:]) for k in range(len(parts))]
        alike = by_name.get(parts[-1], []) if parts else []
        same = [of_image[end] for end in (name, *ends) if end in of_image]
        if same or len(alike) == 1:
            found[(same or alike)[0]] = label
    return found


def write_labels(pool: Pool, labels: Mapping[str, str], out: Path) -> None:
    """Write labels to hand on: a table for ``medept fit`` (.csv), or tasks of Label Studio (.json).

    Paths are relative to the folder of the pool; in a table in a folder above it, to that of the
    table, so that ``medept fit`` finds them without ``image_root=``. Of a case each image has a row
    or a task.

    Args:
        labels: by name; those that readers agree on, say.

    Raises:
        InputError: if ``out`` has another suffix or exists, or nothing has a label.
    """
    refuse_output(out, "labels", ".csv", ".json")
    rows = [subject for subject in pool.subjects if subject.name in labels]
    if not rows:
        raise DataError("no image has a label yet; label some")
    if out.suffix == ".csv":
        table = _image_rows(pool, rows, out)
        table["label"] = [labels[s.name] for s in rows for _ in s.images]
        write_table(out, table)
        return
    tasks = [
        {
            "data": {"image": image},
            "annotations": [
                {
                    "result": [
                        {
                            "type": "choices",
                            "from_name": "label",
                            "to_name": "image",
                            "value": {"choices": [labels[subject.name]]},
                        }
                    ]
                }
            ],
        }
        for subject in rows
        for image in subject.images
    ]
    write_text(out, json.dumps(tasks, indent=1, ensure_ascii=False) + "\n")


def write_suggestions(pool: Pool, rows: Sequence[int], out: Path) -> pd.DataFrame:
    """Write the images to label next to the new table ``out``, with an empty column ``label``.

    Paths are those of :func:`write_labels`. Cases have a row for each image.

    Raises:
        InputError: if ``out`` exists, or is no .csv.
    """
    refuse_output(out, "suggestions", ".csv")
    table = _image_rows(pool, [pool.subjects[row] for row in rows], out).assign(label="")
    write_table(out, table)
    return table


def _image_rows(pool: Pool, subjects: Sequence[Subject], out: Path) -> pd.DataFrame:
    """Columns ``image``, and ``case`` and ``group`` where there are any: a row for each image."""
    folder = (pool.source if pool.source.is_dir() else pool.source.parent).resolve()
    place = out.parent.resolve()
    before = folder.relative_to(place) if folder.is_relative_to(place) else Path()
    table = pd.DataFrame(
        [
            ((before / image).as_posix(), subject.case, subject.group)
            for subject in subjects
            for image in subject.images
        ],
        columns=["image", "case", "group"],
    )
    return table.drop(columns=[name for name in ("case", "group") if not table[name].any()])
