"""Random views of a batch: pixels and the teacher's tokens move together, colours change alone."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import v2

DRAWS = 8
"""Draws of other colours per batch: torchvision draws once per call."""


def crop_turn_flip(
    pixels: Tensor, patches: Tensor, settings: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    """The same random crop, rotation and flip of pixels (B, 3, H, W) and tokens (B, D, h, w)."""
    n, device = len(pixels), pixels.device
    side = torch.empty(n, device=device).uniform_(settings["crop_scale"], 1).sqrt()
    turn = torch.empty(n, device=device).uniform_(-1, 1) * math.radians(settings["degrees"])
    flip = torch.where(torch.rand(n, device=device) < 0.5, -1.0, 1.0)
    shift = (torch.rand(n, 2, device=device) * 2 - 1) * (1 - side)[:, None]
    cosine, sine = side * turn.cos(), side * turn.sin()
    rows = (flip * cosine, -sine, shift[:, 0]), (flip * sine, cosine, shift[:, 1])
    theta = torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)

    def view(x: Tensor) -> Tensor:
        grid = F.affine_grid(theta, list(x.shape), align_corners=False)
        return F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)

    return view(pixels), view(patches)


def recolour(pixels: Tensor, settings: dict[str, Any]) -> Tensor:
    """Pixels (B, 3, H, W), 0 to 1, with other colours and parts erased; -1 to 1.

    The three alterations are those of Touvron et al., ECCV 2022 ("3-Augment").
    """
    amount = settings["colour"]
    altered = [v2.Grayscale(3), v2.RandomSolarize(0.5, p=1), v2.GaussianBlur(5)]
    change = v2.Compose(
        [
            v2.ColorJitter(amount, amount, amount),
            v2.RandomApply([v2.RandomChoice(altered)], p=settings["altered"]),
            v2.Normalize([0.5] * 3, [0.5] * 3),
            v2.RandomErasing(p=settings["erased"]),
        ]
    )
    return torch.cat([change(part) for part in pixels.clamp(0, 1).chunk(DRAWS)])


def mix(weights: Tensor, x: Tensor) -> Tensor:
    """Blend each row of ``x``, by its weight, with the row before it."""
    return torch.lerp(x.roll(1, 0), x, weights)


def mixing(n: int, side: int, settings: dict[str, Any], device: torch.device) -> Tensor:
    """Weights for :func:`mix` on the grid of tokens, (n, 1, side, side): 1 keeps the image.

    MixUp (Zhang et al., ICLR 2018) has one weight everywhere, CutMix (Yun et al., ICCV 2019) has
    weights of 1 or 0: here for whole tokens, so that the teacher's tokens stay valid targets.
    """
    kind = torch.rand(()).item() / settings["mixed"]
    if kind >= 1:
        return torch.ones(n, 1, side, side, device=device)
    share = torch.rand(n, 1, 1, 1, device=device)
    if kind < 0.5:
        return share.expand(-1, -1, side, side)
    width = (side * (1 - share).sqrt()).round()
    place = torch.arange(side, device=device)
    corner = (torch.rand(2, n, 1, 1, 1, device=device) * (side - width + 1)).floor()
    inside = [(start <= place) & (place < start + width) for start in corner]
    return 1 - (inside[0].transpose(2, 3) & inside[1]).float()
