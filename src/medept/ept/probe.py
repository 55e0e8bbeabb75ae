"""A forward pass for finding something out, which leaves no trace in the model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from medept.errors import EncoderError, is_out_of_memory

_MOST_CHANNELS = 16
"""A convolution of more does not read the image itself."""


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """While open, the model is in evaluation mode; then all is as it was.

    That is each module's own mode, every buffer, and the random numbers to come.
    """
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    devices = {p.device for p in model.parameters() if p.is_cuda}
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices))
        for module in model.modules():
            stack.callback(setattr, module, "training", module.training)
        model.eval()
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, before in buffers:
                    if not buffer.is_meta and not torch.equal(buffer, before):
                        buffer.copy_(before)


def probe_image(model: nn.Module, size: tuple[int, int], *, black: bool = False) -> Tensor:
    """An image (1, C, H, W) of waves, or a black one, of the model's type and on its device.

    It is the same in every call, and no two of its patches are alike.
    """
    like = next(model.parameters())
    shape = (1, _channels(model), *size)
    if black or like.is_meta:
        return torch.zeros(shape, device=like.device, dtype=like.dtype)
    count = shape[1] * size[0] * size[1]
    waves = torch.arange(count, dtype=torch.float64).pow(1.5).mul(0.7).sin()
    return waves.reshape(shape).to(like)


def _channels(model: nn.Module) -> int:
    """Of the images that a model takes: what it declares, or its first convolution takes."""
    declared = getattr(getattr(model, "config", None), "num_channels", None)
    if isinstance(declared, int):
        return declared
    first = next((m.in_channels for m in model.modules() if isinstance(m, nn.Conv2d)), 3)
    return first if first <= _MOST_CHANNELS else 3


@contextmanager
def refusing(what: str, advice: str) -> Iterator[None]:
    """Let an error of the model inside be an EncoderError in words; memory errors pass.

    Raises:
        EncoderError: ``{what} ({error}): {advice}``.
    """
    try:
        yield
    except Exception as error:  # whatever a model of any library may raise
        if isinstance(error, EncoderError) or is_out_of_memory(error):
            raise
        raise EncoderError(f"{what} ({error}): {advice}") from error
