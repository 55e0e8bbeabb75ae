"""Shortcuts through an encoder: which there are, in what order they apply, how they are verified.

Each gives the features of the encoder's own forward pass, up to rounding. In this order:

1. **Weights in bfloat16** (:meth:`~medept.encoders.encoder.Encoder.cast_to_bfloat16`): matrices are
   stored in the type that autocast would cast them to in every pass. This happens once, before a
   method puts anything into the encoder; the others are verified in what it then computes in.
2. **Prefix** (:mod:`medept.training.prefix`): while a method is trained, blocks below the first one
   that changes are passed over. Where a prompt's gate is all that changes in that block, neither
   are its queries, keys and values computed: these projections are the encoder's
   :attr:`~medept.encoders.encoder.Encoder.unread` while the prefix is in use.
3. **Class token** (:mod:`medept.encoders.class_token`): in each forward pass, the last block
   computes its class token alone. It wraps whatever is in place when the pass begins, the prefix's
   substitutes included, and leaves ``unread`` projections as they are.

Both 2 and 3 know no architecture. They are verified on noise before they are used, and an encoder
whose form they do not suit runs without them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from medept.errors import is_out_of_memory

T = TypeVar("T")


def if_suited(find: Callable[[], T | None]) -> T | None:
    """The shortcut that ``find`` verifies; None if the encoder's form makes it fail.

    Raises:
        RuntimeError: if memory runs out or an accelerator fails, which says nothing about the
            encoder.

    >>> if_suited(lambda: "a shortcut")
    'a shortcut'
    >>> if_suited(lambda: torch.zeros(2) @ torch.zeros(3)) is None
    True
    """
    try:
        return find()
    except (AttributeError, IndexError, TypeError, ValueError):
        return None
    except RuntimeError as error:  # PyTorch's error for shapes that do not fit
        if is_out_of_memory(error) or isinstance(error, torch.AcceleratorError):
            raise
        return None


def noise(images: int, like: Tensor) -> Tensor:
    """Pixels (images, 3, H, W), the same in every call, of ``like``'s size, type and device."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn((images, *like.shape[1:]), generator=generator).to(like)


def is_close(found: Tensor, expected: Tensor, pixels: Tensor) -> bool:
    """Whether two results differ by rounding alone.

    The type that rounds is that of ``pixels``, or autocast's where it is enabled.
    """
    device = pixels.device.type
    lower = torch.is_autocast_enabled(device)
    computed = torch.get_autocast_dtype(device) if lower else pixels.dtype
    error = (found - expected).norm()
    return bool(error <= torch.finfo(computed).eps ** 0.75 * expected.norm())
