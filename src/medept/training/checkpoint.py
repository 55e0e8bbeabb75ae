"""Where a fit that was killed goes on: after its last trial or epoch, to the same final weights.

Epochs in which the head is trained alone are made again: they take seconds.

In float16, whose loss is scaled by a factor that is not kept, they are nearly the same.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medept.files import write_tensors, write_text
from medept.progress import is_main_process

ANOTHER = "%s is of another fit (other images, settings or precision): this one begins anew"

TRIALS = ".trials.json"
"""In place of a checkpoint's suffix."""

logger = logging.getLogger(__name__)


def remove_checkpoint(file: Path) -> None:
    """The fit is finished: remove its checkpoint, and that of its search."""
    for one in (file, file.with_suffix(TRIALS)):
        one.unlink(missing_ok=True)


def _digest(key: Any) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()


class Trials:
    """A JSON file, beside a checkpoint, of the losses of a search's trials.

    A search proposes the same each time: one that was killed looks its first losses up. Arguments
    are those of :class:`Checkpoint`.
    """

    def __init__(self, checkpoint: Path, key: Any) -> None:
        self.file, self.key = checkpoint.with_suffix(TRIALS), _digest(key)
        self.losses: dict[int, float] = {}
        """By the trial's number; those that came to nothing are tried again."""
        try:
            found = json.loads(self.file.read_text(encoding="utf-8"))
            if found["key"] == self.key:
                self.losses = {int(number): loss for number, loss in found["losses"].items()}
            else:
                logger.info(ANOTHER, self.file)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass

    def add(self, number: int, loss: float) -> None:
        """Keep one more."""
        self.losses[number] = loss
        if is_main_process():
            write_text(self.file, json.dumps({"key": self.key, "losses": self.losses}) + "\n")


class Checkpoint:
    """A safetensors file with all that changes from epoch to epoch.

    Args:
        file: where it is kept.
        key: what determines the run; a file of another run is left alone until it is overwritten.
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
        """Write the state after an epoch, whole or not at all."""
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
        """Put the state back, if there is one of this run; returns the history so far."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.file, framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("key") != self.key:
                    logger.info(ANOTHER, self.file)
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
