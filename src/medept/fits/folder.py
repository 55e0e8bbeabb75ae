"""What the folder of a fit holds, read back for its report."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medept.errors import DataError
from medept.evaluation.predictions import confidence, decide, indicators, is_correct
from medept.files import read_written
from medept.fits.adapter import AdapterInfo, read_info


@dataclass(frozen=True)
class Fit:
    """What a fit's folder holds.

    Attributes:
        info: of the adapter.
        metrics: the content of ``metrics.json``; None where there was no test set.
        names: of the n test images.
        groups: (n,) theirs; None where there are none.
        targets: (n,) class indices, or (n, C) of 0 and 1.
        probabilities: (n, C).
        support: one row a support image.
        support_targets: as ``targets``, of the support images.
        findings: of the data check; None where there was none.
        shape: of ``distribution.csv``, the row of the adapter; empty where there is none.
        history: the learning curve, a row an epoch; None for a method that has no epochs.
    """

    info: AdapterInfo
    metrics: dict[str, Any] | None
    names: list[str]
    groups: np.ndarray | None
    targets: np.ndarray
    probabilities: np.ndarray
    support: pd.DataFrame
    support_targets: np.ndarray
    findings: list[dict[str, Any]] | None
    shape: dict[str, Any]
    history: pd.DataFrame | None

    @property
    def multilabel(self) -> bool:
        """Whether an image has any number of labels."""
        return self.info.task == "multilabel"

    @property
    def truth(self) -> np.ndarray:
        """(n, C) of 0 and 1."""
        return indicators(self.targets, len(self.info.classes))

    @property
    def predicted(self) -> np.ndarray:
        """Predictions, in the form of ``targets``."""
        return decide(self.probabilities, self.info.task)

    @property
    def correct(self) -> np.ndarray:
        """(n,) whether an image is classified correctly; of labels, whether all are."""
        return is_correct(self.probabilities, self.targets)

    @property
    def confidence(self) -> np.ndarray:
        """(n,) the probability of the prediction; of labels, of the least certain one."""
        return confidence(self.probabilities, self.info.task)


def read_fit(folder: Path) -> Fit:
    """Read a folder that ``medept fit`` wrote.

    Raises:
        InputError: if a file is missing or damaged.
    """
    info = read_info(folder)
    support = _table(folder / "support.csv", "image", "label")
    parts: dict[str, Any] = {
        "info": info,
        "support": support,
        "support_targets": _targets(support["label"], info, folder / "support.csv"),
        "findings": _json(check, "flatters") if (check := folder / "check.json").exists() else None,
        "shape": _last_row(folder / "distribution.csv"),
        "history": _history(folder / "history.csv"),
    }
    if not (folder / "metrics.json").exists():
        nothing = np.zeros((0, len(info.classes)))
        targets = nothing if info.task == "multilabel" else np.zeros(0, dtype=np.int64)
        return Fit(
            **parts, metrics=None, names=[], groups=None, targets=targets, probabilities=nothing
        )
    columns = [f"p_{name}" for name in info.classes]
    file = folder / "predictions.csv"
    table = _table(file, "image", "label", *columns)
    try:
        probabilities = table[columns].to_numpy(dtype=np.float64)
    except ValueError as error:
        raise DataError(f"{file}: {error}; fit again") from error
    return Fit(
        **parts,
        metrics=_json(folder / "metrics.json", "ece", "groups", "by_class", "calibration"),
        names=table["image"].tolist(),
        groups=table["group"].to_numpy() if "group" in table else None,
        targets=_targets(table["label"], info, file),
        probabilities=probabilities,
    )


def _json(file: Path, *keys: str) -> Any:
    """An object that has these keys, or a list of such objects."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: damaged ({error}); fit again") from error
    for part in found if isinstance(found, list) else [found]:
        if not isinstance(part, dict) or not part.keys() >= set(keys):
            raise DataError(f"{file}: damaged (no {', '.join(keys)} in it); fit again")
    return found


def _table(file: Path, *columns: str) -> pd.DataFrame:
    """A CSV file that has these columns, every cell as text."""
    try:
        table = read_written(file)
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: missing or damaged ({error}); fit again") from error
    missing = [name for name in columns if name not in table]
    if missing:
        raise DataError(f"{file}: no column {', '.join(missing)}; fit again")
    return table


def _last_row(file: Path) -> dict[str, Any]:
    if not file.exists():
        return {}
    try:
        return {str(name): value for name, value in pd.read_csv(file).iloc[-1].items()}
    except (OSError, ValueError, IndexError) as error:
        raise DataError(f"{file}: damaged ({error}); fit again") from error


def _history(file: Path) -> pd.DataFrame | None:
    if not file.exists():
        return None
    table = _table(file, "trained", "loss")
    try:
        return table.astype({"loss": float})
    except ValueError as error:
        raise DataError(f"{file}: {error}; fit again") from error


def _targets(labels: Iterable[str], info: AdapterInfo, file: Path) -> np.ndarray:
    """Labels of a file of the fit."""
    place = {name: i for i, name in enumerate(info.classes)}
    rows = list(labels)
    targets = np.zeros((len(rows), len(info.classes)), dtype=np.int64)
    for row, text in enumerate(rows):
        for part in [text] if info.task == "multiclass" else filter(None, text.split("|")):
            if part not in place:
                raise DataError(
                    f"{file}: row {row + 2}: {part!r} is no class of the adapter; fit again"
                )
            targets[row, place[part]] = 1
    return targets if info.task == "multilabel" else targets.argmax(axis=1)
