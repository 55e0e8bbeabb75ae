"""Pretrain the embedded encoder: one configuration, one command, resumable.

    python pretraining/pretrain.py --data DATA --teacher FILE --work WORK --minutes 360
    python pretraining/pretrain.py --data DATA --teacher FILE --work WORK --minutes 20 --cooldown

The learning rate warms up and then stays: training can go on for as long as there are hours. A
cooldown takes the last checkpoint, lets the rate fall to zero with all tokens kept, and writes
``cooled.pt``, from which export.py makes the package's files. The stable run is not touched by
it, and can be continued afterwards.
"""

from __future__ import annotations

import argparse
import copy
import csv
import time
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from prepare import decode, teach
from torch import Tensor, nn

from medept import embedded

SECONDS_BETWEEN_CHECKPOINTS = 180
CLASSES = 200


class Student(nn.Module):
    """The encoder, and the heads that are needed to train it and thrown away afterwards."""

    def __init__(self, architecture: dict[str, Any], teacher_width: int) -> None:
        super().__init__()
        self.encoder = embedded.build(architecture)
        width = architecture["embed_dim"]
        self.labels = nn.Linear(width, CLASSES)
        self.class_token = nn.Linear(width, teacher_width)
        self.patch_tokens = nn.Linear(width, teacher_width)

    def forward(self, pixels: Tensor, keep: Tensor | None = None) -> Tensor:
        """Normalised tokens (B, 1 + K, D); ``keep`` (B, K) names the patch tokens kept."""
        encoder = self.encoder
        x = encoder._pos_embed(encoder.patch_embed(pixels))
        if keep is not None:
            patches = x[:, 1:].gather(1, keep[..., None].expand(-1, -1, x.shape[-1]))
            x = torch.cat([x[:, :1], patches], dim=1)
        return encoder.norm(encoder.blocks(x))


class Data:
    """Images with the teacher's tokens, standardised; batches in a random order without end."""

    def __init__(self, work: Path, config: dict[str, Any]) -> None:
        self.images = np.load(work / "train_images.npy", mmap_mode="r")
        self.labels = torch.from_numpy(np.load(work / "train_labels.npy"))
        self.cls = np.load(work / "teacher_cls.npy", mmap_mode="r")
        self.patches = np.load(work / "teacher_patches.npy", mmap_mode="r")
        self.work, self.config = work, config
        sample = np.load(work / "order.npy")[:2000]
        self.statistics = [
            (a.float().mean(0), a.float().std(0) + 1e-3)
            for a in (torch.from_numpy(self.cls[sample]),
                      torch.from_numpy(self.patches[sample]).flatten(0, 1))
        ]  # fmt: skip

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Pixels (B, 3, H, W), labels, class tokens (B, D) and patch tokens (B, D, h, w).

        A function of the step alone, so that a resumed run sees what an unbroken one would.
        """
        size = self.config["training"]["batch"]
        done = int((self.work / "cache_done.txt").read_text())
        pool = np.load(self.work / "order.npy", mmap_mode="r")[:done]
        epoch, place = divmod(step * size, max(1, done // size) * size)
        shuffled = np.random.default_rng(epoch).permutation(done)
        rows = np.sort(pool[shuffled[place : place + size]])
        pixels = torch.from_numpy(self.images[rows]).permute(0, 3, 1, 2).float() / 127.5 - 1
        (cls_mean, cls_std), (mean, std) = self.statistics
        cls = (torch.from_numpy(self.cls[rows]).float() - cls_mean) / cls_std
        patches = (torch.from_numpy(self.patches[rows]).float() - mean) / std
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
    return tuple(
        F.grid_sample(
            x, F.affine_grid(theta, list(x.shape), align_corners=False),
            mode="bilinear", padding_mode="reflection", align_corners=False,
        )
        for x in (pixels, patches)
    )  # type: ignore[return-value]  # fmt: skip


def jitter(pixels: Tensor) -> Tensor:
    """Random gain and offset, each channel slightly its own."""
    n = len(pixels)
    gain = torch.empty(n, 1, 1, 1).uniform_(0.7, 1.3) * torch.empty(n, 3, 1, 1).uniform_(0.9, 1.1)
    offset = torch.empty(n, 1, 1, 1).uniform_(-0.2, 0.2)
    return pixels * gain + offset


def loss_of(student: Student, batch: tuple[Tensor, ...], config: dict[str, Any], full: bool) -> Tensor:
    """The weighted sum of the three losses on one batch."""
    pixels, labels, cls, patches = batch
    settings, weights = config["training"], config["loss"]
    pixels, patches = crop_and_flip(pixels, patches, settings["crop_scale"])
    targets = patches.flatten(2).transpose(1, 2)
    keep = None
    if not full:
        count = int(settings["keep_tokens"] * targets.shape[1])
        keep = torch.rand(targets.shape[:2]).argsort(dim=1)[:, :count]
        targets = targets.gather(1, keep[..., None].expand(-1, -1, targets.shape[-1]))
    tokens = student(jitter(pixels).contiguous(memory_format=torch.channels_last), keep)
    smoothing = settings["label_smoothing"]
    loss = tokens.new_zeros(())
    if weights["labels"]:
        logits = student.labels(tokens[:, 0])
        loss = loss + weights["labels"] * F.cross_entropy(logits, labels, label_smoothing=smoothing)
    if weights["class_token"]:
        loss = loss + weights["class_token"] * F.smooth_l1_loss(student.class_token(tokens[:, 0]), cls)
    if weights["patch_tokens"]:
        loss = loss + weights["patch_tokens"] * F.smooth_l1_loss(
            student.patch_tokens(tokens[:, 1:]), targets
        )
    return loss


@torch.inference_mode()
def accuracy(student: Student, work: Path, count: int = 2000) -> float:
    """Top-1 accuracy on the first ``count`` validation images."""
    images = np.load(work / "val_images.npy", mmap_mode="r")[:count]
    labels = torch.from_numpy(np.load(work / "val_labels.npy")[:count])
    student.eval()
    right = 0
    for start in range(0, count, 200):
        pixels = torch.from_numpy(images[start : start + 200]).permute(0, 3, 1, 2).float()
        logits = student.labels(student(pixels / 127.5 - 1)[:, 0])
        right += int((logits.argmax(1) == labels[start : start + 200]).sum())
    student.train()
    return right / count


def save(state: dict[str, Any], file: Path) -> None:
    """Write a checkpoint whole, or not at all."""
    partial = file.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(file)


def train(work: Path, config: dict[str, Any], minutes: float, cooldown: bool) -> None:
    """Train for ``minutes``, from the last checkpoint where there is one."""
    settings = config["training"]
    torch.manual_seed(0)
    data = Data(work, config)
    student = Student(config["architecture"], data.cls.shape[1])
    student = student.to(memory_format=torch.channels_last).train()
    average = copy.deepcopy(student)
    decay = [p for p in student.parameters() if p.ndim >= 2]
    rest = [p for p in student.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": settings["weight_decay"]},
         {"params": rest, "weight_decay": 0.0}],
        lr=settings["lr"], betas=(0.9, 0.98), foreach=True,
    )  # fmt: skip
    step, spent = 0, 0.0
    if (work / "last.pt").exists():
        state = torch.load(work / "last.pt", weights_only=True)
        student.load_state_dict(state["student"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        step, spent = state["step"], state["seconds"]
    log = (work / ("cooldown.csv" if cooldown else "log.csv")).open("a", newline="")
    writer = csv.writer(log)
    started = saved = time.time()
    first, losses = step, []
    while True:
        elapsed = (time.time() - started) / 60 / minutes
        if elapsed >= 1:
            break
        rate = settings["lr"] * min(1.0, (step + 1) / settings["warmup"])
        rate *= max(0.0, 1 - elapsed) if cooldown else 1.0
        for group in optimizer.param_groups:
            group["lr"] = rate
        torch.manual_seed(step)
        loss = loss_of(student, data.batch(step), config, full=cooldown)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        step += 1
        losses.append(loss.item())
        with torch.no_grad():
            factor = min(settings["ema"], step / (step + 10))
            for mean, new in zip(average.state_dict().values(), student.state_dict().values(), strict=True):
                if mean.is_floating_point():
                    mean.lerp_(new, 1 - factor)
                else:
                    mean.copy_(new)
        if step % 50 == 0:
            speed = settings["batch"] * (step - first) / (time.time() - started)
            writer.writerow([step, f"{rate:.2e}", f"{np.mean(losses):.4f}", f"{speed:.1f}",
                             f"{spent + time.time() - started:.0f}", ""])  # fmt: skip
            log.flush()
            losses = []
        if time.time() - saved > SECONDS_BETWEEN_CHECKPOINTS:
            saved = time.time()
            if not cooldown:
                checkpoint(work / "last.pt", student, average, optimizer, step, spent + saved - started)
            writer.writerow([step, "", "", "", f"{spent + saved - started:.0f}", accuracy(average, work)])
            log.flush()
    file = work / ("cooled.pt" if cooldown else "last.pt")
    checkpoint(file, student, average, optimizer, step, spent + time.time() - started)
    print(f"step {step}, top-1 of the average {accuracy(average, work, 10_000):.4f}, "
          f"of the student {accuracy(student, work, 10_000):.4f}")  # fmt: skip


def checkpoint(
    file: Path, student: nn.Module, average: nn.Module, optimizer: Any, step: int, seconds: float
) -> None:
    """All that a run needs to go on."""
    save(
        {"student": student.state_dict(), "average": average.state_dict(),
         "optimizer": optimizer.state_dict(), "step": step, "seconds": seconds},
        file,
    )  # fmt: skip


def main() -> None:
    """Read the command line, prepare what is missing, train."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with train and val .parquet")
    parser.add_argument("--teacher", type=Path, required=True, help="its weights, .safetensors")
    parser.add_argument("--work", type=Path, required=True, help="caches, checkpoints and logs")
    parser.add_argument("--config", type=Path, default=Path(__file__).with_name("config.toml"))
    parser.add_argument("--minutes", type=float, default=360)
    parser.add_argument("--cooldown", action="store_true", help="end the run, in a branch of its own")
    arguments = parser.parse_args()
    config = tomllib.loads(arguments.config.read_text())
    arguments.work.mkdir(parents=True, exist_ok=True)
    decode(arguments.data, arguments.work)
    teach(arguments.teacher, arguments.work, config["teacher"], config["architecture"]["img_size"] // 8)
    train(arguments.work, config, arguments.minutes, arguments.cooldown)


if __name__ == "__main__":
    main()
