"""Vision models of transformers, from the hub or a local folder."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any

from medept.encoders.encoder import Encoder
from medept.encoders.model_inputs import leave_nothing_out, set_size, take_grey
from medept.encoders.preprocessing import Preprocessing, Size
from medept.encoders.processors import follow
from medept.encoders.weights import (
    RANDOM,
    access,
    import_extra,
    load_weights,
    named_as_in,
    read_weights,
)
from medept.errors import EncoderError


def load_from_transformers(
    name: str, weights: str | Path | None, prepared: Preprocessing | None = None
) -> Encoder:
    """A vision model of transformers; arguments and errors are :func:`load_encoder`'s.

    Of a model of images and texts, the vision part. Its image processor is followed, unless
    ``prepared`` says how images are prepared.
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
        processor = (
            None if prepared else transformers.AutoImageProcessor.from_pretrained(name, **no_code)
        )
    except (OSError, ValueError) as error:
        raise EncoderError(
            f"the transformers model {name!r} could not be loaded ({error})"
            + ("" if local else f". {access(name)}, or give a local folder: transformers:FOLDER")
        ) from error
    if weights is not None and weights != RANDOM:
        _load_file(model, Path(weights))
    title, channels = f"transformers:{name}", getattr(config, "num_channels", 3)
    take_grey(model, channels, title)
    leave_nothing_out(model)
    found = prepared or follow(processor, title, channels)
    if found.size != _sides(getattr(config, "image_size", found.size)):
        set_size(model, found.size, title)
    return Encoder(model, title, found)


def _sides(size: int | Sequence[int]) -> Size:
    """Height and width, of which a configuration may give one for both."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _load_file(model: Any, file: Path) -> None:
    """Load a file's weights; where it has none of a pooler, the model loses its own."""
    state = named_as_in(model, read_weights(file), file)
    missing = {*model.state_dict()} - {*state}
    if missing and all(name.startswith("pooler.") for name in missing):
        model.pooler = None
    load_weights(model, state, file)


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
