"""Patch-wise scaling: by how much prompts turn down each token, and where attention goes.

The gate of equation 5, Z / (Z + sum_l exp p_il), is a number between 0 and 1 for every layer, head
and token of an image: what the token keeps of its attention output. Beside it stands attention
rollout (Abnar and Zuidema 2020): the product over layers of (A + I) / 2, which says from which
tokens the one that is read out took what it holds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medept.errors import DataError
from medept.methods.base import AdaptedEncoder


@dataclass(frozen=True)
class Scaling:
    """Gates and rollout of n images.

    Attributes:
        gates: (n, layers, heads, T).
        rollout: (n, T), a share of each token; sums to 1.
        layers: the layers that hold prompts, counted from 1.
        prefix: the first tokens that have no place on the grid (class token, registers).
        grid: rows and columns of the other tokens.
    """

    gates: np.ndarray
    rollout: np.ndarray
    layers: tuple[int, ...]
    prefix: int
    grid: tuple[int, int]

    def gate_maps(self) -> np.ndarray:
        """Gates over the image: (n, layers, heads, rows, columns)."""
        return self.gates[..., self.prefix :].reshape(*self.gates.shape[:3], *self.grid)

    def rollout_maps(self) -> np.ndarray:
        """Rollout over the image: (n, rows, columns)."""
        return self.rollout[:, self.prefix :].reshape(-1, *self.grid)


def has_gates(model: AdaptedEncoder) -> bool:
    """Whether :func:`patch_scaling` can look at it: prompts of the way ``concat``, layers alike.

    Tokens have to stand for patches on a grid that is known. Attention in windows (Swin), whose
    layers differ, has a grid for each window, not the image.
    """
    handle = model.handle
    if handle is None or not handle.prompts:
        return False
    ways = {prompt.way for prompt in handle.prompts.values()}
    alike = len({(site.heads, site.tokens) for site in handle.sites}) == 1
    return ways == {"concat"} and alike and all(handle.sites[0].grid)


@torch.inference_mode()
def patch_scaling(model: AdaptedEncoder, batches: Iterable[Tensor]) -> Scaling:
    """Gates and rollout of batches of pixels (B, 3, H, W), as the encoder is evaluated on them.

    Where prompts are in some layers alone, the rollout is over these.

    Raises:
        InputError: if the model has no gates (see :func:`has_gates`).
    """
    handle = model.handle
    if handle is None or not has_gates(model):
        raise DataError("only prompts of the way 'concat' over one grid of tokens have gates")
    gates, rollouts = [], []
    device = next(model.parameters()).device
    for pixels in batches:
        with handle.recording():
            model.encoder(pixels.to(device))
        gates.append(torch.stack(list(handle.gates().values()), dim=1).float().cpu())
        rollouts.append(_rollout(list(handle.attention().values()), handle.sites[0].prefix))
    first = handle.sites[0]
    return Scaling(
        torch.cat(gates).numpy(),
        torch.cat(rollouts).numpy(),
        tuple(i + 1 for i in handle.prompts),
        first.prefix,
        first.grid,
    )


def _rollout(attention: list[Tensor], prefix: int) -> Tensor:
    """Of the class token, or of the mean where there is none: (B, T)."""
    tokens = attention[0].shape[-1]
    seen = torch.eye(tokens, device=attention[0].device)
    for weights in attention:
        seen = (0.5 * weights.float() + 0.5 * torch.eye(tokens, device=weights.device)) @ seen
    return (seen[:, 0] if prefix else seen.mean(dim=1)).cpu()
