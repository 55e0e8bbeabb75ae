"""Image towers of open_clip."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medept.encoders.encoder import Encoder
from medept.encoders.preprocessing import Fit, Preprocessing
from medept.encoders.snapshot import OPEN_CLIP_CONFIG, Snapshot
from medept.encoders.weights import (
    RANDOM,
    download_weights,
    import_extra,
    load_weights,
    named_as_in,
    read_weights,
)
from medept.errors import EncoderError

FITS: dict[str, Fit] = {"shortest": "crop", "squash": "squeeze", "longest": "pad"}


def load_from_open_clip(
    name: str, weights: str | Path | None, image_size: int | None = None
) -> Encoder:
    """The image tower of an open_clip model; arguments and errors are :func:`load_encoder`'s.

    Where a model has several pretrained weights, those that open_clip lists first are taken.
    """
    open_clip = import_extra("open_clip", "open-clip")
    if name not in open_clip.list_models():
        raise EncoderError(f"open_clip has no model {name!r}; open_clip.list_models() names them")
    tags = open_clip.list_pretrained_tags_by_model(name)
    found = open_clip.get_pretrained_cfg(name, tags[0]) if tags else {}
    file = None
    if weights is None:
        file = download_weights(name, found.get("hf_hub", "").rpartition("/")[0], "open_clip_model")
    try:
        clip = open_clip.create_model(
            name,
            pretrained=file,
            force_quick_gelu=file is not None and found.get("quick_gelu", False),
            force_image_size=image_size,
        )
    except (AssertionError, RuntimeError, TypeError) as error:
        if image_size is None:
            raise
        raise EncoderError(
            f"image_size={image_size} does not fit 'open_clip:{name}': {error}"
        ) from error
    if weights is not None and weights != RANDOM:
        own = named_as_in(clip, read_weights(Path(weights)), Path(weights))
        if "visual.positional_embedding" in own:  # a tower of open_clip's own
            open_clip.model.resize_pos_embed(own, clip)
        load_weights(clip, own, Path(weights))
    model = clip.visual
    size = model.image_size if isinstance(model.image_size, tuple) else (model.image_size,) * 2
    return Encoder(model, f"open_clip:{name}", preprocessing_of(found, size))


def load_open_clip_snapshot(snapshot: Snapshot, weights: str | Path | None) -> Encoder:
    """The image tower of a folder's or repository's model; see :func:`load_encoder`.

    The text tower is not built: it may need a language model from elsewhere.
    """
    import_extra("open_clip", "open-clip")
    config = snapshot.config(OPEN_CLIP_CONFIG)
    try:
        model = image_tower(config["model_cfg"])
    except (AssertionError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise EncoderError(
            f"open_clip cannot build the image tower of {snapshot.name} by its {OPEN_CLIP_CONFIG} "
            f"({error!r})"
        ) from error
    if weights != RANDOM:
        names = ("open_clip_model.safetensors", "model.safetensors")
        file = snapshot.file(*names) if weights is None else Path(weights)
        load_weights(model, named_as_in(model, read_weights(file), file), file)
    size = model.image_size if isinstance(model.image_size, tuple) else (model.image_size,) * 2
    found = preprocessing_of(config.get("preprocess_cfg") or {}, size)
    return Encoder(model, f"open_clip:{snapshot.name}", found)


def image_tower(config: dict[str, Any]) -> Any:
    """The image tower of an open_clip configuration, untrained."""
    from open_clip.model import CLIPVisionCfg, _build_vision_tower

    vision = CLIPVisionCfg(**config["vision_cfg"])
    vision.timm_model_pretrained = False
    return _build_vision_tower(config["embed_dim"], vision, config.get("quick_gelu", False))


def preprocessing_of(found: dict[str, Any], size: tuple[int, int]) -> Preprocessing:
    """What open_clip does with images for weights of this description.

    Raises:
        EncoderError: if it fits images in a way that is not known.

    >>> preprocessing_of({"resize_mode": "squash"}, (224, 224)).fit
    'squeeze'
    """
    import open_clip

    own = open_clip.transform.PreprocessCfg()
    mode = found.get("resize_mode") or own.resize_mode
    if mode not in FITS:
        raise EncoderError(f"resize_mode={mode!r} of open_clip is not known here")
    bilinear = found.get("interpolation") == "bilinear" and not (
        mode == "shortest" and size[0] != size[1]
    )
    return Preprocessing(
        size=size,
        mean=tuple(found.get("mean") or own.mean),
        std=tuple(found.get("std") or own.std),
        interpolation="bilinear" if bilinear else "bicubic",
        fit=FITS[mode],
        fill=(found.get("fill_color") or own.fill_color,) * 3,
    )
