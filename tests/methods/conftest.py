"""The encoder that tests of methods adapt."""

from __future__ import annotations

import pytest
from small_encoders import PREPROCESSING
from torch import nn

from medept.encoders.encoder import Encoder


@pytest.fixture
def encoder(tiny_vit: nn.Module) -> Encoder:
    return Encoder(tiny_vit, "tiny", PREPROCESSING)
