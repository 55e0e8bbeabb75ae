"""The scripts of ``benchmarks/`` run, and print what they say they print."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from helpers import ROOT

SCRIPTS = ROOT / "benchmarks"


def printed(script: str, *options: str) -> dict:
    command = [sys.executable, str(SCRIPTS / script), "--quick", "--json", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.long
@pytest.mark.parametrize("script", ["attention.py", "train_step.py"])
def test_ways_stand_side_by_side(script: str) -> None:
    found = printed(script)
    assert found["machine"]["threads"] > 0
    assert len(found["rows"]) > 3


@pytest.mark.slow
def test_fine_tuning_has_its_ratios() -> None:
    """And what is known beforehand, by a wide margin: features that are kept save an epoch's
    encoding, and what lies below a first block's softmax takes less than the whole encoder."""
    found = printed("fine_tuning.py", "--float32")
    ratios = found["ratios"]
    assert set(ratios) == {
        "ept_deep_vs_formula",
        "ept_9_12_vs_formula",
        "linear_cached_vs_uncached",
    }
    assert ratios["linear_cached_vs_uncached"] > 5
    assert found["precision"] == "float32"
    assert isinstance(found["bf16_fast"], bool)
    encoded = {row["way"]: row["encode (s)"] for row in found["rows"]}
    assert encoded["medept, EPT"] < encoded["medept, linear"]
