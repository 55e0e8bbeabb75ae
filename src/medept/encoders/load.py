"""Encoders by name: the one that ships inside medept, and those of three libraries."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch

from medept.encoders.encoder import Encoder
from medept.encoders.from_open_clip import load_from_open_clip
from medept.encoders.from_timm import load_from_timm
from medept.encoders.from_transformers import load_from_transformers
from medept.encoders.preprocessing import Preprocessing
from medept.encoders.weights import as_tuples
from medept.errors import EncoderError, is_out_of_memory

EMBEDDED = "embedded"


def load_encoder(
    name: str = EMBEDDED,
    *,
    weights: str | Path | None = None,
    image_size: int | None = None,
) -> Encoder:
    """Load an encoder by name.

    Args:
        name: ``embedded``, which ships inside medept; a vision transformer of timm, such as
            ``vit_base_patch16_224``; of transformers, such as
            ``transformers:google/vit-base-patch16-224`` or ``transformers:FOLDER``; or an image
            tower of open_clip, such as ``open_clip:ViT-B-16``.
        weights: a local safetensors file; ``"random"`` for untrained weights, the same in every
            call; by default those that ship with medept (``embedded``) or those on the hub.
        image_size: pixels a side, if not the encoder's own; position embeddings are interpolated.

    Raises:
        EncoderError: if the name is unknown, or the weights cannot be downloaded or do not fit.
        ResourceError: if the library is not installed.

    >>> encoder = load_encoder("embedded", image_size=96)
    >>> encoder.width, len(encoder.blocks), encoder.preprocessing.size
    (192, 8, (96, 96))
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        encoder = _load(name, weights).float()  # some checkpoints are in half precision
    if image_size is None or encoder.preprocessing.size == (image_size, image_size):
        return encoder
    return resized(encoder, image_size)


def _load(name: str, weights: str | Path | None) -> Encoder:
    library, _, rest = name.partition(":")
    if name == EMBEDDED:
        return _load_embedded(weights)
    if library == "transformers":
        return load_from_transformers(rest, weights)
    if library == "open_clip":
        return load_from_open_clip(rest, weights)
    return load_from_timm(name, weights)


def resized(encoder: Encoder, image_size: int) -> Encoder:
    """The same encoder for another input size, with its position embeddings interpolated.

    Raises:
        EncoderError: if it takes no other size, or not this one.
    """
    model = encoder.model
    if not hasattr(model, "set_input_size"):
        raise EncoderError(
            f"the encoder {encoder.name!r} takes {encoder.preprocessing.size[0]} pixels only: "
            "leave image_size= out"
        )
    try:
        model.set_input_size(img_size=(image_size, image_size))  # type: ignore[operator]
        model(torch.zeros(1, 3, image_size, image_size))
    except (AssertionError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        raise EncoderError(
            f"image_size={image_size} does not fit {encoder.name!r}: {error}"
        ) from error
    values = asdict(encoder.preprocessing) | {"size": (image_size, image_size)}
    return Encoder(model, encoder.name, Preprocessing(**values))


def _load_embedded(weights: str | Path | None) -> Encoder:
    from medept.encoders import embedded

    if weights is not None:
        raise EncoderError("the encoder 'embedded' has its own weights: leave encoder_weights= out")
    model, config = embedded.load()
    transform = dict(config["transform"])
    size = transform.pop("input_size")
    return Encoder(model, EMBEDDED, Preprocessing(size=(size, size), **as_tuples(transform)))
