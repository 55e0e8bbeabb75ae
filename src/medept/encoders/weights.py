"""Weights of an encoder: a local safetensors file, or the hub; never a pickle."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from textwrap import shorten
from typing import Any

from torch import nn

from medept.encoders.tensors import is_finite
from medept.errors import EncoderError, ResourceError

RANDOM = "random"


def download_weights(encoder: str, repository: str | None, stem: str) -> str:
    """The path of STEM.safetensors, downloaded; a repository that has pickles alone is refused."""
    from huggingface_hub import hf_hub_download

    remedy = "Give a local file with --encoder-weights FILE.safetensors"
    if not repository:
        raise EncoderError(f"the hub has no weights of {encoder!r}. {remedy}")
    try:
        return hf_hub_download(repository, f"{stem}.safetensors")
    except Exception as error:  # of the network, the hub or the disk: the remedy is the same
        raise EncoderError(
            f"{stem}.safetensors of {encoder!r} could not be had from {repository} on the hub "
            f"({error}). {remedy}, or use the encoder 'embedded'"
        ) from error


def import_extra(module: str, extra: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise ResourceError(
            f"this encoder needs an extra: pip install 'medept[{extra}]'"
        ) from error


def as_tuples(transform: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in transform.items()}


def load_weights(model: nn.Module, file: Path) -> None:
    """Load a safetensors file into ``model``; a classifier in the file is left out.

    Raises:
        InputError: if the file is missing, no safetensors file, or made for another model.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if file.suffix != ".safetensors":
        raise EncoderError(f"{file}: weights are read from .safetensors files alone")
    try:
        state = load_file(file)
    except FileNotFoundError as error:
        raise EncoderError(f"{file}: no such file") from error
    except (SafetensorError, OSError) as error:
        raise EncoderError(f"{file}: not a readable safetensors file ({error})") from error
    if not is_finite(state):
        raise EncoderError(f"{file}: damaged, some of its weights are no numbers; get it again")
    heads = (getattr(model, "pretrained_cfg", None) or {}).get("classifier") or ()
    heads = (heads,) if isinstance(heads, str) else tuple(heads)
    state = {k: v for k, v in state.items() if not k.startswith(tuple(f"{h}." for h in heads))}
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        if (file.parent / "adapter.json").exists():
            raise EncoderError(
                f"{file}: an adapter, not an encoder's weights; give its folder to `medept predict`"
            ) from error
        why = shorten(str(error), 300)
        raise EncoderError(f"{file}: these weights belong to another model: {why}") from error
