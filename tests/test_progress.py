"""Durations in words."""

from __future__ import annotations

import pytest

from medept.progress import duration


@pytest.mark.parametrize(("number", "text"), [(40, "40 s"), (180, "3 min"), (9000, "2.5 h")])
def test_durations_are_said_shortly(number: float, text: str) -> None:
    assert duration(number) == text
