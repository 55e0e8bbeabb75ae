"""Batches of Tiny ImageNet with the teacher's tokens."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from prepare import DEVICE
from torch import Tensor, nn


class Data:
    """Images with the teacher's standardised tokens; endless batches in random order.

    With a GPU all of it (4 GB) is held in GPU memory; with a CPU it stays in its files.
    """

    def __init__(self, work: Path, size: int) -> None:
        def array(name: str) -> Tensor:
            values = np.load(work / f"{name}.npy", mmap_mode="c")  # torch wants to be able to write
            return torch.from_numpy(values).to(DEVICE)

        self.images, self.labels = array("train_images"), array("train_labels").long()
        self.cls, self.patches = array("teacher_cls"), array("teacher_patches")
        self.size, self.width = size, self.cls.shape[1]
        done = int((work / "cache_done.txt").read_text())
        self.pool = np.load(work / "order.npy")[:done]
        self.epoch, self.shuffled = -1, self.pool
        sample = torch.from_numpy(self.pool[:2000]).to(DEVICE)
        self.statistics = [
            (t.mean(0), t.std(0) + 1e-3)
            for t in (self.cls[sample].float(), self.patches[sample].flatten(0, 1).float())
        ]

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Pixels (B, 3, H, W) uint8, labels, class tokens (B, D) and patch tokens (B, D, h, w).

        A function of the step alone, so that a resumed run sees what an unbroken one would.
        """
        epoch, place = divmod(step * self.size, len(self.pool) // self.size * self.size)
        if epoch != self.epoch:
            self.epoch, self.shuffled = epoch, np.random.default_rng(epoch).permutation(self.pool)
        rows = torch.from_numpy(self.shuffled[place : place + self.size]).to(DEVICE)
        (cls_mean, cls_scale), (mean, scale) = self.statistics
        cls = (self.cls[rows].float() - cls_mean) / cls_scale
        patches = (self.patches[rows].float() - mean) / scale
        side = int(patches.shape[1] ** 0.5)
        patches = patches.transpose(1, 2).unflatten(2, (side, side))
        return self.images[rows].permute(0, 3, 1, 2), self.labels[rows], cls, patches

    def clean(self) -> Iterator[Tensor]:
        """8,192 unaltered images in batches (B, 3, H, W), -1 to 1."""
        for rows in torch.from_numpy(self.pool[:8192]).to(DEVICE).split(256):
            yield self.images[rows].permute(0, 3, 1, 2) / 127.5 - 1


@torch.inference_mode()
def accuracy(student: nn.Module, work: Path, count: int) -> float:
    """Top-1 accuracy of ``student.labels`` on the first ``count`` validation images."""
    images = np.load(work / "val_images.npy", mmap_mode="r")[:count]
    labels = torch.from_numpy(np.load(work / "val_labels.npy")[:count])
    training = student.training
    student.eval()
    right = 0
    for start in range(0, count, 200):
        pixels = torch.from_numpy(images[start : start + 200].copy()).permute(0, 3, 1, 2).float()
        tokens = student((pixels / 127.5 - 1).to(DEVICE))
        guess = student.labels(tokens[:, 0]).argmax(1).cpu()  # type: ignore[operator]
        right += int((guess == labels[start : start + 200]).sum())
    student.train(training)
    return right / count
