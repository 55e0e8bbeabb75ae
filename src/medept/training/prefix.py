"""What lies below the first thing that training changes is computed once for each view.

Frozen blocks give the same numbers for the same view in every epoch. So the tokens that enter the
first block that changes are computed once, and every epoch resumes from them: ``partial-1`` saves
eleven twelfths of ViT-B's forward pass, EPT in layers 9-12 two thirds. A prompt inside that block's
softmax changes even less: the block's attention without the prompt is computed once too, and the
prompt's gate alone remains.

The result is exact, for any architecture: the encoder's own forward pass runs, up to that point in
:meth:`Prefix.encode`, and with what is below passed over while :meth:`Prefix.resumed` is open.
:mod:`medept.encoders.shortcuts` says how this goes with other shortcuts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from medept.encoders.encoder import Encoder
from medept.encoders.patching import FUSED, KEY, QUERY, VALUE, replace_forward
from medept.encoders.shortcuts import if_suited, is_close, noise
from medept.ept.attention import attention_with_logsumexp
from medept.ept.prompts import EmbeddedPrompt
from medept.methods import AdaptedEncoder
from medept.training.cache import Activations

logger = logging.getLogger(__name__)


class _Reached(Exception):  # noqa: N818 (it ends a forward pass, and is no error)
    """The forward pass has reached the first thing that changes."""

    def __init__(self, *activations: Tensor) -> None:
        super().__init__()
        self.activations = activations


class Prefix:
    """The encoder below block ``first``, and what a ``prompt`` in that block leaves as it is.

    Its activations are the tokens (B, T, D) that enter the block; with a prompt also the output
    (B, H, T, d) and the logsumexp (B, H, T) of the block's attention without it (of the last block
    the first row alone, if no other is read).

    Args:
        encoder: with the method in place.
        first: the block, counted from 0.
        prompt: the prompt in that block, if its gate is all that changes there.
    """

    def __init__(self, encoder: Encoder, first: int, prompt: EmbeddedPrompt | None = None) -> None:
        self.encoder, self.prompt = encoder, prompt
        self.below, self.block = encoder.blocks[:first], encoder.blocks[first]
        self.attention = encoder.sites[first].module
        self._activations: Activations = ()
        self._placeholder = encoder.example()

    def encode(self, pixels: Tensor) -> Activations:
        """Pixels (B, 3, H, W) -> activations: the forward pass up to what changes."""
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
                return reached.activations
        raise RuntimeError("the encoder did not run its own block")

    @contextmanager
    def resumed(self, placeholder: Tensor | None = None) -> Iterator[None]:
        """While it is open, the encoder resumes from activations that are given to :meth:`feed`.

        Args:
            placeholder: the image (1, 3, H, W) that the encoder is then called with, a black one
                by default. It passes through the patch embedding alone, once, and is not read.
        """
        self._placeholder = self.encoder.example() if placeholder is None else placeholder
        with ExitStack() as stack:
            for block in self.below:
                replace_forward(block, _pass_over, stack)
            for module in self.encoder.modules():
                if isinstance(module, nn.Conv2d):
                    once = _once_for(self._placeholder, module.forward)
                    replace_forward(module, once, stack)
            stack.callback(self.block.register_forward_pre_hook(self._enter, prepend=True).remove)
            if self.prompt is not None:
                replace_forward(self.prompt, self._gate, stack)
                unread = _projections(self.attention)
                for projection in unread:
                    replace_forward(projection, _zeros(projection.out_features), stack)
                stack.callback(setattr, self.encoder, "unread", self.encoder.unread)
                self.encoder.unread = unread
            yield

    def feed(self, activations: Activations) -> Tensor:
        """Let the encoder resume from these; returns the placeholder to call it with."""
        self._activations = activations
        return self._placeholder

    def _enter(self, _: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        """What goes into the block, in place of what the placeholder came to."""
        return self._activations[0], *arguments[1:]

    def _gate(self, _: Tensor, key: Tensor, *__: Any, **___: Any) -> Tensor:
        """What attention gives, in place of the prompt's whole forward."""
        assert self.prompt is not None
        _tokens, attended, logsumexp = self._activations
        return self.prompt.gate(attended, logsumexp, key.shape[-2])


def _pass_over(tokens: Tensor, *_: Any, **__: Any) -> Tensor:
    return tokens


def _once_for(
    placeholder: Tensor, forward: Callable[[Tensor], Tensor]
) -> Callable[[Tensor], Tensor]:
    """``forward`` that computes its output for the placeholder once, and remembers it."""
    remembered: list[Tensor] = []

    def forward_once(pixels: Tensor) -> Tensor:
        if pixels is not placeholder:
            return forward(pixels)
        if not remembered:
            with torch.inference_mode(False), torch.no_grad():
                remembered.append(forward(pixels))
        return remembered[0]

    return forward_once


def _projections(attention: nn.Module) -> list[nn.Linear]:
    """The layers that make queries, keys and values and nothing else, by their usual names."""
    names = (*FUSED, *QUERY, *KEY, *VALUE)
    children = attention.named_children()
    return [m for name, m in children if name in names and isinstance(m, nn.Linear)]


def _zeros(width: int) -> Callable[[Tensor], Tensor]:
    """Stands in for a projection whose output is not read: a single zero, expanded."""
    return lambda tokens: tokens.new_zeros(()).expand(*tokens.shape[:-1], width)


def find_prefix(model: AdaptedEncoder) -> Prefix | None:
    """What can be computed once for each view, for this method on this encoder.

    None where training changes the first block, or what is below it; and where the encoder's form
    does not suit, which is logged: it then runs whole in every step.

    Verified on noise: resuming from two different placeholder images must give identical features,
    and those of the whole forward pass.

    Raises:
        RuntimeError: if memory runs out.
    """
    if not model.first_changed_block() and model.first_changed_prompt() is None:
        return None
    prefix = if_suited(partial(_verified, model))
    if prefix is None:
        name = model.encoder.name
        logger.info("the blocks of %s are not alike: it is run whole in every step", name)
    return prefix


@torch.no_grad()
def _verified(model: AdaptedEncoder) -> Prefix | None:
    encoder = model.encoder
    black = encoder.example()
    pixels = noise(2, black)
    prefix = Prefix(encoder, model.first_changed_block(), model.first_changed_prompt())
    expected, activations, found = encoder(pixels), prefix.encode(pixels), []
    for placeholder in (black, pixels[:1]):
        with prefix.resumed(placeholder):
            found.append(encoder(prefix.feed(activations)))
    same = torch.equal(*found) and is_close(found[0], expected, pixels)
    return prefix if same else None
