"""Tensors by name: are they finite, and what is their hash."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def is_finite(state: dict[str, Tensor]) -> bool:
    """Whether no number is infinite or NaN.

    >>> is_finite({"weight": torch.tensor([1.0, torch.nan])})
    False
    """
    return all(bool(tensor.isfinite().all()) for tensor in state.values())


def fingerprint(state: dict[str, Tensor]) -> str:
    """SHA-256 over the names and bytes of all tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(name.encode())
        data = tensor.detach().cpu().contiguous()
        digest.update(data.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
