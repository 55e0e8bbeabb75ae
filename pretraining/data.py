"""Batches of Tiny ImageNet with what the teacher says of them, and their random views."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Data:
    """Images with the teacher's tokens, standardised; batches in a random order without end."""

    def __init__(self, work: Path, size: int) -> None:
        self.images = np.load(work / "train_images.npy", mmap_mode="r")
        self.labels = torch.from_numpy(np.load(work / "train_labels.npy"))
        self.cls = np.load(work / "teacher_cls.npy", mmap_mode="r")
        self.patches = np.load(work / "teacher_patches.npy", mmap_mode="r")
        self.size, self.width = size, self.cls.shape[1]
        done = int((work / "cache_done.txt").read_text())
        self.pool = np.load(work / "order.npy")[:done]
        sample = self.pool[:2000]
        tokens = (self.cls[sample], self.patches[sample].reshape(-1, self.width))
        self.statistics = [
            (t.mean(0), t.std(0) + 1e-3) for t in (torch.from_numpy(a).float() for a in tokens)
        ]

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Pixels (B, 3, H, W), labels, class tokens (B, D) and patch tokens (B, D, h, w).

        A function of the step alone, so that a resumed run sees what an unbroken one would.
        """
        epoch, place = divmod(step * self.size, len(self.pool) // self.size * self.size)
        shuffled = np.random.default_rng(epoch).permutation(self.pool)
        rows = np.sort(shuffled[place : place + self.size])
        pixels = torch.from_numpy(self.images[rows]).permute(0, 3, 1, 2).float() / 127.5 - 1
        (cls_mean, cls_scale), (mean, scale) = self.statistics
        cls = (torch.from_numpy(self.cls[rows]).float() - cls_mean) / cls_scale
        patches = (torch.from_numpy(self.patches[rows]).float() - mean) / scale
        side = int(patches.shape[1] ** 0.5)
        patches = patches.transpose(1, 2).reshape(len(rows), -1, side, side)
        return pixels, self.labels[rows], cls, patches


def crop_and_flip(pixels: Tensor, patches: Tensor, smallest: float) -> tuple[Tensor, Tensor]:
    """The same random crop (at least ``smallest`` of the area) and flip of pixels and tokens."""
    n = len(pixels)
    side = torch.empty(n).uniform_(smallest, 1).sqrt()
    flip = torch.where(torch.rand(n) < 0.5, -1.0, 1.0)
    shift = (torch.rand(n, 2) * 2 - 1) * (1 - side)[:, None]
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = side * flip, side, shift
    theta = theta.to(pixels.device)

    def view(x: Tensor) -> Tensor:
        grid = F.affine_grid(theta, list(x.shape), align_corners=False)
        return F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)

    return view(pixels), view(patches)


def jitter(pixels: Tensor) -> Tensor:
    """Random gain and offset, each channel slightly its own."""
    n = len(pixels)
    gain = torch.empty(n, 1, 1, 1).uniform_(0.7, 1.3) * torch.empty(n, 3, 1, 1).uniform_(0.9, 1.1)
    offset = torch.empty(n, 1, 1, 1).uniform_(-0.2, 0.2)
    return pixels * gain.to(pixels.device) + offset.to(pixels.device)


@torch.inference_mode()
def accuracy(student: nn.Module, work: Path, device: str, count: int = 2000) -> float:
    """Top-1 accuracy of ``student.labels`` on the first ``count`` validation images."""
    images = np.load(work / "val_images.npy", mmap_mode="r")[:count]
    labels = torch.from_numpy(np.load(work / "val_labels.npy")[:count])
    training = student.training
    student.eval()
    right = 0
    for start in range(0, count, 200):
        pixels = torch.from_numpy(images[start : start + 200].copy()).permute(0, 3, 1, 2).float()
        tokens = student((pixels / 127.5 - 1).to(device))
        guess = student.labels(tokens[:, 0]).argmax(1).cpu()  # type: ignore[operator]
        right += int((guess == labels[start : start + 200]).sum())
    student.train(training)
    return right / count
