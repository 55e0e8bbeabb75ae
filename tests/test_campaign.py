"""The short form of the campaign in ``benchmarks/campaign``: its scripts work, and find nothing."""

from __future__ import annotations

import importlib
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="memory is measured by Linux's /proc"
)


@pytest.fixture
def fuzz(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks" / "campaign"))
    return importlib.import_module("fuzz")


@pytest.mark.parametrize(
    "name", ["tables", "cases", "lists", "images", "dicom", "series", "nifti", "suites"]
)
def test_damaged_files_are_read_or_refused(fuzz: Any, name: str, tmp_path: Path) -> None:
    for extra in ("pillow_heif", "pydicom", "python_calamine"):
        pytest.importorskip(extra)

    def hang(*_: object) -> None:
        raise fuzz.HangError

    signal.signal(signal.SIGPROF, hang)
    kind = fuzz.kinds(tmp_path / "fits")[name]
    seeds = kind.seeds()
    kind.prepare(tmp_path)
    found = [fuzz.one(kind, seeds, number, tmp_path, name) for number in range(40)]
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    assert {one["outcome"] for one in found} <= {"read", "refused"}, found
    again = fuzz.one(kind, seeds, 0, tmp_path, name)
    assert again == found[0], "an input is the same in every run"


def test_what_is_no_error_of_ours_is_a_finding(fuzz: Any, tmp_path: Path) -> None:
    def fail(_: Path) -> None:
        raise KeyError("x")

    kind = fuzz.Kind(1, lambda: [fuzz.Seed("x", b"abc")], fail)
    found = fuzz.one(kind, kind.seeds(), 0, tmp_path, "x")
    assert (found["outcome"], found["key"].split()[0]) == ("crash", "KeyError")
