"""Temporary changes of a module's ``forward``, and names that libraries give to its parts."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from threading import RLock

from torch import Tensor, nn

CHANGING_MODULES = RLock()
"""Held while modules compute by other code than their own: threads take turns."""

FUSED = ("qkv",)
"""Names of an attention's layer that makes query, key and value at once."""

QUERY, KEY, VALUE = ("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value")
"""Names of the layers that make each of them separately."""

OUTPUT = ("proj", "o_proj", "out_proj")
"""Names of the layer that projects the result."""


def replace_forward(module: nn.Module, forward: Callable[..., Tensor], stack: ExitStack) -> None:
    """Let ``module`` compute by ``forward`` until ``stack`` is closed.

    >>> import torch
    >>> layer = nn.Identity()
    >>> with ExitStack() as stack:
    ...     replace_forward(layer, lambda x: 2 * x, stack)
    ...     layer(torch.ones(1))
    tensor([2.])
    >>> layer(torch.ones(1))
    tensor([1.])
    """
    before = vars(module).get("forward")
    module.forward = forward
    if before is None:
        stack.callback(delattr, module, "forward")
    else:
        stack.callback(setattr, module, "forward", before)
