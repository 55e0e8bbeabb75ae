"""What lies below the first block that training changes, computed once for each view.

A frozen block gives the same tokens for the same view, whatever is trained above it. So the tokens
that enter the first changed block are computed once and kept, and every epoch goes on from them:
with ``partial-1`` eleven twelfths of ViT-B's forward pass are saved, with EPT in layers 9-12 two
thirds. It is exact, and knows no architecture: the encoder's own forward runs, up to that block in
:meth:`Prefix.encode`, and with the blocks below it passed over while it is :meth:`Prefix.resumed`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from medept.encoders import Encoder
from medept.errors import InputError
from medept.methods import AdaptedEncoder

logger = logging.getLogger(__name__)


class _Reached(Exception):  # noqa: N818, it is no error
    """The first changed block has been reached; what enters it is in ``tokens``."""

    def __init__(self, tokens: Tensor) -> None:
        super().__init__()
        self.tokens = tokens


class Prefix:
    """The encoder below block ``first``."""

    def __init__(self, encoder: Encoder, first: int) -> None:
        self.encoder = encoder
        self.below, self.block = encoder.blocks[:first], encoder.blocks[first]

    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) -> the tokens (B, T, D) that enter the block."""

        def stop(_: nn.Module, arguments: tuple[Any, ...]) -> None:
            raise _Reached(arguments[0])

        hook = self.block.register_forward_pre_hook(stop, prepend=True)
        try:
            self.encoder(pixels)
        except _Reached as reached:
            return reached.tokens
        finally:
            hook.remove()
        raise AssertionError("the encoder did not run its own block")

    @contextmanager
    def resumed(self) -> Iterator[Callable[[Tensor], Tensor]]:
        """While it is open the encoder goes on from tokens.

        Gives a function that takes tokens (B, T, D) and returns what to call the encoder with.
        """
        entering: list[Tensor] = []

        def feed(tokens: Tensor) -> Tensor:
            entering[:] = [tokens]
            return self.encoder.example().expand(len(tokens), -1, -1, -1)

        def enter(_: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
            return entering[0], *arguments[1:]

        with ExitStack() as stack:
            for block in self.below:
                block.forward = _pass_over
                stack.callback(delattr, block, "forward")
            stack.callback(self.block.register_forward_pre_hook(enter, prepend=True).remove)
            yield feed


def _pass_over(tokens: Tensor, *_: Any, **__: Any) -> Tensor:
    return tokens


@torch.no_grad()
def find_prefix(model: AdaptedEncoder) -> Prefix | None:
    """What can be computed once; None where training changes the first block, or what is below.

    It is tried on a black image; an encoder that it does not fit is run whole, and a line says so.
    """
    first = model.first_changed_block()
    if not first:
        return None
    encoder = model.encoder
    example = encoder.example()
    try:
        prefix = Prefix(encoder, first)
        expected, tokens = encoder(example), prefix.encode(example)
        with prefix.resumed() as feed:
            fits = torch.allclose(encoder(feed(tokens)), expected, atol=1e-3)
        if fits:
            return prefix
    except (InputError, RuntimeError, TypeError, ValueError):
        pass
    logger.info("the blocks of %s are not alike: it is run whole in every step", encoder.name)
    return None
