"""Weights of an encoder: from a local safetensors file or from the hub, never from a pickle."""

from __future__ import annotations

import logging
from importlib import import_module
from pathlib import Path
from textwrap import shorten
from typing import Any

from torch import Tensor, nn

from medept.encoders.tensors import is_finite
from medept.errors import EncoderError, ResourceError

logger = logging.getLogger(__name__)

RANDOM = "random"
"""In place of a file: untrained weights."""

REMEDY = "Give a local file, encoder_weights=FILE.safetensors"

CONVERT = (
    "medept reads weights as safetensors alone, and never unpickles: convert a .pth or .bin once, "
    "in Python, with state = torch.load(FILE, weights_only=True) and "
    "safetensors.torch.save_file(state, 'FILE.safetensors'), where state is the dict of tensors "
    "by name (it may lie under a key such as 'model'); then give encoder_weights=FILE.safetensors"
)
"""What to do about weights in a pickle."""

WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
"""What PyTorch puts into the names of weights of compiled, sharded and checkpointed modules."""


def download_weights(encoder: str, repository: str | None, stem: str) -> str:
    """Download ``STEM.safetensors`` from the Hugging Face hub; returns its path.

    Args:
        encoder: its name, for messages.
        repository: ``OWNER/NAME`` on the hub; None if there is none.
        stem: the file's name without its suffix.

    Raises:
        EncoderError: if the file cannot be downloaded, or the repository has pickles alone.
    """
    if not repository:
        raise EncoderError(f"the hub has no weights of {encoder!r}. {REMEDY}")
    return download(encoder, repository, f"{stem}.safetensors")


def download(encoder: str, repository: str, file: str) -> str:
    """Download a file from the Hugging Face hub; returns its path.

    Args:
        encoder: its name, for messages.
        repository: ``OWNER/NAME`` on the hub.
        file: its name in the repository.

    Raises:
        EncoderError: if it is not there, not open to everyone, or the hub cannot be reached.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import RemoteEntryNotFoundError

    try:
        return hf_hub_download(repository, file)
    except RemoteEntryNotFoundError as error:
        raise EncoderError(f"{repository} on the hub has no {file}. {CONVERT}") from error
    except Exception as error:  # network, hub or disk: the remedy is the same
        raise EncoderError(
            f"{file} of {encoder!r} could not be downloaded from {repository} on the hub ({error})."
            f" {access(repository)}. {REMEDY}, or use the encoder 'embedded'"
        ) from error


def access(repository: str) -> str:
    """How to get at a repository on the hub that is not open to everyone."""
    return (
        f"If it is gated, ask for access at https://huggingface.co/{repository} and set HF_TOKEN "
        "to your token"
    )


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


def read_weights(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, by name.

    Raises:
        EncoderError: if the file is missing, is no safetensors file, or holds NaN or infinity.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if file.suffix != ".safetensors":
        raise EncoderError(f"{file}: weights are read from .safetensors files only. {CONVERT}")
    try:
        state = load_file(file)
    except FileNotFoundError as error:
        raise EncoderError(f"{file}: no such file") from error
    except (SafetensorError, OSError) as error:
        raise EncoderError(f"{file}: not a readable safetensors file ({error})") from error
    if not is_finite(state):
        raise EncoderError(f"{file}: damaged, some of its weights are no numbers; get it again")
    return state


def named_as_in(model: nn.Module, state: dict[str, Tensor], file: Path) -> dict[str, Tensor]:
    """The weights of a model under the model's own names, without a classifier.

    Frameworks put names before those of the model (``module.``, ``teacher.backbone.``): whatever
    stands before every one of its names is removed, and said. So is what stands outside it.

    Args:
        model: whose weights they are.
        state: tensors by name.
        file: where they came from, for messages.

    Raises:
        EncoderError: if they hold the model twice, so that it is not clear which is meant.
    """
    removed = [wrapper for wrapper in WRAPPERS if any(wrapper in name for name in state)]
    for wrapper in removed:
        state = {name.replace(wrapper, ""): tensor for name, tensor in state.items()}
    prefix = _prefix(list(model.state_dict()), state, file)
    own = {n.removeprefix(prefix): tensor for n, tensor in state.items() if n.startswith(prefix)}
    removed += [prefix] if prefix else []
    if removed:
        rest = len(state) - len(own)
        others = f"; {rest} others were left out" if rest else ""
        names = " and ".join(map(repr, removed))
        logger.info("%s: %s was removed from the names of weights%s", file.name, names, others)
    heads = (getattr(model, "pretrained_cfg", None) or {}).get("classifier") or ()
    heads = (heads,) if isinstance(heads, str) else tuple(heads)
    return {k: v for k, v in own.items() if not k.startswith(tuple(f"{h}." for h in heads))}


def _prefix(names: list[str], state: dict[str, Tensor], file: Path) -> str:
    """What stands before the model's names, in as many of the weights' names as possible."""
    longest = max(names, key=len)
    ends = (name.removesuffix(longest) for name in state if name.endswith(longest))
    found = {end: sum(end + n in state for n in names) for end in ends if end[-1:] in ("", ".")}
    most = max(found.values(), default=0)
    best = [prefix for prefix, count in found.items() if count == most]
    if "" in best or not best:
        return ""
    if len(best) > 1:
        best = [prefix for prefix in best if "teacher" in prefix] or best
    if len(best) > 1:
        raise EncoderError(
            f"{file}: it holds this model under several names, {', '.join(sorted(best))}: save one "
            "of them alone"
        )
    return best[0]


def sizes_differ(model: nn.Module, state: dict[str, Tensor]) -> list[str]:
    """Names of the weights whose shape is not that of the model's."""
    own = model.state_dict()
    return [n for n, tensor in state.items() if n in own and own[n].shape != tensor.shape]


def load_weights(model: nn.Module, state: dict[str, Tensor], file: Path) -> None:
    """Load weights that are named as the model's, all of them.

    Args:
        model: is changed.
        state: tensors by name, as :func:`named_as_in` gives them.
        file: where they came from, for messages.

    Raises:
        EncoderError: if they belong to another model, or are for another input size.
    """
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        if (file.parent / "adapter.json").exists():
            raise EncoderError(
                f"{file}: an adapter, not an encoder's weights; give its folder to `medept predict`"
            ) from error
        differ = sizes_differ(model, state)
        if differ and all("pos" in name for name in differ) and set(state) == {*model.state_dict()}:
            raise EncoderError(
                f"{file}: its position embeddings are for images of another size: give the size "
                "that it was trained at, image_size=PIXELS"
            ) from error
        why = shorten(" ".join(str(error).split()), 300)
        raise EncoderError(f"{file}: these weights belong to another model: {why}") from error
