"""Vision transformers of timm."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from medept.encoders.encoder import Encoder
from medept.encoders.preprocessing import Preprocessing
from medept.encoders.weights import RANDOM, as_tuples, download_weights, load_weights
from medept.errors import EncoderError


def load_from_timm(name: str, weights: str | Path | None) -> Encoder:
    """A timm model without its classifier; arguments and errors are :func:`load_encoder`'s."""
    import timm

    name = name.removeprefix("timm/")
    if not timm.is_model(name.split(".")[0]):
        close = get_close_matches(name, timm.list_models(), cutoff=0.5)
        raise EncoderError(
            f"no encoder is named {name!r}: use 'embedded' or a timm name"
            + (f", such as {', '.join(close)}" if close else "")
            + ". `medept encoders` lists them"
        )
    _check_tag(name)
    if weights is None:
        repository = getattr(timm.get_pretrained_cfg(name), "hf_hub_id", None)
        source = {"file": download_weights(name, repository, "model"), "custom_load": False}
        model = timm.create_model(
            name, pretrained=True, num_classes=0, pretrained_cfg_overlay=source
        )
    else:
        model = timm.create_model(name, num_classes=0)
    if weights is not None and weights != RANDOM:
        load_weights(model, Path(weights))
    config = timm.data.resolve_data_config({}, model=model)
    transform = {key: config[key] for key in ("mean", "std", "interpolation", "crop_pct")}
    return Encoder(
        model, name, Preprocessing(size=tuple(config["input_size"][1:]), **as_tuples(transform))
    )


def _check_tag(name: str) -> None:
    """Refuse ``ARCHITECTURE.TAG`` if timm knows no weights by that tag."""
    import timm

    try:
        timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        architecture, _, tag = name.partition(".")
        tags = (one.partition(".")[2] for one in timm.list_pretrained(f"{architecture}.*"))
        raise EncoderError(
            f"timm has no weights {tag!r} of {architecture}: use one of {', '.join(tags) or 'none'}"
        ) from error
