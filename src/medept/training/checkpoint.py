"""Where a fit that was killed goes on: after its last finished epoch, to the same final weights.

In float16, whose loss is scaled by a factor that is not kept, they are nearly the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medept.files import write_tensors


class Checkpoint:
    """A safetensors file with all that changes from epoch to epoch.

    Args:
        file: where it is kept.
        key: what determines the run; a file of another run is left alone until it is overwritten.
    """

    def __init__(self, file: Path, key: Any) -> None:
        self.file = file
        self.key = hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()

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

    def remove(self) -> None:
        """There is nothing to go on to."""
        self.file.unlink(missing_ok=True)
