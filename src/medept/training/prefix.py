"""What lies below the first thing that training changes, computed once for each view.

What is frozen gives the same numbers for the same view, whatever is trained above it. So the
tokens that enter the first changed block are computed once and kept, and every epoch goes on from
them: with ``partial-1`` eleven twelfths of ViT-B's forward pass are saved, with EPT in layers 9-12
two thirds. A prompt inside that block's softmax changes less still: the block's attention without
it is kept too, and the prompt's gate alone remains. It is exact, and knows no architecture: the
encoder's own forward runs, up to that point in :meth:`Prefix.encode`, and with what is below
passed over while it is :meth:`Prefix.resumed`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from medept.encoders.encoder import Encoder
from medept.encoders.equivalence import is_close, noise
from medept.encoders.patching import FUSED, KEY, QUERY, VALUE, replace_forward
from medept.ept.attention import attention_with_logsumexp
from medept.ept.prompts import EmbeddedPrompt
from medept.errors import InputError
from medept.methods import AdaptedEncoder

logger = logging.getLogger(__name__)


class _Reached(Exception):  # noqa: N818, it is no error
    """The first thing that changes has been reached; what goes into it is in ``state``."""

    def __init__(self, *state: Tensor) -> None:
        super().__init__()
        self.state = state


class Prefix:
    """The encoder below block ``first``, and of that block what its ``prompt`` leaves as it is.

    Its state is the tokens (B, T, D) that enter the block; with a prompt also the output
    (B, H, T, d) and logsumexp (B, H, T) of its attention without it. Of the last block that is the
    first token's row alone, where no other is read.
    """

    def __init__(self, encoder: Encoder, first: int, prompt: EmbeddedPrompt | None = None) -> None:
        self.encoder, self.prompt = encoder, prompt
        self.below, self.block = encoder.blocks[:first], encoder.blocks[first]
        self.attention = encoder.sites[first].module

    def encode(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Pixels (B, 3, H, W) -> the state."""
        entered: list[Tensor] = []

        def enter(_: nn.Module, arguments: tuple[Any, ...]) -> None:
            entered.append(arguments[0])
            if self.prompt is None:
                raise _Reached(*entered)

        def attend(*args: Any, dropout_p: float = 0.0, **kwargs: Any) -> Tensor:
            raise _Reached(*entered, *attention_with_logsumexp(*args, **kwargs))

        with ExitStack() as stack:
            stack.callback(self.block.register_forward_pre_hook(enter, prepend=True).remove)
            if self.prompt is not None:
                replace_forward(self.prompt, attend, stack)
            try:
                self.encoder(pixels)
            except _Reached as reached:
                return reached.state
        raise RuntimeError("the encoder did not run its own block")

    @contextmanager
    def resumed(
        self, blank: Tensor | None = None
    ) -> Iterator[Callable[[Sequence[Tensor]], Tensor]]:
        """While it is open the encoder goes on from a state.

        Gives a function that takes a state and returns what to call the encoder with: one image,
        of which nothing goes beyond the patch embedding, and that is computed once.

        Args:
            blank: that image (1, 3, H, W); a black one by default.
        """
        state: list[Tensor] = []
        blank = self.encoder.example() if blank is None else blank

        def feed(given: Sequence[Tensor]) -> Tensor:
            state[:] = given
            return blank

        def enter(_: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
            return state[0], *arguments[1:]

        def attend(_: Tensor, key: Tensor, *__: Any, **___: Any) -> Tensor:
            assert self.prompt is not None
            _tokens, attended, logsumexp = state
            return self.prompt.gate(attended, logsumexp, key.shape[-2])

        with ExitStack() as stack:
            for block in self.below:
                replace_forward(block, _pass_over, stack)
            for module in self.encoder.modules():
                if isinstance(module, nn.Conv2d):
                    replace_forward(module, _known(module.forward, blank), stack)
            stack.callback(self.block.register_forward_pre_hook(enter, prepend=True).remove)
            if self.prompt is not None:
                replace_forward(self.prompt, attend, stack)
                for projection in _projections(self.attention):
                    replace_forward(projection, _blank(projection.out_features), stack)
            yield feed


def _pass_over(tokens: Tensor, *_: Any, **__: Any) -> Tensor:
    return tokens


def _known(forward: Callable[[Tensor], Tensor], blank: Tensor) -> Callable[[Tensor], Tensor]:
    """``forward``, which computes what it makes of ``blank`` once."""
    found: list[Tensor] = []

    def remembered(pixels: Tensor) -> Tensor:
        if pixels is not blank:
            return forward(pixels)
        if not found:
            with torch.inference_mode(False), torch.no_grad():
                found.append(forward(pixels))
        return found[0]

    return remembered


def _projections(attention: nn.Module) -> list[nn.Linear]:
    """The layers that make queries, keys and values alone, by the names that libraries use."""
    names = (*FUSED, *QUERY, *KEY, *VALUE)
    children = attention.named_children()
    return [m for name, m in children if name in names and isinstance(m, nn.Linear)]


def _blank(width: int) -> Callable[[Tensor], Tensor]:
    """Stands in for a projection whose output is not read: one zero, in every place."""
    return lambda tokens: tokens.new_zeros(()).expand(*tokens.shape[:-1], width)


@torch.no_grad()
def find_prefix(model: AdaptedEncoder) -> Prefix | None:
    """What can be computed once; None where training changes the first block, or what is below.

    It is tried on noise, and gone on from with two different images in its place, of which nothing
    may be seen; an encoder that it does not fit is run whole, and a line says so.
    """
    first, prompt = model.first_changed_block(), model.first_changed_prompt()
    if not first and prompt is None:
        return None
    encoder = model.encoder
    black = encoder.example()
    pixels = noise(2, black)
    try:
        prefix = Prefix(encoder, first, prompt)
        expected, state, found = encoder(pixels), prefix.encode(pixels), []
        for blank in (black, pixels[:1]):
            with prefix.resumed(blank) as feed:
                found.append(encoder(feed(state)))
        if torch.equal(*found) and is_close(found[0], expected, pixels):
            return prefix
    except (AttributeError, IndexError, InputError, RuntimeError, TypeError, ValueError):
        pass
    logger.info("the blocks of %s are not alike: it is run whole in every step", encoder.name)
    return None
