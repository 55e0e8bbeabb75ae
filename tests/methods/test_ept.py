"""Embedded prompts as a method."""

from __future__ import annotations

import pytest

from medept import InputError
from medept.encoders.encoder import Encoder
from medept.methods import adapt


def test_prompts_are_not_put_where_there_are_some(encoder: Encoder) -> None:
    model = adapt(encoder, "ept", 2)
    with pytest.raises(InputError, match="already holds prompts"):
        adapt(encoder, "ept", 3)
    model.remove()
    adapt(encoder, "ept", 3)
