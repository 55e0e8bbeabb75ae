"""Weights of an encoder: from a local safetensors file or from the hub, never from a pickle."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from textwrap import shorten
from typing import Any

from torch import nn

from medept.encoders.tensors import is_finite
from medept.errors import EncoderError, ResourceError

RANDOM = "random"
"""In place of a file: untrained weights."""


def download_weights(encoder: str, repository: str | None, stem: str) -> str:
    """Download ``STEM.safetensors`` from the Hugging Face hub; returns its path.

    Args:
        encoder: its name, for messages.
        repository: ``OWNER/NAME`` on the hub; None if there is none.
        stem: the file's name without its suffix.

    Raises:
        EncoderError: if the file cannot be downloaded, or the repository has pickles alone.
    """
    from huggingface_hub import hf_hub_download

    remedy = "Give a local file, encoder_weights=FILE.safetensors"
    if not repository:
        raise EncoderError(f"the hub has no weights of {encoder!r}. {remedy}")
    try:
        return hf_hub_download(repository, f"{stem}.safetensors")
    except Exception as error:  # network, hub or disk: the remedy is the same
        raise EncoderError(
            f"{stem}.safetensors of {encoder!r} could not be downloaded from {repository} on the "
            f"hub ({error}). {remedy}, or use the encoder 'embedded'"
        ) from error


def import_extra(module: str, extra: str) -> Any:
    """Import a library that comes with an extra of medept.

    Raises:
        ResourceError: if it is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ResourceError(
            f"this encoder needs an extra: pip install 'medept[{extra}]'"
        ) from error


def as_tuples(transform: dict[str, Any]) -> dict[str, Any]:
    """The same values, with tuples in place of lists.

    >>> as_tuples({"mean": [0.5, 0.5, 0.5], "crop_pct": 0.9})
    {'mean': (0.5, 0.5, 0.5), 'crop_pct': 0.9}
    """
    return {k: tuple(v) if isinstance(v, list) else v for k, v in transform.items()}


def load_weights(model: nn.Module, file: Path) -> None:
    """Load a safetensors file into ``model``, without a classifier that the file may hold.

    Raises:
        EncoderError: if the file is missing, is no safetensors file, holds NaN or infinity, or
            belongs to another model.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if file.suffix != ".safetensors":
        raise EncoderError(f"{file}: weights are read from .safetensors files only")
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
