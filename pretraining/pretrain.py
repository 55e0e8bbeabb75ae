"""Pretrain the embedded encoder: one configuration, one command, resumable.

    python pretraining/pretrain.py --data DATA --teacher FILE --work WORK --minutes 360
    python pretraining/pretrain.py --data DATA --teacher FILE --work WORK --minutes 20 --cooldown

A first run can begin with the encoder of the package (``--from-package``). The learning rate warms
up and then stays: training can go on for as long as there are hours. A cooldown takes the last
checkpoint, lets the rate fall to zero, in its second half with all tokens kept, and writes
``cooled.pt``, from which export.py makes the package's files. The stable run is not touched by it,
and can be continued afterwards.
"""

from __future__ import annotations

import argparse
import copy
import csv
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from data import Data, accuracy, crop_and_flip, jitter
from prepare import decode, teach
from torch import Tensor, nn

from medept import embedded
from medept.attachment import Divert
from medept.files import whole_file
from medept.training.device import fast_bfloat16

MINUTES_BETWEEN_CHECKPOINTS = 5
STEPS_BETWEEN_LOG_ROWS = 50
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


def attend(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
    """Attention in float32: its backward is several times slower in bfloat16 on a CPU."""
    with torch.autocast(q.device.type, enabled=False):
        return F.scaled_dot_product_attention(q.float(), k.float(), v.float(), **options)


def loss_of(
    student: Student, batch: tuple[Tensor, ...], config: dict[str, Any], every_token: bool
) -> Tensor:
    """The weighted sum of the three losses on one batch."""
    pixels, labels, cls, patches = batch
    settings, weights = config["training"], config["loss"]
    pixels, patches = crop_and_flip(pixels, patches, settings["crop_scale"])
    targets = patches.flatten(2).transpose(1, 2)
    keep = None
    if not every_token:
        count = int(settings["keep_tokens"] * targets.shape[1])
        keep = torch.rand(targets.shape[:2]).argsort(dim=1)[:, :count].to(pixels.device)
        targets = targets.gather(1, keep[..., None].expand(-1, -1, targets.shape[-1]))
    tokens = student(jitter(pixels).contiguous(memory_format=torch.channels_last), keep)
    losses = {
        "labels": F.cross_entropy(
            student.labels(tokens[:, 0]), labels, label_smoothing=settings["label_smoothing"]
        ),
        "class_token": F.smooth_l1_loss(student.class_token(tokens[:, 0]), cls),
        "patch_tokens": F.smooth_l1_loss(student.patch_tokens(tokens[:, 1:]), targets),
    }
    return sum((weights[name] * loss for name, loss in losses.items()), torch.zeros(()))


class Run:
    """The state of a run: what is trained, its moving average, the optimiser, how far it is."""

    def __init__(
        self, work: Path, config: dict[str, Any], teacher_width: int, from_package: bool
    ) -> None:
        torch.manual_seed(0)
        self.work, self.settings = work, config["training"]
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        student = Student(config["architecture"], teacher_width)
        self.student = student.to(self.device, memory_format=torch.channels_last).train()
        self.before = {"steps": 0, "hours": 0.0}
        if from_package:
            encoder, description = embedded.load()
            self.student.encoder.load_state_dict(encoder.state_dict())
            self.before = description["training"]
        self.average = copy.deepcopy(self.student)
        self.optimizers = self._optimizers()
        self.step, self.seconds = 0, 0.0
        if (work / "last.pt").exists():
            self._resume(torch.load(work / "last.pt", weights_only=True))

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        """Muon for the matrices of the blocks, AdamW for all else, at the same rate."""
        matrices = [p for p in self.student.encoder.blocks.parameters() if p.ndim == 2]
        taken = {id(p) for p in matrices}
        rest = [p for p in self.student.parameters() if id(p) not in taken]
        rate, decay = self.settings["lr"], self.settings["weight_decay"]
        groups = [
            {"params": [p for p in rest if p.ndim >= 2], "weight_decay": decay},
            {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
        ]
        return [
            torch.optim.Muon(matrices, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98)),
        ]

    def _resume(self, state: dict[str, Any]) -> None:
        self.student.load_state_dict(state["student"])
        self.average.load_state_dict(state["average"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.seconds, self.before = state["step"], state["seconds"], state["before"]

    def save(self, file: Path, seconds: float) -> None:
        """All that is needed to go on, written whole or not at all."""
        state = {
            "student": self.student.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "seconds": self.seconds + seconds,
            "before": self.before,
        }
        with whole_file(file) as partial:
            torch.save(state, partial)

    def advance(self, loss: Tensor, rate: float) -> None:
        """One step of the optimiser and of the moving average."""
        self.student.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.student.parameters(), 1.0)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
        self.step += 1
        keep = min(self.settings["ema"], self.step / (self.step + 10))
        pairs = zip(self.average.state_dict().values(), self.student.state_dict().values(),
                    strict=True)  # fmt: skip
        with torch.no_grad():
            for mean, new in pairs:
                mean.lerp_(new, 1 - keep) if mean.is_floating_point() else mean.copy_(new)


def train(
    work: Path, config: dict[str, Any], minutes: float, cooldown: bool, from_package: bool
) -> None:
    """Train for ``minutes``, from the last checkpoint where there is one."""
    data = Data(work, config["training"]["batch"])
    run = Run(work, config, data.width, from_package)
    fast = run.device == "cuda" or fast_bfloat16()
    settings, first, losses = config["training"], run.step, []
    started = saved = time.monotonic()
    with (work / ("cooldown.csv" if cooldown else "log.csv")).open("a", newline="") as file:
        log = csv.writer(file)
        while (elapsed := time.monotonic() - started) < 60 * minutes:
            rate = settings["lr"] * min(1.0, (run.step + 1) / settings["warmup"])
            late = elapsed > 30 * minutes
            rate *= 1 - elapsed / 60 / minutes if cooldown else 1.0
            torch.manual_seed(run.step)
            batch = tuple(part.to(run.device) for part in data.batch(run.step))
            with torch.autocast(run.device, torch.bfloat16, enabled=fast), Divert(attend):
                loss = loss_of(run.student, batch, config, every_token=cooldown and late)
            run.advance(loss, rate)
            losses.append(loss.item())
            if run.step % STEPS_BETWEEN_LOG_ROWS == 0:
                speed = settings["batch"] * (run.step - first) / (time.monotonic() - started)
                log.writerow([run.step, f"{rate:.2e}", f"{np.mean(losses):.4f}", f"{speed:.1f}",
                              f"{run.seconds + elapsed:.0f}", ""])  # fmt: skip
                losses = []
            if time.monotonic() - saved > 60 * MINUTES_BETWEEN_CHECKPOINTS:
                saved = time.monotonic()
                if not cooldown:
                    run.save(work / "last.pt", elapsed)
                top1 = accuracy(run.average, work, run.device)
                log.writerow([run.step, "", "", "", f"{run.seconds + elapsed:.0f}", top1])
            file.flush()
    run.save(work / ("cooled.pt" if cooldown else "last.pt"), 60 * minutes)
    top1 = accuracy(run.average, work, run.device, 10_000)
    print(f"step {run.step}, top-1 of the average on 10,000 validation images: {top1:.4f}")


def main() -> None:
    """Read the command line, prepare what is missing, train."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="with train and val .parquet")
    parser.add_argument("--teacher", type=Path, required=True, help="its weights, .safetensors")
    parser.add_argument("--work", type=Path, required=True, help="caches, checkpoints and logs")
    parser.add_argument("--config", type=Path, default=Path(__file__).with_name("config.yaml"))
    parser.add_argument("--minutes", type=float, default=360)
    parser.add_argument("--cooldown", action="store_true", help="end, in a branch of its own")
    parser.add_argument("--from-package", action="store_true", help="begin with its encoder")
    arguments = parser.parse_args()
    config = yaml.safe_load(arguments.config.read_text())
    arguments.work.mkdir(parents=True, exist_ok=True)
    decode(arguments.data, arguments.work)
    grid = config["architecture"]["img_size"] // 8
    teach(arguments.teacher, arguments.work, config["teacher"], grid)
    train(arguments.work, config, arguments.minutes, arguments.cooldown,
          arguments.from_package)  # fmt: skip


if __name__ == "__main__":
    main()
