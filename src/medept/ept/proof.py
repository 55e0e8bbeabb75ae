"""Proves that prompts act, by one pass of a test image: forward, and backward to the prompts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from medept.ept.probe import probe_image, refusing, undisturbed
from medept.ept.prompts import EmbeddedPrompt
from medept.ept.sites import AttentionSite
from medept.errors import EncoderError


def prove(model: nn.Module, prompts: Mapping[AttentionSite, EmbeddedPrompt]) -> None:
    """Refuse a model on whose output a prompt in place has no influence.

    The derivative of a fixed weighted sum of all outputs is taken with respect to each prompt; to
    save time, along the paths that do not lead through later queries, keys and values.
    The model, its modes, buffers and gradients are left as they were. On the meta device there
    are no values, and nothing is proved.

    Args:
        model: holds the prompts.
        prompts: by the attention that each is in.

    Raises:
        EncoderError: if the model does not run with prompts, or one has the derivative zero.
    """
    parameters = [prompt.prompt for prompt in prompts.values()]
    if not parameters or parameters[0].is_meta:
        return
    what = f"{type(model).__name__} cannot be prompted"
    advice = "its attentions are of another kind than those that medept serves"
    size = next(iter(prompts)).image
    with ExitStack() as stack:
        stack.enter_context(undisturbed(model))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(refusing(what, advice))
        for prompt in prompts.values():
            stack.callback(prompt.prompt.requires_grad_, prompt.prompt.requires_grad)
            prompt.prompt.requires_grad_()
            stack.callback(prompt.register_forward_pre_hook(_from_here_on).remove)
        output = model(probe_image(model, size))
        found = _derivatives(output, parameters)
    silent = [
        site.name
        for site, gradient in zip(prompts, found, strict=True)
        if gradient is None or not gradient.any()
    ]
    if silent:
        raise EncoderError(
            f"prompts in {', '.join(silent)} of {type(model).__name__} would change nothing in its "
            "output: choose other layers, or give the part of the model whose output is used"
        )


def _from_here_on(_: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """A hook: queries, keys and values without their history."""
    return tuple(x.detach() if isinstance(x, Tensor) else x for x in arguments)


def _derivatives(output: Any, parameters: list[nn.Parameter]) -> tuple[Tensor | None, ...]:
    weighted = [_weighted(x) for x in _tensors(output) if x.requires_grad]
    if not weighted:
        return (None,) * len(parameters)
    return torch.autograd.grad(weighted, parameters, allow_unused=True)


def _weighted(output: Tensor) -> Tensor:
    """A sum with a weight of its own for each number: plain sums of normalised tokens are fixed."""
    weights = torch.arange(output.numel(), dtype=torch.float64, device="cpu").add(1).sin()
    return (output * weights.mul(64).reshape(output.shape).to(output)).sum()


def _tensors(output: Any) -> Iterator[Tensor]:
    """All floating-point tensors in what a model gives."""
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, (tuple, list)):
        for value in output:
            yield from _tensors(value)
