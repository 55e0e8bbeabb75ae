"""Vision transformers of timm."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from medept.encoders.catalogue import Entry
from medept.encoders.encoder import Encoder
from medept.encoders.model_inputs import first_channels, take_grey
from medept.encoders.preprocessing import Fit, Preprocessing, Size
from medept.encoders.snapshot import Snapshot
from medept.encoders.weights import (
    CONVERT,
    RANDOM,
    download_weights,
    load_weights,
    named_as_in,
    read_weights,
    sizes_differ,
)
from medept.errors import EncoderError

FITS: dict[str, Fit] = {"center": "crop", "squash": "squeeze", "border": "pad"}


def load_from_timm(name: str, weights: str | Path | None, image_size: int | None = None) -> Encoder:
    """A timm model without its classifier; arguments and errors are :func:`load_encoder`'s."""
    import timm

    name = name.removeprefix("timm/")
    if not timm.is_model(name.split(".")[0]):
        close = get_close_matches(name, timm.list_models(), cutoff=0.5)
        raise EncoderError(
            f"no encoder is named {name!r}: use 'embedded', a timm name or one of the catalogue"
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
    config = timm.data.resolve_data_config({}, model=model)
    found = preprocessing_of(config)
    if weights is not None and weights != RANDOM:
        make = partial(timm.create_model, name, num_classes=0)
        model, size = _with_weights(model, make, Path(weights), image_size)
        found = found.with_size(size or found.size)
    return Encoder(model, name, found)


def load_timm_snapshot(
    snapshot: Snapshot, weights: str | Path | None, image_size: int | None = None
) -> Encoder:
    """The timm model of a folder or repository, built by its configuration.

    Arguments and errors are :func:`load_encoder`'s.
    """
    import timm

    snapshot.config()
    folder = snapshot.file("config.json").parent
    make = partial(timm.create_model, f"local-dir:{folder}", num_classes=0)
    try:
        model = make()
    except Exception as error:  # timm's, by whatever stands in the configuration
        raise EncoderError(
            f"timm cannot build the model of {folder / 'config.json'} ({error})"
        ) from error
    found = preprocessing_of(timm.data.resolve_data_config({}, model=model))
    return _filled(model, make, snapshot, found, weights, image_size)


def load_timm_entry(
    entry: Entry, weights: str | Path | None, image_size: int | None = None
) -> Encoder:
    """The timm model of the catalogue, built as its authors publish; see :func:`load_encoder`."""
    import timm

    if weights is None and entry.safetensors is False:
        raise EncoderError(
            f"the weights of {entry.name!r} are published as a pickle only. {CONVERT}"
        )
    found = entry.preprocessing
    assert found is not None  # a test checks that every entry of timm has one
    make = partial(timm.create_model, entry.architecture, num_classes=0, **arguments_of(entry))
    return _filled(make(), make, Snapshot(entry.source), found, weights, image_size)


def arguments_of(entry: Entry) -> dict[str, Any]:
    """What timm builds the entry's architecture with; layers are there, not their names."""
    import timm

    layer = entry.arguments.get("mlp_layer")
    layers = {} if layer is None else {"mlp_layer": getattr(timm.layers, layer)}
    return entry.arguments | layers


def _filled(
    model: Any,
    make: Callable[..., Any],
    snapshot: Snapshot,
    found: Preprocessing,
    weights: str | Path | None,
    image_size: int | None,
) -> Encoder:
    """A model that ``make`` gave, with a snapshot's weights or those given."""
    if weights == RANDOM:
        return Encoder(model, snapshot.name, found)
    file = snapshot.file("model.safetensors") if weights is None else Path(weights)
    model, size = _with_weights(model, make, file, image_size)
    return Encoder(model, snapshot.name, found.with_size(size or found.size))


def preprocessing_of(config: dict[str, Any]) -> Preprocessing:
    """What timm does by a data configuration, as ``timm.data.resolve_data_config`` gives it.

    Raises:
        EncoderError: if it fits images in a way that is not known.

    >>> colours = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"}
    >>> own = {"input_size": [3, 224, 224], "crop_pct": 0.9, "crop_mode": "squash"}
    >>> found = preprocessing_of(colours | own)
    >>> found.fit, found.resized
    ('squeeze', (248, 248))
    """
    mode = config.get("crop_mode") or "center"
    if mode not in FITS:
        raise EncoderError(f"crop_mode={mode!r} of timm is not known here")
    _, height, width = config["input_size"]
    resized = (int(height / config["crop_pct"]), int(width / config["crop_pct"]))
    red, green, blue = (round(255 * channel) for channel in config["mean"])
    return Preprocessing(
        size=(height, width),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation=config["interpolation"],
        fit=FITS[mode],
        resized=None if resized == (height, width) else resized,
        fill=(red, green, blue) if mode == "border" else (0, 0, 0),
    )


def _with_weights(
    model: Any, make: Callable[..., Any], file: Path, image_size: int | None
) -> tuple[Any, Size | None]:
    """A model with a file's weights, and its size if they are those of ``image_size``.

    Weights of another size than the model's own, or of one channel, are loaded into a model that
    was made for these.
    """
    name = model.pretrained_cfg["architecture"]
    state = named_as_in(model, read_weights(file), file)
    changes: dict[str, Any] = {}
    channels = first_channels(state, model.pretrained_cfg.get("first_conv"))
    if channels != 3:
        changes["in_chans"] = channels
    if image_size is not None and _are_of_another_size(model, state):
        changes["img_size"] = image_size
    if changes:
        try:
            model = make(**changes)
        except (AssertionError, RuntimeError, TypeError) as error:
            raise EncoderError(
                f"{file}: {name} cannot be made for these weights ({error})"
            ) from error
        take_grey(model, channels, name)
    size = (image_size, image_size) if image_size and "img_size" in changes else None
    load_weights(model, state, file)
    return model, size


def _are_of_another_size(model: Any, state: dict[str, Tensor]) -> bool:
    """Whether what depends on the input size has another shape than in the model."""
    return any("pos" in name for name in sizes_differ(model, state))


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
