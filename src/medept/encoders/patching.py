"""Names that libraries give to the layers of an attention, and temporary changes of `forward`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

from torch import Tensor, nn

FUSED = ("qkv",)
"""Names of the layer that makes query, key and value at once."""


QUERY, KEY, VALUE = ("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value")
"""Names of the layers that make each by itself."""


OUTPUT = ("proj", "o_proj", "out_proj")
"""Names of the layer that projects what attention made."""


def replace_forward(module: nn.Module, forward: Callable[..., Tensor], stack: ExitStack) -> None:
    """Let ``module`` compute by ``forward`` until ``stack`` is closed."""
    before = vars(module).get("forward")
    module.forward = forward
    if before is None:
        stack.callback(delattr, module, "forward")
    else:
        stack.callback(setattr, module, "forward", before)
