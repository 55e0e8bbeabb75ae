"""Image towers of open_clip."""

from __future__ import annotations

from pathlib import Path

from medept.encoders.encoder import Encoder
from medept.encoders.preprocessing import Preprocessing
from medept.encoders.weights import RANDOM, download_weights, import_extra, load_weights
from medept.errors import EncoderError


def load_from_open_clip(name: str, weights: str | Path | None) -> Encoder:
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
    clip = open_clip.create_model(
        name, pretrained=file, force_quick_gelu=file is not None and found.get("quick_gelu", False)
    )
    if weights is not None and weights != RANDOM:
        load_weights(clip, Path(weights))
    model = clip.visual
    size = model.image_size if isinstance(model.image_size, tuple) else (model.image_size,) * 2
    seen = Preprocessing(
        size=size,
        mean=tuple(found.get("mean", open_clip.OPENAI_DATASET_MEAN)),
        std=tuple(found.get("std", open_clip.OPENAI_DATASET_STD)),
        interpolation=found.get("interpolation", "bicubic"),
    )
    return Encoder(model, f"open_clip:{name}", seen)
