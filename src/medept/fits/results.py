"""The JSON files of a fit: ``metrics.json`` and ``check.json``, written and read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from medept.errors import DataError
from medept.evaluation.metrics import Evaluation
from medept.files import refuse_unreadable, write_text
from medept.fits import layout


def write_metrics(folder: Path, evaluation: Evaluation) -> None:
    """Write ``metrics.json``."""
    _write(folder / layout.METRICS, evaluation.to_dict())


def read_metrics(folder: Path) -> dict[str, Any] | None:
    """The content of ``metrics.json``; None if there is none, as without a test set.

    Raises:
        InputError: if the file is damaged.
    """
    file = folder / layout.METRICS
    if not file.exists():
        return None
    metrics = _read(file)
    _require(file, metrics, "ece", "groups", "by_class", "calibration")
    return metrics


def write_findings(folder: Path, findings: list[dict[str, Any]]) -> None:
    """Write ``check.json``.

    Args:
        findings: ``title``, ``advice`` and ``flatters`` of each.
    """
    _write(folder / layout.FINDINGS, findings)


def read_findings(folder: Path) -> list[dict[str, Any]] | None:
    """The content of ``check.json``; None if there is none, as without a data check.

    Raises:
        InputError: if the file is damaged.
    """
    file = folder / layout.FINDINGS
    if not file.exists():
        return None
    findings = _read(file)
    if not isinstance(findings, list):
        raise DataError(f"{file}: damaged (it holds no list); copy it again, or fit again")
    for finding in findings:
        _require(file, finding, "flatters")
    return findings


def _write(file: Path, content: Any) -> None:
    write_text(file, json.dumps(content, indent=2) + "\n")


def _read(file: Path) -> Any:
    refuse_unreadable(file)
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file}: damaged ({error}); copy it again, or fit again") from error


def _require(file: Path, content: Any, *keys: str) -> None:
    """Refuse content that is not an object with these keys."""
    if not isinstance(content, dict) or not content.keys() >= set(keys):
        raise DataError(
            f"{file}: damaged ({', '.join(keys)} expected in it); copy it again, or fit again"
        )
