"""Encoders by name: which library they are from, and where their weights are.

``embedded`` (ships inside medept), any timm vision transformer (``vit_base_patch16_224``), a
transformers model (``transformers:google/vit-base-patch16-224`` or a local folder), or an open_clip
tower (``open_clip:ViT-B-16``). Weights come from the hub, or from a local safetensors file.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from PIL.Image import Resampling
from torch import nn

from medept.encoders import Encoder, Preprocessing, is_finite
from medept.errors import InputError

EMBEDDED = "embedded"
RANDOM = "random"


def load_encoder(
    name: str = EMBEDDED,
    *,
    weights: str | Path | None = None,
    image_size: int | None = None,
) -> Encoder:
    """Load an encoder by name.

    Args:
        name: ``embedded``, a timm name, ``transformers:NAME`` or ``open_clip:NAME``.
        weights: a local safetensors file; ``"random"`` for untrained weights, the same at each
            call; by default those that ship with medept (``embedded``) or those of the hub.
        image_size: pixels a side, where it should differ from the encoder's own; position
            embeddings are interpolated.

    Raises:
        InputError: if the name is unknown, the weights cannot be had or do not fit.
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
        return _load_transformers(rest, weights)
    if library == "open_clip":
        return _load_open_clip(rest, weights)
    return _load_timm(name, weights)


def resized(encoder: Encoder, image_size: int) -> Encoder:
    """The same encoder for another input size; its position embeddings are interpolated."""
    model = encoder.model
    if not hasattr(model, "set_input_size"):
        raise InputError(
            f"the encoder {encoder.name!r} takes {encoder.preprocessing.size[0]} pixels only: "
            "leave the image size out"
        )
    try:
        model.set_input_size(img_size=(image_size, image_size))  # type: ignore[operator]
        model(torch.zeros(1, 3, image_size, image_size))
    except (AssertionError, RuntimeError) as error:
        raise InputError(
            f"image size {image_size} does not fit {encoder.name!r}: {error}"
        ) from error
    values = asdict(encoder.preprocessing) | {"size": (image_size, image_size)}
    return Encoder(model, encoder.name, Preprocessing(**values))


def _load_embedded(weights: str | Path | None) -> Encoder:
    from medept import embedded

    if weights is not None:
        raise InputError("the encoder 'embedded' has its own weights: leave --encoder-weights out")
    model, config = embedded.load()
    transform = dict(config["transform"])
    size = transform.pop("input_size")
    encoder = Encoder(model, EMBEDDED, Preprocessing(size=(size, size), **_tuples(transform)))
    return encoder


def _load_timm(name: str, weights: str | Path | None) -> Encoder:
    import timm

    name = name.removeprefix("timm/")
    if not timm.is_model(name.split(".")[0]):
        close = get_close_matches(name, timm.list_models(), cutoff=0.5)
        raise InputError(
            f"no encoder is named {name!r}: use 'embedded' or a timm name"
            + (f", such as {', '.join(close)}" if close else "")
            + ". `medept encoders` lists them"
        )
    _check_tag(name)
    if weights is None:
        repository = getattr(timm.get_pretrained_cfg(name), "hf_hub_id", None)
        source = {"file": _from_hub(name, repository, "model"), "custom_load": False}
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
        model, name, Preprocessing(size=tuple(config["input_size"][1:]), **_tuples(transform))
    )


def _check_tag(name: str) -> None:
    """Refuse ``ARCHITECTURE.TAG`` where timm knows no weights by that tag."""
    import timm

    try:
        timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        architecture, _, tag = name.partition(".")
        tags = (one.partition(".")[2] for one in timm.list_pretrained(f"{architecture}.*"))
        raise InputError(
            f"timm has no weights {tag!r} of {architecture}: use one of {', '.join(tags) or 'none'}"
        ) from error


def _load_transformers(name: str, weights: str | Path | None) -> Encoder:
    transformers = _optional("transformers", "transformers")
    local = Path(name).is_dir()
    try:
        config = transformers.AutoConfig.from_pretrained(name)
        config = getattr(config, "vision_config", config)
        if weights is None:
            model, found = transformers.AutoModel.from_pretrained(
                name,
                config=config,
                use_safetensors=True,
                attn_implementation="sdpa",
                output_loading_info=True,
            )
            _leave_out_pooler(model, found["missing_keys"])
        else:
            model = transformers.AutoModel.from_config(config, attn_implementation="sdpa")
        processor = transformers.AutoImageProcessor.from_pretrained(name).to_dict()
    except (OSError, ValueError) as error:
        raise InputError(
            f"the transformers model {name!r} could not be loaded ({error})"
            + ("" if local else "; give a local folder that holds it: transformers:FOLDER")
        ) from error
    if weights is not None and weights != RANDOM:
        load_weights(model, Path(weights))
    side = config.image_size if isinstance(config.image_size, int) else config.image_size[0]
    return Encoder(model, f"transformers:{name}", _preprocessing(processor, side))


def _preprocessing(processor: dict[str, Any], side: int) -> Preprocessing:
    """What a processor of transformers does, to images of the model's own size."""
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
    """Take away a pooler that the checkpoint has no weights of: it is drawn anew at each load.

    Features are then the class token behind the final norm, which such a model's own classifier
    reads.

    Raises:
        ValueError: if weights of another part are missing, which are drawn likewise.
    """
    others = sorted(name for name in missing if not name.startswith("pooler."))
    if others:
        raise ValueError(f"its checkpoint has no weights of {shorten(', '.join(others), 200)}")
    if missing:
        model.pooler = None


def _load_open_clip(name: str, weights: str | Path | None) -> Encoder:
    open_clip = _optional("open_clip", "open-clip")
    if name not in open_clip.list_models():
        raise InputError(f"open_clip has no model {name!r}; open_clip.list_models() names them")
    tags = open_clip.list_pretrained_tags_by_model(name)
    found = open_clip.get_pretrained_cfg(name, tags[0]) if tags else {}
    file = None
    if weights is None:
        file = _from_hub(name, found.get("hf_hub", "").rpartition("/")[0], "open_clip_model")
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


def _from_hub(encoder: str, repository: str | None, stem: str) -> str:
    """The path of STEM.safetensors, downloaded; a repository that has pickles alone is refused."""
    from huggingface_hub import hf_hub_download

    remedy = "Give a local file with --encoder-weights FILE.safetensors"
    if not repository:
        raise InputError(f"the hub has no weights of {encoder!r}. {remedy}")
    try:
        return hf_hub_download(repository, f"{stem}.safetensors")
    except Exception as error:  # of the network, the hub or the disk: the remedy is the same
        raise InputError(
            f"{stem}.safetensors of {encoder!r} could not be had from {repository} on the hub "
            f"({error}). {remedy}, or use the encoder 'embedded'"
        ) from error


def _optional(module: str, extra: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise InputError(f"this encoder needs an extra: pip install 'medept[{extra}]'") from error


def _tuples(transform: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in transform.items()}


def load_weights(model: nn.Module, file: Path) -> None:
    """Load a safetensors file into ``model``; a classifier in the file is left out.

    Raises:
        InputError: if the file is missing, no safetensors file, or made for another model.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if file.suffix != ".safetensors":
        raise InputError(f"{file}: weights are read from .safetensors files alone")
    try:
        state = load_file(file)
    except FileNotFoundError as error:
        raise InputError(f"{file}: no such file") from error
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file}: not a readable safetensors file ({error})") from error
    if not is_finite(state):
        raise InputError(f"{file}: damaged, some of its weights are no numbers; get it again")
    heads = (getattr(model, "pretrained_cfg", None) or {}).get("classifier") or ()
    heads = (heads,) if isinstance(heads, str) else tuple(heads)
    state = {k: v for k, v in state.items() if not k.startswith(tuple(f"{h}." for h in heads))}
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        if (file.parent / "adapter.json").exists():
            raise InputError(
                f"{file}: an adapter, not an encoder's weights; give its folder to `medept predict`"
            ) from error
        why = shorten(str(error), 300)
        raise InputError(f"{file}: these weights belong to another model: {why}") from error
