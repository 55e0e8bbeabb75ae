"""What a model has to be given so that it is a function of an RGB image of any supported size.

Some take one channel, some interpolate their position embeddings only if told to, and masked
autoencoders leave patches out at random. What such a model needs is added to each of its calls; and
a model is tried before it is used.
"""

from __future__ import annotations

from inspect import signature
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from medept.encoders.shortcuts import noise
from medept.errors import EncoderError, is_out_of_memory

if TYPE_CHECKING:
    from medept.encoders.encoder import Encoder
    from medept.encoders.preprocessing import Size

LUMINANCE = (0.299, 0.587, 0.114)
"""The share of red, green and blue in grey (ITU-R BT.601), as in Pillow's conversion."""

TOLERANCE = 1e-3
"""Relative difference of two answers to one image above which a model is no function of it."""


class Inputs:
    """A hook before a model's calls: pixels (B, 3, H, W) become what the model takes.

    Attributes:
        grey: whether it takes one channel, the luminance.
        options: keyword arguments of every call.
        unmasked: the side of a patch, if patches have to be put into their order again, as a masked
            autoencoder shuffles them even where it leaves out none; else 0.
    """

    def __init__(self) -> None:
        self.grey = False
        self.options: dict[str, Any] = {}
        self.unmasked = 0

    @classmethod
    def of(cls, model: nn.Module) -> Inputs:
        """The hook of a model, put there at the first call."""
        for hook in model._forward_pre_hooks.values():
            if isinstance(hook, cls):
                return hook
        inputs = cls()
        model.register_forward_pre_hook(inputs, with_kwargs=True)
        return inputs

    def __call__(
        self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        pixels, *rest = args
        if self.grey and pixels.shape[1] == len(LUMINANCE):
            weights = torch.tensor(LUMINANCE, dtype=pixels.dtype, device=pixels.device)
            pixels = torch.einsum("bchw,c->bhw", pixels, weights)[:, None]
        options = dict(self.options)
        if self.unmasked:
            height, width = pixels.shape[-2:]
            patches = (height // self.unmasked) * (width // self.unmasked)
            order = torch.arange(patches, device=pixels.device, dtype=torch.float32)
            options["noise"] = order.expand(len(pixels), -1)
        return (pixels, *rest), options | kwargs


def take_grey(model: nn.Module, channels: int, name: str) -> None:
    """Let a model of one channel take RGB pixels, by their luminance.

    Raises:
        EncoderError: if it takes neither one channel nor three.
    """
    if channels not in (1, 3):
        raise EncoderError(f"{name!r} takes {channels} channels; medept's images have 3, or 1")
    if channels == 1:
        Inputs.of(model).grey = True


def leave_nothing_out(model: Any) -> None:
    """Let a masked autoencoder of transformers see every patch, in their order."""
    if getattr(model.config, "mask_ratio", 0) and "noise" in signature(model.forward).parameters:
        model.config.mask_ratio = 0.0
        Inputs.of(model).unmasked = model.config.patch_size


def set_size(model: Any, size: Size, name: str) -> None:
    """Let a model take images of this height and width, by whatever way it offers.

    Raises:
        EncoderError: if it offers one, and cannot be made for this size.
    """
    try:
        if hasattr(model, "set_input_size"):  # timm
            model.set_input_size(img_size=size)
        elif "interpolate_pos_encoding" in signature(model.forward).parameters:  # transformers
            Inputs.of(model).options["interpolate_pos_encoding"] = True
    except (AssertionError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        raise EncoderError(f"image_size={size[0]} does not fit {name!r}: {error}") from error


@torch.inference_mode()
def try_out(encoder: Encoder) -> None:
    """Refuse an encoder that takes no image of its size, or is no function of the image.

    It sees two images together, and then the first of them alone: what it says of that one has to
    be the same.

    Raises:
        EncoderError: if it is not, or anything fails.
        RuntimeError: if memory runs out.
    """
    height, width = encoder.preprocessing.size
    pixels = noise(2, encoder.example())
    try:
        together, alone = encoder.whole_forward(pixels), encoder.whole_forward(pixels[:1])
    except Exception as error:  # whatever its code raises
        if is_out_of_memory(error) or isinstance(error, torch.AcceleratorError):
            raise
        raise EncoderError(
            f"{encoder.name!r} does not take images of {height} x {width} pixels as an encoder of "
            f"images does ({error})"
        ) from error
    if together.ndim != 2 or together.shape[0] != 2:
        raise EncoderError(
            f"{encoder.name!r} gives {tuple(together.shape)} for two images, not a vector for each"
        )
    difference = (together[:1] - alone).norm()
    if not difference <= TOLERANCE * alone.norm():
        raise EncoderError(
            f"{encoder.name!r} gives different answers to the same image, so that nothing learnt "
            "from them could be repeated: it is random, or depends on the images beside it"
        )


def first_channels(state: dict[str, Tensor], layer: Any) -> int:
    """How many channels a convolution of this name takes, by its weights; 3 if there is none."""
    weight = state.get(f"{layer}.weight") if isinstance(layer, str) else None
    return 3 if weight is None or weight.ndim != 4 else int(weight.shape[1])
