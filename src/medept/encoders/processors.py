"""What an image processor of transformers does, as a :class:`Preprocessing` that is compared to it.

There are more than a hundred kinds of processors, and a checkpoint may bring switches, or even
code, of its own. So its values are read, and then the processor itself prepares two pictures: if
anything comes out differently the processor is refused by name, with what it was told to do.
"""

from __future__ import annotations

from textwrap import shorten
from typing import Any

import numpy as np
import torch
from PIL import Image

from medept.encoders import from_timm
from medept.encoders.preprocessing import Fit, Preprocessing, Size
from medept.errors import EncoderError

FOLLOWED = {
    "crop_pct", "crop_size", "data_config", "data_format", "default_to_square", "device",
    "do_center_crop", "do_convert_rgb", "do_normalize", "do_rescale", "do_resize",
    "feature_extractor_type", "image_mean", "image_processor_type", "image_seq_length",
    "image_std", "input_data_format", "model_input_names", "processor_class", "resample",
    "rescale_factor", "return_tensors", "size",
}  # fmt: skip
"""Values of a processor that are followed, or that do nothing to pixels."""

LEVELS = 3.0
"""How far two results may differ, in levels of 255: transformers resizes tensors, medept images."""

LARGEST_CROPPED = 384
"""ConvNeXt's processor crops images for inputs smaller than this, and squeezes them for others."""


def follow(processor: Any, name: str, channels: int = 3) -> Preprocessing:
    """The same as what a processor does.

    Args:
        processor: an image processor of transformers.
        name: of the encoder, for messages.
        channels: how many the encoder takes; of one, each of the three that an image has here is
            treated like the processor's single one.

    Raises:
        EncoderError: if the processor does anything else, by its name and values.
    """
    values = dict(processor.to_dict())
    try:
        found = _described(values)
        same = all(_is_same(processor, found, size, channels) for size in _sizes(found.size))
    except Exception as error:  # its code may be anyone's
        raise _refused(processor, values, name, f" ({shorten(str(error), 200)})") from error
    if not same:
        raise _refused(processor, values, name)
    return found


def _described(values: dict[str, Any]) -> Preprocessing:
    """What a processor's values say."""
    if "data_config" in values:  # a timm model inside transformers
        return from_timm.preprocessing_of(values["data_config"])
    if not values.get("do_resize", True):
        raise ValueError("it does not resize")
    fit, resized, size = _geometry(values)
    factor = values.get("rescale_factor", 1 / 255) if values.get("do_rescale", True) else 1.0
    mean: tuple[float, ...] = (0.0,) * 3
    std: tuple[float, ...] = (1.0,) * 3
    if values.get("do_normalize", True):
        mean, std = _three(values["image_mean"]), _three(values["image_std"])
    scale = 255 * factor  # of values between 0 and 1, from which a mean is subtracted here
    resample = values.get("resample")
    return Preprocessing(
        size=size,
        mean=tuple(channel / scale for channel in mean),
        std=tuple(channel / scale for channel in std),
        interpolation=Image.Resampling(2 if resample is None else int(resample)).name.lower(),
        fit=fit,
        resized=None if resized == size else resized,
        rounding="down",
    )


def _geometry(values: dict[str, Any]) -> tuple[Fit, Size, Size]:
    """How images are fitted, to what size, and the size of what is cut out of them."""
    given, share = dict(values["size"]), values.get("crop_pct")
    cut = dict(values.get("crop_size") or {}) if values.get("do_center_crop") else {}
    size = (cut["height"], cut["width"]) if cut else None
    if set(given) == {"height", "width"}:
        resized = (given["height"], given["width"])
        return "squeeze", resized, size or resized
    if set(given) != {"shortest_edge"}:
        raise ValueError(f"size={given}")
    edge = given["shortest_edge"]
    if share and edge >= LARGEST_CROPPED:
        return "squeeze", (edge, edge), (edge, edge)
    if share:
        return "crop", (int(edge / share),) * 2, (edge, edge)
    if values.get("image_processor_type", "").startswith("Levit"):
        edge = int((256 / 224) * edge)
    if size is None:
        raise ValueError("without a crop, images are of different sizes")
    return "crop", (edge, edge), size


def _three(channels: Any) -> tuple[float, ...]:
    """A mean or standard deviation of three channels, from one for each or one for all."""
    each = tuple(channels) if isinstance(channels, list | tuple) else (channels,)
    return each * 3 if len(each) == 1 else each


def _sizes(size: Size) -> tuple[tuple[int, int], ...]:
    """(width, height) of a wide and of a high picture."""
    height, width = size
    return (2 * width + 3, height + 1), (width // 2 + 1, height + 4)


def _is_same(processor: Any, found: Preprocessing, size: tuple[int, int], channels: int) -> bool:
    """Whether a picture of this (width, height) comes out as the processor prepares it."""
    width, height = size
    shape = (height // 3 + 1, width // 3 + 1, 3 if channels == 3 else 1)
    coarse = np.random.default_rng(0).integers(60, 196, shape, dtype=np.uint8)
    grain = Image.fromarray(coarse if channels == 3 else coarse[..., 0])
    picture = grain.resize(size, Image.Resampling.NEAREST)
    theirs = processor(picture, return_tensors="pt")["pixel_values"]
    if not isinstance(theirs, torch.Tensor):
        return False
    ours = found.evaluation()(picture.convert("RGB"))[:channels]
    if theirs.shape != (1, *ours.shape):
        return False
    levels = 255 * torch.tensor(found.std)[:channels, None, None]
    return bool(((theirs[0].float() - ours) * levels).abs().max() <= LEVELS)


def _refused(processor: Any, values: dict[str, Any], name: str, why: str = "") -> EncoderError:
    kind = type(processor).__name__
    others = [f"{k}={v}" for k, v in sorted(values.items()) if k not in FOLLOWED and v]
    told = f", with {shorten(', '.join(others), 300)}" if others else ""
    return EncoderError(
        f"the image processor of {name!r}, {kind}{told}, prepares images in a way that medept does "
        f"not follow{why}: use another encoder, or save a processor of another kind beside its "
        "weights"
    )
