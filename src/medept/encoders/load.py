"""Encoders by name: the one that ships inside medept, and those of three libraries."""

from __future__ import annotations

from pathlib import Path

import torch

from medept.encoders.catalogue import Entry, find
from medept.encoders.encoder import Encoder
from medept.encoders.from_open_clip import load_from_open_clip, load_open_clip_snapshot
from medept.encoders.from_timm import load_from_timm, load_timm_entry, load_timm_snapshot
from medept.encoders.from_transformers import load_from_transformers
from medept.encoders.model_inputs import set_size, try_out
from medept.encoders.preprocessing import OWN_FIT, Preprocessing
from medept.encoders.snapshot import HUB, OPEN_CLIP, TRANSFORMERS, Snapshot, library_of
from medept.errors import EncoderError

EMBEDDED = "embedded"


def load_encoder(
    name: str = EMBEDDED,
    *,
    weights: str | Path | None = None,
    image_size: int | None = None,
    fit_image: str = OWN_FIT,
) -> Encoder:
    """Load an encoder by name.

    Images are prepared as its library prepares them for it, and it is tried on two of them.

    Args:
        name: ``embedded``, which ships inside medept; one of the catalogue, such as ``uni2-h``; a
            vision transformer of timm, such as ``vit_base_patch16_224`` or
            ``hf-hub:OWNER/NAME``; of transformers, such as
            ``transformers:google/vit-base-patch16-224`` or ``transformers:FOLDER``; an image
            tower of open_clip, such as ``open_clip:ViT-B-16`` or ``open_clip:hf-hub:OWNER/NAME``;
            or a folder with a configuration and safetensors of one of the three. Pickles and code
            in a folder are never read.
        weights: a local safetensors file; ``"random"`` for untrained weights, the same in every
            call; by default those that ship with medept (``embedded``) or those on the hub.
        image_size: pixels a side, if not the encoder's own; position embeddings are interpolated,
            unless the weights are those of this size.
        fit_image: what is done with an image of other proportions than the encoder's input:
            ``crop`` (the sides are cut off), ``squeeze`` (proportions change), ``pad`` (with a
            border), or ``auto``, what its own processor does.

    Raises:
        EncoderError: if the name is unknown, the weights cannot be downloaded or do not fit, its
            image processor does what medept cannot do, or it is no function of an image.
        ResourceError: if the library is not installed.
        SettingsError: if there is no such ``fit_image``.

    >>> encoder = load_encoder("embedded", image_size=96, fit_image="squeeze")
    >>> encoder.width, len(encoder.blocks), encoder.preprocessing.size, encoder.preprocessing.fit
    (192, 8, (96, 96), 'squeeze')
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        encoder = _load(name, weights, image_size).float()  # some are in half precision
        if image_size is not None and encoder.preprocessing.size != (image_size, image_size):
            encoder = resized(encoder, image_size)
        else:
            try_out(encoder)
    encoder.preprocessing = encoder.preprocessing.with_fit(fit_image)
    return encoder


def _load(name: str, weights: str | Path | None, image_size: int | None) -> Encoder:
    if name == EMBEDDED:
        return _load_embedded(weights)
    entry = find(name)
    if entry is not None and entry.architecture != name:
        return _load_entry(entry, name, weights, image_size)
    library, _, rest = name.partition(":")
    if library == TRANSFORMERS:
        return load_from_transformers(rest, weights)
    if library == OPEN_CLIP:
        if rest.startswith(HUB) or Path(rest).is_dir():
            return load_open_clip_snapshot(Snapshot(rest), weights)
        return load_from_open_clip(rest, weights, image_size)
    if name.startswith(HUB):
        return load_timm_snapshot(Snapshot(name), weights, image_size)
    if name and (found := library_of(Path(name))):
        return _load_folder(found, name, weights, image_size)
    return load_from_timm(name, weights, image_size)


def _load_entry(
    entry: Entry, name: str, weights: str | Path | None, image_size: int | None
) -> Encoder:
    """An encoder of the catalogue, by its short name or the long one."""
    library, _, rest = entry.source.partition(":")
    if library == TRANSFORMERS:
        encoder = load_from_transformers(rest, weights, entry.preprocessing)
    elif library == OPEN_CLIP:
        encoder = load_open_clip_snapshot(Snapshot(rest), weights)
    elif entry.source.startswith(HUB):
        encoder = load_timm_entry(entry, weights, image_size)
    else:
        encoder = load_from_timm(entry.source, weights, image_size)
    encoder.name = name
    return encoder


def _load_folder(
    library: str, folder: str, weights: str | Path | None, image_size: int | None
) -> Encoder:
    """A model of this library that lies in a folder."""
    if library == OPEN_CLIP:
        return load_open_clip_snapshot(Snapshot(folder), weights)
    if library == TRANSFORMERS:
        return load_from_transformers(folder, weights)
    return load_timm_snapshot(Snapshot(folder), weights, image_size)


def resized(encoder: Encoder, image_size: int) -> Encoder:
    """The same encoder for another input size, with its position embeddings interpolated.

    Raises:
        EncoderError: if it takes no other size, or not this one.
    """
    model, size = encoder.model, (image_size, image_size)
    patch = getattr(getattr(model, "config", None), "patch_size", 1)
    if isinstance(patch, int) and image_size % patch:  # transformers would cut the rest off
        raise EncoderError(
            f"image_size={image_size}: give a multiple of {patch}, the side of a patch of "
            f"{encoder.name!r}"
        )
    set_size(model, size, encoder.name)
    found = Encoder(model, encoder.name, encoder.preprocessing.with_size(size))
    try:
        try_out(found)
    except EncoderError as error:
        raise EncoderError(f"image_size={image_size}: {error}") from error
    return found


def _load_embedded(weights: str | Path | None) -> Encoder:
    from medept.encoders import embedded

    if weights is not None:
        raise EncoderError("the encoder 'embedded' has its own weights: leave encoder_weights= out")
    model, config = embedded.load()
    transform = config["transform"]
    side = transform["input_size"]
    return Encoder(
        model,
        EMBEDDED,
        Preprocessing((side, side), tuple(transform["mean"]), tuple(transform["std"])),
    )
