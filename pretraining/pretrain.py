"""Pretrain the embedded encoder: one configuration, one command, resumable.

    python pretraining/pretrain.py --data DATA --teacher FILE --work WORK --minutes 360
    python pretraining/pretrain.py --data DATA --teacher FILE --work WORK --minutes 20 --cooldown

A first run can start from the encoder in the package (``--from-package``). The learning rate warms
up and then stays constant, so training can be continued for as long as you like. A cooldown takes
the last checkpoint, lets the learning rate fall to zero, keeping all tokens in its second half, and
writes ``cooled.pt``, from which export.py can make the package's files. The main run stays as it
was, and can be continued afterwards.
"""

from __future__ import annotations

import argparse
import copy
import csv
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import yaml
from data import Data, accuracy
from prepare import DEVICE, bfloat16_pays, decode, teach
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn, update_bn
from views import crop_turn_flip, mix, mixing, recolour

from medept.encoders import embedded
from medept.ept.divert import Divert
from medept.files import whole_file

MINUTES_BETWEEN_CHECKPOINTS = 5
STEPS_BETWEEN_LOG_ROWS = 50
CLASSES = 200


class Student(nn.Module):
    """The encoder, with the heads that only its training needs."""

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
    """Attention in float32: on a CPU its backward pass is several times slower in bfloat16."""
    with torch.autocast(q.device.type, enabled=False):
        return F.scaled_dot_product_attention(q.float(), k.float(), v.float(), **options)


def loss_of(
    student: Student, batch: tuple[Tensor, ...], config: dict[str, Any], every_token: bool
) -> Tensor:
    """The weighted sum of the three losses on one batch of random views."""
    pixels, labels, cls, patches = batch
    settings, weights, views = config["training"], config["loss"], config["views"]
    pixels, patches = crop_turn_flip(pixels / 255, patches, views)
    pixels = recolour(pixels, views)
    own = mixing(len(pixels), patches.shape[-1], views, pixels.device)
    share = own.mean((1, 2, 3))
    pixels = mix(F.interpolate(own, pixels.shape[-2:]), pixels)
    cls = mix(share[:, None], cls)
    targets = mix(own, patches).flatten(2).transpose(1, 2)
    keep = None
    if not every_token:
        count = int(settings["keep_tokens"] * targets.shape[1])
        keep = torch.rand(targets.shape[:2], device=pixels.device).argsort(dim=1)[:, :count]
        targets = targets.gather(1, keep[..., None].expand(-1, -1, targets.shape[-1]))
    tokens = student(pixels.contiguous(memory_format=torch.channels_last), keep)
    wanted = mix(share[:, None], F.one_hot(labels, CLASSES).float())
    losses = {
        "labels": F.cross_entropy(
            student.labels(tokens[:, 0]), wanted, label_smoothing=settings["label_smoothing"]
        ),
        "class_token": F.smooth_l1_loss(student.class_token(tokens[:, 0]), cls),
        "patch_tokens": F.smooth_l1_loss(student.patch_tokens(tokens[:, 1:]), targets),
    }
    return sum((weights[name] * loss for name, loss in losses.items()), torch.zeros_like(share[0]))


class Run:
    """The state of a run: the student, its moving average, the optimisers, the steps taken."""

    def __init__(
        self, work: Path, config: dict[str, Any], teacher_width: int, from_package: bool
    ) -> None:
        torch.manual_seed(0)
        self.work, self.settings = work, config["training"]
        student = Student(config["architecture"], teacher_width)
        self.student = student.to(DEVICE, memory_format=torch.channels_last).train()
        self.before = {"steps": 0, "hours": 0.0}
        if from_package:
            encoder, description = embedded.load()
            self.student.encoder.load_state_dict(encoder.state_dict())
            self.before = description["training"]
        self.average = copy.deepcopy(self.student).requires_grad_(False)
        self.optimizers = self._optimizers()
        self.step, self.seconds = 0, 0.0
        if (work / "last.pt").exists():
            self._resume(torch.load(work / "last.pt", DEVICE, weights_only=True))

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        """Muon for the matrices of the blocks, AdamW for everything else, at the same rate."""
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
        """Write everything needed to resume, whole or not at all."""
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
        pair = list(self.average.parameters()), list(self.student.parameters())
        get_ema_multi_avg_fn(keep)(*pair, self.step)

    def measure(self, data: Data, count: int) -> float:
        """Top-1 of the average, after its norms took their statistics from unaltered images."""
        update_bn(data.clean(), self.average.encoder.patch_embed)
        return accuracy(self.average, self.work, count)


def train(
    work: Path, config: dict[str, Any], minutes: float, cooldown: bool, from_package: bool
) -> None:
    """Train for ``minutes``, from the last checkpoint if there is one."""
    data = Data(work, config["training"]["batch"])
    run = Run(work, config, data.width, from_package)
    fast = bfloat16_pays()
    attention = Divert(attend) if DEVICE == "cpu" else nullcontext()
    settings, first, losses = config["training"], run.step, []
    started = saved = time.monotonic()
    name, mode = ("cooldown.csv", "w") if cooldown else ("log.csv", "a")
    with (work / name).open(mode, newline="") as file:
        log = csv.writer(file)
        while (elapsed := time.monotonic() - started) < 60 * minutes:
            rate = settings["lr"] * min(1.0, (run.step + 1) / settings["warmup"])
            late = elapsed > 30 * minutes
            rate *= 1 - elapsed / 60 / minutes if cooldown else 1.0
            torch.manual_seed(run.step)
            batch = data.batch(run.step)
            with torch.autocast(DEVICE, torch.bfloat16, enabled=fast), attention:
                loss = loss_of(run.student, batch, config, every_token=cooldown and late)
            run.advance(loss, rate)
            losses.append(loss.detach())
            if run.step % STEPS_BETWEEN_LOG_ROWS == 0:
                mean = torch.stack(losses).mean().item()
                speed = settings["batch"] * (run.step - first) / (time.monotonic() - started)
                log.writerow([run.step, f"{rate:.2e}", f"{mean:.4f}", f"{speed:.1f}",
                              f"{run.seconds + elapsed:.0f}", ""])  # fmt: skip
                file.flush()
                losses = []
            if time.monotonic() - saved > 60 * min(MINUTES_BETWEEN_CHECKPOINTS, minutes / 8):
                saved = time.monotonic()
                top1 = run.measure(data, 2000)
                if not cooldown:
                    run.save(work / "last.pt", elapsed)
                log.writerow([run.step, "", "", "", f"{run.seconds + elapsed:.0f}", top1])
    top1 = run.measure(data, 10_000)
    run.save(work / ("cooled.pt" if cooldown else "last.pt"), 60 * minutes)
    passes = run.step * settings["batch"] / len(data.pool)
    print(f"step {run.step} ({passes:.1f} passes over the images), top-1 of the average on "
          f"10,000 validation images: {top1:.4f}")  # fmt: skip


def main() -> None:
    """Read the command line, prepare what is missing, train."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--data", type=Path, required=True, help="folder of train*.parquet and val*.parquet"
    )
    parser.add_argument(
        "--teacher", type=Path, required=True, help="the teacher's weights, .safetensors"
    )
    parser.add_argument(
        "--work", type=Path, required=True, help="folder for caches, checkpoints and logs"
    )
    parser.add_argument("--config", type=Path, default=Path(__file__).with_name("config.yaml"))
    parser.add_argument("--minutes", type=float, default=360)
    parser.add_argument(
        "--cooldown", action="store_true", help="let the rate fall to zero, in a branch of its own"
    )
    parser.add_argument(
        "--from-package", action="store_true", help="start from the encoder in the package"
    )
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
