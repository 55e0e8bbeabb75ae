"""Prompts made for one token grid, resized to another, as position embeddings are."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medept.errors import EncoderError

Grid = tuple[int, int]
"""Rows and columns of patches."""


def similar_grid(grid: Grid, patches: int) -> Grid:
    """The grid of so many patches whose proportions are closest to those of another.

    >>> similar_grid((14, 14), patches=256)
    (16, 16)
    >>> similar_grid((2, 4), patches=18)
    (3, 6)

    Raises:
        InputError: if so many patches form no such grid.
    """
    rows = round(math.sqrt(patches * grid[0] / grid[1])) if grid[1] else 0
    if rows < 1 or patches % rows:
        raise EncoderError(
            f"{patches} patches do not form a grid like the {grid[0]} x {grid[1]} that the prompts "
            "were made for: use images of the same proportions"
        )
    return rows, patches // rows


def resize_rows(prompt: Tensor, prefix: int, old: Grid, new: Grid) -> Tensor:
    """(..., T, L) for one grid -> (..., T', L) for another, by bicubic interpolation.

    The first ``prefix`` rows belong to tokens that are no patches, and stay as they are.

    >>> resize_rows(torch.ones(1 + 4 * 4, 5), prefix=1, old=(4, 4), new=(6, 6)).shape
    torch.Size([37, 5])
    """
    head, body = prompt[..., :prefix, :], prompt[..., prefix:, :]
    length = prompt.shape[-1]
    image = body.reshape(-1, *old, length).permute(0, 3, 1, 2)
    image = F.interpolate(image, size=new, mode="bicubic", antialias=True, align_corners=False)
    body = image.permute(0, 2, 3, 1).reshape(*prompt.shape[:-2], new[0] * new[1], length)
    return torch.cat([head, body], dim=-2)


class GridWatch:
    """Remembers the token grid of the image that a model is working on.

    It is a forward hook of the convolution that makes the patches.

    Attributes:
        grid: rows and columns; None until an image has passed.
    """

    def __init__(self) -> None:
        self.grid: Grid | None = None

    def __call__(self, _: nn.Module, __: Any, output: Tensor) -> None:
        self.grid = (output.shape[-2], output.shape[-1])
