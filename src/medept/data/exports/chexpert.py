"""The tables of CheXpert and MIMIC-CXR-JPG: 14 columns of 1, 0, -1 and nothing."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pandas as pd

from medept.data.exports.label_cells import cell_text, join_labels
from medept.errors import DataError

LABELS = ("No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion",
          "Edema", "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion",
          "Pleural Other", "Fracture", "Support Devices")  # fmt: skip

_VALUES = {"1": 1, "1.0": 1, "0": 0, "0.0": 0, "-1": -1, "-1.0": -1, "": None, "nan": None}


def is_form(table: pd.DataFrame) -> bool:
    """Whether a table has the 14 columns."""
    return set(LABELS) <= set(table.columns) and "label" not in table.columns


def convert(path: Path, table: pd.DataFrame) -> pd.DataFrame:
    """The table with a column ``label``, and ``patient`` if paths name patients and no column does.

    Images of MIMIC-CXR-JPG are found by its ids of subjects, studies and images. Only 1 is taken
    for the label. Empty cells mean that a report does not mention it, and -1 that it is uncertain;
    both are read as 0, the baseline U-Zeros of Irvin et al. 2019.

    Raises:
        DataError: if a cell holds anything else.

    Warns:
        UserWarning: with the numbers of empty and uncertain cells.
    """
    table = _with_images(path, table)
    labels: list[list[str]] = [[] for _ in range(len(table))]
    empty = uncertain = 0
    for name in LABELS:
        for i, (row, cell) in enumerate(table[name].items()):
            text = cell_text(cell).lower()
            if text not in _VALUES:
                raise DataError(f"{path}, row {row}: {text!r} in column {name!r}; write 1, 0 or -1")
            empty, uncertain = empty + (_VALUES[text] is None), uncertain + (_VALUES[text] == -1)
            if _VALUES[text] == 1:
                labels[i].append(name)
    if empty or uncertain:
        warnings.warn(
            f"{path}: in CheXpert's columns, {uncertain} cells of -1 (uncertain) and {empty} empty "
            "cells (not mentioned) are read as 0; to read them otherwise, write 1 into them, or "
            "remove their rows",
            stacklevel=5,
        )
    table = table.assign(label=join_labels(labels, several=True))
    plain = {re.sub(r"[\s_]", "", str(name)).lower() for name in table.columns}
    if "Path" in table.columns and not plain & {"patient", "patientid", "subjectid", "group"}:
        patients = table["Path"].astype(str).str.extract(r"\b(patient[0-9]+)\b", expand=False)
        if patients.notna().all():
            table = table.assign(patient=patients)
    return table


def _with_images(path: Path, table: pd.DataFrame) -> pd.DataFrame:
    """The table of MIMIC-CXR-JPG with a column ``image``; others as they are.

    Raises:
        DataError: if it has a row for each study, and does not say which images are in it.
    """
    if not {"subject_id", "study_id"} <= set(table.columns) or "image" in table.columns:
        return table
    if "dicom_id" not in table.columns:
        if {"path", "Path", "file", "filename"} & set(table.columns):
            return table
        raise DataError(
            f"{path}: a row for each study of MIMIC-CXR, without its images; join it with "
            "mimic-cxr-2.0.0-metadata.csv by study_id, so that each row has a dicom_id"
        )
    subjects, studies, names = (
        table[name].map(lambda cell: re.sub(r"\.0$", "", cell_text(cell)))
        for name in ("subject_id", "study_id", "dicom_id")
    )
    parts = zip(subjects, studies, names, strict=True)
    return table.assign(
        image=[f"files/p{one[:2]}/p{one}/s{study}/{name}.jpg" for one, study, name in parts]
    )
