"""Patch-wise scaling: how much prompts suppress each token, and where attention goes.

The gate of equation 5, Z / (Z + sum_l exp p_il), is the share of its attention output that a token
keeps: a number between 0 and 1 for every layer, head and token of an image. Attention rollout
(Abnar and Zuidema 2020) is the product over layers of (A + I) / 2. Its row for the class token says
how much each token contributes to the features of the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medept.data.images import ImageLike
from medept.errors import DataError
from medept.methods.base import AdaptedEncoder
from medept.training.inference import pixel_batches

IMAGES_AT_ONCE = 16
"""A smaller batch than for predictions, as the attention of all layers is kept as well."""


@dataclass(frozen=True)
class PatchScaling:
    """Gates and attention rollout of n images.

    Attributes:
        gates: (n, layers, heads, T).
        rollout: (n, T), the share of each token; a row sums to 1.
        layers: numbers of the layers that have prompts, from 1.
        prefix: number of tokens before the patches (class token, registers).
        grid: rows and columns of patches.
    """

    gates: np.ndarray
    rollout: np.ndarray
    layers: tuple[int, ...]
    prefix: int
    grid: tuple[int, int]

    def gate_maps(self) -> np.ndarray:
        """Gates of the patches, as maps: (n, layers, heads, rows, columns)."""
        return self.gates[..., self.prefix :].reshape(*self.gates.shape[:3], *self.grid)

    def rollout_maps(self) -> np.ndarray:
        """Rollout of the patches, as maps: (n, rows, columns)."""
        return self.rollout[:, self.prefix :].reshape(-1, *self.grid)


def has_gates(model: AdaptedEncoder) -> bool:
    """Whether :func:`patch_scaling` can measure its gates.

    That takes prompts of the way ``concat`` or ``keys``, and tokens that are the patches of one
    grid in all layers. Attention in windows (Swin) has a grid for each window, none for the image.
    """
    handle = model.handle
    if handle is None or not handle.prompts:
        return False
    gated = all(prompt.has_gates for prompt in handle.prompts.values())
    alike = len({(site.heads, site.tokens) for site in handle.sites}) == 1
    return gated and alike and all(handle.sites[0].grid)


@torch.inference_mode()
def patch_scaling(model: AdaptedEncoder, images: Sequence[ImageLike]) -> PatchScaling:
    """Gates and attention rollout of images, prepared as they are for predictions.

    If only some layers have prompts, the rollout is over these.

    Raises:
        InputError: if the model has no gates (see :func:`has_gates`), or an image cannot be read.

    >>> from medept.encoders.load import load_encoder
    >>> from medept.methods import adapt
    >>> model = adapt(load_encoder(), "ept", classes=2)
    >>> black = np.zeros((64, 64, 3), dtype=np.uint8)
    >>> scaling = patch_scaling(model, [black])
    >>> scaling.gate_maps().shape  # image, layer, head, row, column
    (1, 8, 3, 8, 8)
    """
    handle = model.handle
    if handle is None or not has_gates(model):
        raise DataError(
            "only prompts of the ways 'concat' and 'keys' over one grid of patches have gates"
        )
    gates, rollouts = [], []
    device = next(model.parameters()).device
    for pixels in pixel_batches(images, model.encoder.preprocessing, size=IMAGES_AT_ONCE):
        with handle.recording():
            model.encoder(pixels.to(device))
        gates.append(torch.stack(list(handle.gates().values()), dim=1).float().cpu())
        rollouts.append(_rollout(list(handle.attention().values()), handle.sites[0].prefix))
    first = handle.sites[0]
    return PatchScaling(
        torch.cat(gates).numpy(),
        torch.cat(rollouts).numpy(),
        tuple(i + 1 for i in handle.prompts),
        first.prefix,
        first.grid,
    )


def _rollout(attention: list[Tensor], prefix: int) -> Tensor:
    """Rollout (B, T) of the class token, or without one the mean over all tokens."""
    tokens = attention[0].shape[-1]
    flow = torch.eye(tokens, device=attention[0].device)
    for weights in attention:
        flow = (0.5 * weights.float() + 0.5 * torch.eye(tokens, device=weights.device)) @ flow
    return (flow[:, 0] if prefix else flow.mean(dim=1)).cpu()
