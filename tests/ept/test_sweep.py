"""The short form of ``benchmarks/sweep_attach.py``: a few families of timm, and open_clip's."""

from __future__ import annotations

import importlib.util

import pytest
from helpers import ROOT

_spec = importlib.util.spec_from_file_location("sweep", ROOT / "benchmarks" / "sweep_attach.py")
assert _spec is not None
assert _spec.loader is not None
sweep = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(sweep)

TIMM = [
    ("test_vit", "equal", "2 of 2 prompted"),
    ("test_coatnet", "equal", "4 of 4 prompted"),
    ("cpubone_nano", "equal", "3 of 3 prompted"),
    ("eva02_tiny_patch14_224", "equal", "2 of 2 prompted"),
    ("flexivit_small", "equal", "2 of 2 prompted"),
    ("pvt_v2_b0", "equal", "2 of 8 prompted; 6 with fewer keys than queries"),
    ("xcit_nano_12_p16_224", "refused", "2 with attention over channels"),
    ("cait_xxs24_224", "refused", "2 with its own softmax"),
]


@pytest.mark.parametrize(("name", "result", "note"), TIMM)
def test_equal_or_refused_in_words(name: str, result: str, note: str) -> None:
    found = sweep.compare(sweep.shallow(name), None)
    assert found[0] == result
    assert found[1].startswith(note)


@pytest.mark.parametrize("name", ["ViT", "ViT, attentional pool", "ResNet"])
def test_towers_of_open_clip(name: str) -> None:
    pytest.importorskip("open_clip")
    make = next(make for library, model, make in sweep.open_clip_cases() if model == name)
    assert sweep.compare(*make())[0] == "equal"
