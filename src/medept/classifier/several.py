"""Several encoders in one fit: each is adapted by itself, and their probabilities are averaged.

Averaged probabilities were measured to be as accurate as features side by side, and better
calibrated (docs/accuracy.md); and each encoder keeps its own input size and its own head.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from medept.encoders.load import EMBEDDED
from medept.errors import SettingsError

Weights = str | Path | None


def pair_weights(
    encoders: str | Sequence[str], weights: Weights | Sequence[Weights]
) -> list[tuple[str, Weights]]:
    """Each encoder with the file of its weights, or None for its own.

    Args:
        encoders: names, in the order in which they were given.
        weights: none at all; one for each encoder; or one for each but ``embedded``.

    Raises:
        SettingsError: if an encoder is named twice, or the weights are of another number.

    >>> pair_weights(["embedded", "vit_tiny_patch16_224"], "vit.safetensors")
    [('embedded', None), ('vit_tiny_patch16_224', 'vit.safetensors')]
    """
    names = [encoders] if isinstance(encoders, str) else list(encoders)
    files = [weights] if weights is None or isinstance(weights, str | Path) else list(weights)
    if not names:
        raise SettingsError("encoder=[]: name one encoder at least")
    if len(set(names)) < len(names):
        raise SettingsError(f"encoder={', '.join(names)}: name each encoder once")
    if files in ([], [None]):
        files = [None] * len(names)
    if len(names) > 1 and len(files) < len(names):
        with_files = [name for name in names if name != EMBEDDED]
        if len(files) == len(with_files):
            remaining = iter(files)
            files = [None if name == EMBEDDED else next(remaining) for name in names]
    if len(files) != len(names):
        raise SettingsError(
            f"{len(files)} encoder_weights= for the encoders {', '.join(names)}: give one for each "
            f"in the same order, or for each but {EMBEDDED}"
        )
    return list(zip(names, files, strict=True))


def logits_of_probabilities(probabilities: np.ndarray, task: str) -> np.ndarray:
    """Logits (n, C) that come to these probabilities (n, C)."""
    least = np.finfo(np.float64).tiny
    logs = np.log(np.clip(probabilities, least, None))
    if task == "multiclass":
        return logs
    return logs - np.log(np.clip(1 - probabilities, least, None))


def joined_states(states: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors of all encoders, those after the first by names that say whose they are."""
    return {_prefix(i) + name: x for i, state in enumerate(states) for name, x in state.items()}


def split_state(state: dict[str, Tensor], encoders: int) -> list[dict[str, Tensor]]:
    """What :func:`joined_states` joined."""
    parts: list[dict[str, Tensor]] = [{} for _ in range(encoders)]
    for name, tensor in state.items():
        owner = next((i for i in range(1, encoders) if name.startswith(_prefix(i))), 0)
        parts[owner][name.removeprefix(_prefix(owner))] = tensor
    return parts


def _prefix(encoder: int) -> str:
    return f"encoder-{encoder + 1}." if encoder else ""
