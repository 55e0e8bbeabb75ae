"""``torch.compile``, where it saves more of a fit than its warm-up takes.

It fuses what lies between matrix products and attention, which stay the kernels that they are: on
a CPU a few hundredths of a step. The blocks of an encoder are alike, and are compiled once for all
of them. Whether that pays is estimated from the seconds of a fit's first epoch, in which nothing is
compiled; its checkpoint has them, so that a fit that was killed goes on as it would have. The
variable ``TORCHDYNAMO_DISABLE=1`` turns it off.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from medept.encoders.encoder import Encoder
from medept.encoders.patching import replace_forward
from medept.errors import InputError
from medept.training.device import precision_of

if TYPE_CHECKING:
    from accelerate import Accelerator

logger = logging.getLogger(__name__)

CACHE = "TORCHINDUCTOR_CACHE_DIR"
"""The variable that says where compiled code is kept."""

WARM_UP = 20.0
"""Seconds that the compiler takes, where it finds nothing of an earlier fit."""

SAVED = {("cpu", "bfloat16"): 0.04, ("cpu", "float32"): 0.02}
"""The part of a step that is saved, by device and precision: measured (``benchmarks/compiled.py``),
ViT-Ti to ViT-B. Others have not been, and nothing is compiled there."""


def pays(seconds: float, accelerator: Accelerator) -> bool:
    """Whether compiling saves more than it costs, of so many seconds of training."""
    saved = SAVED.get((accelerator.device.type, precision_of(accelerator)), 0.0)
    return saved * seconds > WARM_UP


@contextmanager
def compiled(encoder: Encoder) -> Iterator[None]:
    """While it is open the blocks run compiled, for tokens of the shape that they are first given.

    Of the last block less is computed than its own forward would (:mod:`medept.encoders.class_token`): it
    runs as it is, and so do blocks that are passed over, and all where they differ (Swin) or
    cannot be compiled. What the compiler makes is kept in the user's own cache: PyTorch would look
    for it in the system's temporary folder, under a name that is known and anyone could have made.
    """
    with ExitStack() as stack:
        if CACHE not in os.environ:
            os.environ[CACHE] = str(Path(torch.hub.get_dir()).parent / "inductor")
            stack.callback(os.environ.pop, CACHE, None)
        blocks = _alike(encoder)
        if blocks and (why := _why_not()):
            logger.info("training is long, but the encoder's blocks are not compiled: %s", why)
        elif blocks:
            logger.info("training is long: the encoder's blocks are compiled")
            for block in blocks:
                replace_forward(block, _compiled(block.forward), stack)
        yield


def _alike(encoder: Encoder) -> list[nn.Module]:
    """The blocks that run as their own forward says, where all see as many tokens and heads."""
    try:
        blocks = encoder.blocks[:-1]
    except InputError:
        return []
    alike = len({(site.tokens, site.heads) for site in encoder.sites}) == 1
    return [block for block in blocks if alike and "forward" not in vars(block)]


def _compiled(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """``forward``, compiled for the shape of the first tokens; others are smaller batches.

    Where that fails it runs as it is, from then on.
    """
    fast, shapes = torch.compile(forward, dynamic=False), list[torch.Size]()

    def run(*args: Any, **kwargs: Any) -> Tensor:
        nonlocal fast
        tokens = next(x for x in (*args, *kwargs.values()) if isinstance(x, Tensor))
        if not shapes:
            shapes.append(tokens.shape)
        if tokens.shape == shapes[0]:
            try:
                return fast(*args, **kwargs)
            except Exception as error:  # if it is no fault of the compiler's, it comes again
                logger.debug("not compiled: %s", error)
                fast = forward
        return forward(*args, **kwargs)

    return run


def _why_not() -> str:
    """What is missing for it; empty where a small function could be compiled."""
    try:
        probe = torch.compile(lambda x: x + torch.compiler.is_compiling(), dynamic=False)
        return "" if probe(torch.zeros(8)).all() else "torch.compile is turned off"
    except Exception as error:  # of whatever part of it: nothing depends on it
        return str(error).strip().partition("\n")[0] or type(error).__name__
