"""Checkpoints: a fit that was killed resumes after its last trial or epoch, to the same weights.

Epochs in which the head is trained alone are repeated; they take seconds. In float16 the weights
are nearly the same: the factor that scales the loss is not saved.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from glob import escape
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medept.files import write_tensors, write_text
from medept.progress import is_main_process

_OTHER_FIT = "%s is of another fit (other images, settings or precision): this one begins anew"

_TRIALS_SUFFIX = ".trials.json"
"""Replaces the checkpoint's suffix."""

logger = logging.getLogger(__name__)


def checkpoint_of(file: Path, member: int) -> Path:
    """The checkpoint of one of several encoders: the first has the file itself.

    >>> checkpoint_of(Path("fit.safetensors"), 1).name
    'fit.encoder-2.safetensors'
    """
    return file.with_stem(f"{file.stem}.encoder-{member + 1}") if member else file


def remove_checkpoint(file: Path) -> None:
    """Remove the checkpoints of a finished fit, and those of its search, if there are any."""
    others = file.parent.glob(f"{escape(file.stem)}.encoder-*{file.suffix}")
    for checkpoint in (file, *others):
        for one in (checkpoint, checkpoint.with_suffix(_TRIALS_SUFFIX)):
            one.unlink(missing_ok=True)


def _digest(key: Any) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()


class Trials:
    """The losses of a search's trials, in a JSON file beside the checkpoint.

    A search proposes the same parameters each time, so one that was killed looks up its first
    losses and goes on. Trials that failed are not kept; they are tried again.

    Args:
        checkpoint: the fit's checkpoint file.
        key: as for :class:`Checkpoint`.

    Attributes:
        losses: by the trial's number, from 0.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Trials(Path(folder) / "fit.safetensors", "this fit").add(0, 0.25)
    ...     again = Trials(Path(folder) / "fit.safetensors", "this fit").losses
    ...     other = Trials(Path(folder) / "fit.safetensors", "another fit").losses
    >>> again, other
    ({0: 0.25}, {})
    """

    def __init__(self, checkpoint: Path, key: Any) -> None:
        self.file, self.key = checkpoint.with_suffix(_TRIALS_SUFFIX), _digest(key)
        self.losses: dict[int, float] = {}
        try:
            found = json.loads(self.file.read_text(encoding="utf-8"))
            if found["key"] == self.key:
                self.losses = {int(number): loss for number, loss in found["losses"].items()}
            else:
                logger.info(_OTHER_FIT, self.file)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass

    def add(self, number: int, loss: float) -> None:
        """Add a trial's loss, and write the file."""
        self.losses[number] = loss
        if is_main_process():
            write_text(self.file, json.dumps({"key": self.key, "losses": self.losses}) + "\n")


class Checkpoint:
    """A safetensors file with everything that changes from epoch to epoch.

    Args:
        file: where to write it.
        key: all that determines the fit, as JSON can write it. A file with another key is not read,
            and is overwritten after the next epoch.
    """

    def __init__(self, file: Path, key: Any) -> None:
        self.file, self.key = file, _digest(key)

    def save(
        self,
        parameters: Sequence[nn.Parameter],
        optimizer: torch.optim.Optimizer,
        order: torch.Generator,
        history: list[dict[str, Any]],
    ) -> None:
        """Write the state after an epoch. The file appears whole or not at all.

        Args:
            parameters: what is trained.
            optimizer: with its state of each parameter.
            order: the generator of the order of images.
            history: the learning curve so far.
        """
        tensors = {"order": order.get_state()}
        for i, parameter in enumerate(parameters):
            tensors[f"{i}.value"] = parameter.detach()
            for name, value in optimizer.state[parameter].items():
                tensors[f"{i}.{name}"] = torch.as_tensor(value)
        write_tensors(self.file, tensors, {"key": self.key, "history": json.dumps(history)})

    @torch.no_grad()
    def restore(
        self,
        parameters: Sequence[nn.Parameter],
        optimizer: torch.optim.Optimizer,
        order: torch.Generator,
    ) -> list[dict[str, Any]]:
        """Put the state back in place, if the file has one of this fit.

        Returns:
            the learning curve so far; empty if there was nothing to restore.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.file, framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("key") != self.key:
                    logger.info(_OTHER_FIT, self.file)
                    return []
                tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (FileNotFoundError, SafetensorError, OSError):
            return []
        order.set_state(tensors.pop("order"))
        for name, tensor in tensors.items():
            index, _, part = name.partition(".")
            parameter = parameters[int(index)]
            if part == "value":
                parameter.copy_(tensor)
            else:
                place = "cpu" if part == "step" else parameter.device
                optimizer.state[parameter][part] = tensor.to(place)
        return json.loads(metadata["history"])
