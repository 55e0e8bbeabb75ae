"""Vision models of transformers, from the hub or a local folder."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from textwrap import shorten
from typing import Any

from PIL.Image import Resampling

from medept.encoders.encoder import Encoder
from medept.encoders.preprocessing import Preprocessing
from medept.encoders.weights import RANDOM, import_extra, load_weights
from medept.errors import EncoderError


def load_from_transformers(name: str, weights: str | Path | None) -> Encoder:
    """A vision model of transformers; arguments and errors are :func:`load_encoder`'s.

    Of a model of images and texts, the vision part.
    """
    transformers = import_extra("transformers", "transformers")
    local = Path(name).is_dir()
    no_code = {"trust_remote_code": False}  # else transformers asks, on the terminal
    try:
        config = transformers.AutoConfig.from_pretrained(name, **no_code)
        config = getattr(config, "vision_config", config)
        if weights is None:
            model, found = transformers.AutoModel.from_pretrained(
                name,
                config=config,
                use_safetensors=True,
                attn_implementation="sdpa",
                output_loading_info=True,
                **no_code,
            )
            _leave_out_pooler(model, found["missing_keys"])
        else:
            model = transformers.AutoModel.from_config(
                config, attn_implementation="sdpa", **no_code
            )
        processor = transformers.AutoImageProcessor.from_pretrained(name, **no_code).to_dict()
    except (OSError, ValueError) as error:
        raise EncoderError(
            f"the transformers model {name!r} could not be loaded ({error})"
            + ("" if local else "; give a local folder that holds it: transformers:FOLDER")
        ) from error
    if weights is not None and weights != RANDOM:
        load_weights(model, Path(weights))
    side = config.image_size if isinstance(config.image_size, int) else config.image_size[0]
    return Encoder(model, f"transformers:{name}", _preprocessing(processor, side))


def _preprocessing(processor: dict[str, Any], side: int) -> Preprocessing:
    """What an image processor of transformers does, for images of ``side`` pixels."""
    shortest = (processor.get("size") or {}).get("shortest_edge")
    cropped = (processor.get("crop_size") or {}).get("height")
    resample = processor.get("resample")
    return Preprocessing(
        size=(side, side),
        mean=tuple(processor.get("image_mean") or (0.5,) * 3),
        std=tuple(processor.get("image_std") or (0.5,) * 3),
        interpolation="bicubic" if resample is None else Resampling(resample).name.lower(),
        crop_pct=cropped / shortest if cropped and shortest else 1.0,
    )


def _leave_out_pooler(model: Any, missing: Collection[str]) -> None:
    """Remove a pooler if the checkpoint has no weights for it: transformers would draw some.

    Features are then the class token after the final norm, which the model's own classifier reads.

    Raises:
        ValueError: if weights of another part are missing, and would be drawn at random too.
    """
    others = sorted(name for name in missing if not name.startswith("pooler."))
    if others:
        raise ValueError(f"its checkpoint has no weights of {shorten(', '.join(others), 200)}")
    if missing:
        model.pooler = None
