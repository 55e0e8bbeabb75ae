"""Pretrain the embedded encoder: one configuration, one command, resumable.

    python pretraining/pretrain.py --data DATA --teacher FILE --work WORK --minutes 360
    python pretraining/pretrain.py --data DATA --teacher FILE --work WORK --minutes 20 --cooldown

config.yaml names the recipes; caches are shared in WORK, a run is WORK/RECIPE.

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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from data import Data, accuracy, crop_and_flip, jitter
from prepare import decode, teach
from safetensors.torch import load_file
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from medept import embedded
from medept.files import whole_file

MINUTES_BETWEEN_CHECKPOINTS = 5
STEPS_BETWEEN_LOG_ROWS = 50
CLASSES = 200


class Student(nn.Module):
    """The encoder, and the heads that are needed to train it and thrown away afterwards."""

    def __init__(self, architecture: dict[str, Any], teacher_width: int) -> None:
        super().__init__()
        self.encoder = embedded.build(architecture)
        width, patch = architecture["embed_dim"], architecture["patch_size"]
        self.labels = nn.Linear(width, CLASSES)
        self.class_token = nn.Linear(width, teacher_width)
        self.patch_tokens = nn.Linear(width, teacher_width)
        self.decoder = Decoder(width, self.encoder.patch_embed.num_patches, 3 * patch**2)

    def forward(self, pixels: Tensor, keep: Tensor | None = None) -> Tensor:
        """Normalised tokens (B, 1 + K, D); ``keep`` (B, K) names the patch tokens kept."""
        encoder = self.encoder
        x = encoder._pos_embed(encoder.patch_embed(pixels))
        if keep is not None:
            x = torch.cat([x[:, :1], taken(x[:, 1:], keep)], dim=1)
        return encoder.norm(encoder.blocks(x))


class Decoder(nn.Module):
    """Pixels of every patch (B, T, P) of the tokens that were kept: masked modelling's head."""

    def __init__(self, width: int, patches: int, outputs: int) -> None:
        super().__init__()
        self.absent = nn.Parameter(torch.zeros(1, 1, width))
        self.places = nn.Parameter(torch.randn(1, patches, width) * 0.02)
        self.blocks = nn.Sequential(Block(width, 3), Block(width, 3))
        self.pixels = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, outputs))

    def forward(self, tokens: Tensor, keep: Tensor) -> Tensor:
        rows = keep[..., None].expand_as(tokens[:, 1:])
        x = self.absent.expand(len(tokens), self.places.shape[1], -1)
        x = x.scatter(1, rows, tokens[:, 1:]) + self.places
        return self.pixels(self.blocks(torch.cat([tokens[:, :1], x], dim=1))[:, 1:])


def taken(tokens: Tensor, rows: Tensor) -> Tensor:
    """Of each image's tokens (B, T, D) those that ``rows`` (B, K) names."""
    return tokens.gather(1, rows[..., None].expand(-1, -1, tokens.shape[-1]))


def inherit(encoder: nn.Module, teacher: Path, blocks: list[int]) -> None:
    """Begin with the teacher's weights: some of its blocks, and its other layers.

    Its patch kernel becomes the one that gives on small patches what the teacher's gives on their
    bilinear enlargement: 64 pixels make the tokens that the teacher sees in 128.
    """
    weights = {name: tensor.float() for name, tensor in load_file(teacher).items()}
    embed, place = encoder.patch_embed, {str(old): str(new) for new, old in enumerate(blocks)}
    kernel, patch = weights["patch_embed.proj.weight"], embed.patch_size[0]
    pixels = torch.eye(patch**2).unflatten(1, (1, patch, patch))
    enlarge = F.interpolate(pixels, size=kernel.shape[-1], mode="bilinear").flatten(1)
    state = {
        "patch_embed.proj.weight": (kernel.flatten(2) @ enlarge.T).unflatten(2, (patch, patch)),
        "pos_embed": resample_abs_pos_embed(weights["pos_embed"], list(embed.grid_size)),
    }
    for name, tensor in weights.items():
        kind, *rest = name.split(".")
        if kind == "blocks" and rest[0] in place:
            state[".".join([kind, place[rest[0]], *rest[1:]])] = tensor
        elif kind not in ("blocks", "head"):
            state.setdefault(name, tensor)
    encoder.load_state_dict(state)


def loss_of(
    student: Student,
    batch: tuple[Tensor, ...],
    settings: dict[str, Any],
    weights: dict[str, float],
    every_token: bool,
) -> Tensor:
    """The weighted sum of the losses that ``weights`` names, on one batch."""
    pixels, labels, cls, patches = batch
    pixels, patches = crop_and_flip(pixels, patches, settings["crop_scale"])
    targets, keep = patches.flatten(2).transpose(1, 2), None
    if not every_token or "pixels" in weights:
        order = torch.rand(targets.shape[:2], device=targets.device).argsort(dim=1)
        keep = order[:, : int(settings["keep_tokens"] * targets.shape[1])]
        targets = taken(targets, keep)
    pixels = jitter(pixels)
    tokens = student(pixels, keep)
    losses: dict[str, Callable[[], Tensor]] = {
        "labels": lambda: F.cross_entropy(
            student.labels(tokens[:, 0]), labels, label_smoothing=settings["label_smoothing"]
        ),
        "class_token": lambda: F.smooth_l1_loss(student.class_token(tokens[:, 0]), cls),
        "patch_tokens": lambda: F.smooth_l1_loss(student.patch_tokens(tokens[:, 1:]), targets),
        "pixels": lambda: masked_loss(student, tokens, pixels, keep),
    }
    return sum((weight * losses[name]() for name, weight in weights.items()), torch.zeros(()))


def masked_loss(student: Student, tokens: Tensor, pixels: Tensor, keep: Tensor) -> Tensor:
    """Of the patches that were left out: mean squared error of their standardised pixels."""
    size = student.encoder.patch_embed.patch_size[0]
    patches = F.unfold(pixels, size, stride=size).transpose(1, 2)
    patches = (patches - patches.mean(-1, keepdim=True)) / (patches.std(-1, keepdim=True) + 0.05)
    error = (student.decoder(tokens, keep) - patches).square().mean(-1)
    return error.scatter(1, keep, 0.0).sum() / (error.numel() - keep.numel())


class Run:
    """The state of a run: what is trained, its moving average, the optimiser, how far it is."""

    def __init__(
        self,
        folder: Path,
        config: dict[str, Any],
        recipe: dict[str, Any],
        width: int,
        teacher: Path,
    ) -> None:
        torch.manual_seed(0)
        self.folder, self.settings = folder, config["training"]
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.student = Student(config["architecture"], width).to(self.device).train()
        if "inherit" in recipe:
            inherit(self.student.encoder, teacher, recipe["inherit"])
        self.average = copy.deepcopy(self.student)
        parameters = list(self.student.parameters())
        groups = [
            {
                "params": [p for p in parameters if p.ndim >= 2],
                "weight_decay": self.settings["weight_decay"],
            },
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=recipe["lr"], betas=(0.9, 0.98))
        self.step, self.seconds = 0, 0.0
        if (folder / "last.pt").exists():
            self._resume(torch.load(folder / "last.pt", weights_only=True))

    def _resume(self, state: dict[str, Any]) -> None:
        self.student.load_state_dict(state["student"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]

    def save(self, file: Path, seconds: float) -> None:
        """All that is needed to go on, written whole or not at all."""
        parts = ("student", "average", "optimizer")
        state = {name: getattr(self, name).state_dict() for name in parts}
        with whole_file(file) as partial:
            torch.save(state | {"step": self.step, "seconds": self.seconds + seconds}, partial)

    def advance(self, loss: Tensor, rate: float) -> None:
        """One step of the optimiser and of the moving average."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.student.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        keep = min(self.settings["ema"], self.step / (self.step + 10))
        with torch.no_grad():
            pairs = zip(self.average.parameters(), self.student.parameters(), strict=True)
            for mean, new in pairs:
                mean.lerp_(new, 1 - keep)


class Budget:
    """How much of the time, or of the steps, has been spent."""

    def __init__(self, minutes: float, steps: int | None) -> None:
        self.minutes, self.steps, self.started = minutes, steps, time.monotonic()

    def seconds(self) -> float:
        return time.monotonic() - self.started

    def spent(self, steps: int) -> float:
        """From 0 to 1, after this many steps of this run."""
        return steps / self.steps if self.steps else self.seconds() / 60 / self.minutes


def train(run: Run, data: Data, recipe: dict[str, Any], budget: Budget, cooldown: bool) -> None:
    """Train until the budget is spent, from the last checkpoint where there is one."""
    settings, first, losses, saved = run.settings, run.step, [], 0.0
    with (run.folder / ("cooldown.csv" if cooldown else "log.csv")).open("a", newline="") as file:
        log = csv.writer(file)
        while (spent := budget.spent(run.step - first)) < 1:
            rate = recipe["lr"] * min(1.0, (run.step + 1) / settings["warmup"])
            rate *= 1 - spent if cooldown else 1.0
            torch.manual_seed(run.step)
            batch = tuple(part.to(run.device) for part in data.batch(run.step))
            loss = loss_of(run.student, batch, settings, recipe["loss"], every_token=cooldown)
            run.advance(loss, rate)
            losses.append(loss.item())
            seconds = budget.seconds()
            if run.step % STEPS_BETWEEN_LOG_ROWS == 0:
                speed = settings["batch"] * (run.step - first) / seconds
                log.writerow([run.step, f"{rate:.2e}", f"{np.mean(losses):.4f}", f"{speed:.1f}",
                              f"{run.seconds + seconds:.0f}", ""])  # fmt: skip
                losses = []
            if seconds - saved > 60 * MINUTES_BETWEEN_CHECKPOINTS:
                saved = seconds
                if not cooldown:
                    run.save(run.folder / "last.pt", seconds)
                top1 = accuracy(run.average, data.work, run.device)
                log.writerow([run.step, "", "", "", f"{run.seconds + seconds:.0f}", top1])
            file.flush()
    run.save(run.folder / ("cooled.pt" if cooldown else "last.pt"), budget.seconds())
    top1 = accuracy(run.average, data.work, run.device, 10_000)
    print(f"step {run.step}, top-1 of the average on 10,000 validation images: {top1:.4f}")


def main() -> None:
    """Read the command line, prepare what is missing, train."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="with train and val .parquet")
    parser.add_argument("--teacher", type=Path, required=True, help="its weights, .safetensors")
    parser.add_argument("--work", type=Path, required=True, help="caches, checkpoints and logs")
    parser.add_argument("--config", type=Path, default=Path(__file__).with_name("config.yaml"))
    parser.add_argument("--recipe", default="inherited", help="one of the configuration's")
    parser.add_argument("--minutes", type=float, default=360)
    parser.add_argument("--steps", type=int, help="end after these many steps, not by the clock")
    parser.add_argument("--cooldown", action="store_true", help="end, in a branch of its own")
    arguments = parser.parse_args()
    config = yaml.safe_load(arguments.config.read_text())
    recipe, folder = config["recipes"][arguments.recipe], arguments.work / arguments.recipe
    folder.mkdir(parents=True, exist_ok=True)
    decode(arguments.data, arguments.work)
    architecture = config["architecture"]
    grid = architecture["img_size"] // architecture["patch_size"]
    teach(arguments.teacher, arguments.work, config["teacher"], grid)
    data = Data(arguments.work, config["training"]["batch"])
    run = Run(folder, config, recipe, data.width, arguments.teacher)
    train(run, data, recipe, Budget(arguments.minutes, arguments.steps), arguments.cooldown)


if __name__ == "__main__":
    main()
