"""The files of a benchmark: half-written and damaged ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from medept.benchmark.results import read_rows, write_results
from medept.errors import InputError


def test_what_a_kill_left_half_written_is_passed_over(finished: Path) -> None:
    count = len(read_rows(finished))
    (finished / "runs" / ".partial-0123.json").write_text('{"id": "01')
    assert len(write_results(finished)) == count == len(list((finished / "runs").glob("[!.]*")))
    for damaged in ('{"id": "01', "{}", "3"):
        (finished / "runs" / "0123.json").write_text(damaged)
        with pytest.raises(InputError, match="0123.json: damaged"):
            read_rows(finished)
