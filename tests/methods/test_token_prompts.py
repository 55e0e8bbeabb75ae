"""How prompts on tokens start."""

from __future__ import annotations

import pytest
import torch

from medept.encoders.encoder import Encoder
from medept.methods import adapt


@pytest.mark.parametrize("name", ["vpt", "vp"])
def test_prompts_of_tokens_start_as_jia_et_al_have_it(encoder: Encoder, name: str) -> None:
    """Uniform within sqrt(6 / (3 p^2 + D)): p = 8, D = 48."""
    bound = (6 / (3 * 8**2 + 48)) ** 0.5
    values = torch.cat([p.detach().flatten() for p in adapt(encoder, name, 3).prompts])
    assert values.abs().max() <= bound
    assert float(values.std()) == pytest.approx(bound / 3**0.5, rel=0.1)
    for init, deviation in (("normal", 0.02), ("zeros", 0)):
        prompts = adapt(encoder, name, 3, {"init": init}).prompts
        values = torch.cat([p.detach().flatten() for p in prompts])
        assert float(values.std()) == pytest.approx(deviation, rel=0.1)
