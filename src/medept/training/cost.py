"""What a fit will cost, before it begins: one step is tried, and the rest is counted.

It is one of the steps that the fit takes, on black images: in the fit's precision, going on from
what is computed once. It is timed, and what it keeps for its backward pass is weighed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from medept.encoders.encoder import Encoder
from medept.methods import AdaptedEncoder
from medept.methods.features import FeatureMethod
from medept.progress import duration
from medept.training.cache import IN_MEMORY, State
from medept.training.device import memory_in_use, peak_memory
from medept.training.inference import EVALUATION_BATCH
from medept.training.plan import make_plan
from medept.training.recipes import Recipe
from medept.training.views import Views

if TYPE_CHECKING:
    from accelerate import Accelerator

T = TypeVar("T")

TRIED = 4
"""Images in the step that is tried, at most, where it runs on the CPU."""

AT_ONCE = 3
"""Tensors as large as the largest, an MLP's hidden one, that are held at once without gradients."""

LIBRARIES = 130_000_000
"""Bytes that libraries take at their first step, and what their allocator holds beside: measured,
ViT-Ti and ViT-B, in float32 and bfloat16."""


@dataclass(frozen=True)
class Cost:
    """Of a fit.

    Attributes:
        seconds: that it takes.
        evaluation: seconds that each image takes that is predicted afterwards.
        in_use: bytes that the process uses already.
        memory: bytes in which it computes, beside them.
        stored: bytes of encoded views that are kept.
    """

    seconds: float
    evaluation: float
    in_use: int
    memory: int
    stored: int

    def __str__(self) -> str:
        place = "more" if self.stored <= IN_MEMORY else "in a temporary file"
        return (
            f"{duration(self.seconds)}, and {duration(1000 * self.evaluation)} for each 1,000 "
            f"images to predict; {(self.in_use + self.memory) / 1e9:.1f} GB of memory, and "
            f"{self.stored / 1e9:.1f} GB {place} for encoded views"
        )


def estimate_cost(
    model: AdaptedEncoder,
    views: Views,
    recipe: Recipe,
    accelerator: Accelerator,
    folds: Sequence[int] = (),
) -> Cost:
    """Of training on all images of ``views``, once whole and once for each fold without its part.

    Args:
        folds: of each cross-validation, the number of its parts.

    Images that are slow to decode, and cores that others use too, make it an underestimate.
    """
    encoder, images = model.encoder, len(views)
    at_once = min(recipe.micro_batch or recipe.batch_size, recipe.batch_size, images)
    tried = at_once if accelerator.device.type == "cuda" else min(at_once, TRIED)
    pixels = encoder.example().expand(tried, -1, -1, -1)
    in_use = memory_in_use(accelerator.device)
    again = sum(parts - 1 for parts in folds)  # each fold trains on all images but its own part
    memory = LIBRARIES + views.decoded_bytes()
    largest, forward = _timed(lambda: _forward(encoder, pixels, accelerator))
    encoding = AT_ONCE * largest * EVALUATION_BATCH // tried
    if isinstance(model, FeatureMethod):
        once = images / tried * forward  # which folds share
        return Cost(once, forward / tried, in_use, memory + encoding, 0)
    plan = make_plan(model, recipe, accelerator, 1 + sum(folds))
    count = min(recipe.views, recipe.epochs)
    state: State = [pixels]
    once, stored = 0.0, 0
    if keep := plan.keep:
        state, once = _timed(lambda: _kept(keep, pixels, accelerator))
        stored = sum(part[0].numel() * part.element_size() for part in state) * count * images
    with plan.resumed() as features:
        saved, step = _timed(lambda: _step(model, lambda: features(state), accelerator))
    step /= accelerator.num_processes  # which share it
    alone, together = recipe.head_epochs, recipe.epochs - recipe.head_epochs
    head_first = min(recipe.views, alone) * forward if model.trains_encoder else alone * step
    each = head_first + together * step
    evaluated = len(folds) if model.alters_features else bool(folds)
    held_out = evaluated * forward
    seconds = count * once + (1 + again) * each + held_out
    moments = 3 if recipe.optimizer == "adamw" else 2  # and the gradient
    memory += max(encoding, saved * at_once // tried + 4 * moments * model.trainable_count())
    return Cost(images / tried * seconds, forward / tried, in_use, memory, stored)


@torch.no_grad()
def _forward(encoder: Encoder, pixels: Tensor, accelerator: Accelerator) -> int:
    """Features; the bytes of the largest tensor on the way to them."""
    largest = 0

    def look(_: nn.Module, __: Any, output: Any) -> None:
        nonlocal largest
        if isinstance(output, Tensor):
            largest = max(largest, output.numel() * output.element_size())

    with register_module_forward_hook(look), accelerator.autocast():
        encoder(pixels)
    return largest


@torch.no_grad()
def _kept(keep: Callable[[Tensor], State], pixels: Tensor, accelerator: Accelerator) -> State:
    with accelerator.autocast():
        return keep(pixels)


def _step(model: AdaptedEncoder, features: Callable[[], Tensor], accelerator: Accelerator) -> int:
    """Forward and backward; the bytes that were kept from the one for the other."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with hooks, accelerator.autocast():
        logits = model.logits(features())
    logits.float().sum().backward()
    model.zero_grad(set_to_none=True)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    return sum(size for place, size in kept.items() if place not in weights)


def _timed(run: Callable[[], T]) -> tuple[T, float]:
    """What it gives, and the seconds that it takes; of a second run where the first is quick."""
    for _ in range(2):
        began = time.perf_counter()
        result = run()
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        seconds = time.perf_counter() - began
        if seconds > 1:
            break
    return result, seconds


def spent(seconds: float, stored: int) -> str:
    """What a fit took: as :class:`Cost`, but the memory is the most that the process has held."""
    if torch.cuda.is_initialized():
        on_gpu = f" ({torch.cuda.max_memory_allocated() / 1e9:.1f} GB on the GPU)"
    else:
        on_gpu = ""
    return (
        f"{duration(seconds)}, with {peak_memory() / 1e9:.1f} GB of memory at most{on_gpu}, and "
        f"{stored / 1e9:.1f} GB of encoded views"
    )
