"""What a fit will cost, before it begins: one step is tried, and the rest is counted.

The step is one that the fit takes, on black images: in the fit's precision, resuming from what is
computed once. It is timed, and what it keeps for its backward pass is weighed.
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
from medept.training.cache import IN_MEMORY, Activations
from medept.training.device import memory_in_use, peak_memory
from medept.training.inference import EVALUATION_BATCH
from medept.training.plan import EntryPoint, make_plan
from medept.training.recipes import Recipe
from medept.training.views import Views

if TYPE_CHECKING:
    from accelerate import Accelerator

T = TypeVar("T")

TRIED = 4
"""Images in the step that is tried, at most, where it runs on the CPU."""

AT_ONCE = 3
"""Tensors as large as the largest, an MLP's hidden one, that exist at once without gradients."""

LIBRARIES = 130_000_000
"""Bytes that libraries take at their first step, and that their allocators keep: measured with
ViT-Ti and ViT-B, in float32 and bfloat16."""


@dataclass(frozen=True)
class Cost:
    """The cost of a fit.

    Attributes:
        seconds: of the fit.
        evaluation: seconds per image that is predicted afterwards.
        in_use: bytes of memory that the process uses already.
        memory: bytes that the fit needs beside them.
        stored: bytes of encoded views that are cached.

    >>> print(Cost(seconds=100, evaluation=0.05, in_use=0, memory=10**9, stored=10**8))
    2 min, and 50 s for each 1,000 images to predict; 1.0 GB of memory, and 0.1 GB more for
    encoded views
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
    *,
    symmetry: int = 1,
    tta: int = 1,
) -> Cost:
    """The cost of training on all images of ``views``: once, and once for each fold without it.

    It is too low if images are slow to decode, or if other programs use the same cores.

    Args:
        model: an adapted encoder, not trained yet.
        views: the images.
        recipe: how it will be trained.
        accelerator: where, and in what precision.
        folds: the number of folds of each cross-validation.
        symmetry: views of an image that a method learns from that is fitted at once.
        tta: views that a prediction averages over.

    Raises:
        InputError: if the first image cannot be read.
    """
    encoder, images = model.encoder, len(views)
    batch = min(recipe.micro_batch or recipe.batch_size, recipe.batch_size, images)
    tried = batch if accelerator.device.type == "cuda" else min(batch, TRIED)
    pixels = encoder.example().expand(tried, -1, -1, -1)
    in_use = memory_in_use(accelerator.device)
    memory = LIBRARIES + views.decoded_bytes()
    largest, forward = _timed(lambda: _largest_output(encoder, pixels, accelerator))
    encoding = AT_ONCE * largest * EVALUATION_BATCH // tried
    if isinstance(model, FeatureMethod):
        once = images / tried * symmetry * forward  # folds share the features
        return Cost(once, tta * forward / tried, in_use, memory + encoding, 0)
    plan = make_plan(model, recipe, accelerator, fits=1 + sum(folds))
    count = min(recipe.views, recipe.epochs)
    activations: Activations = [pixels]
    once, stored = 0.0, 0
    if plan.cached:
        activations, once = _timed(lambda: _encoded(plan.entry, pixels, accelerator))
        each_view = sum(part[0].numel() * part.element_size() for part in activations)
        stored = each_view * count * images
    with plan.entry.resumed():
        saved, step = _timed(lambda: _step(model, plan.entry, activations, accelerator))
    step /= accelerator.num_processes  # they share it
    held_out = (tta * len(folds) if model.alters_features else symmetry * bool(folds)) * forward
    seconds = _seconds(model, recipe, folds, forward, step, once) + held_out
    moments = 3 if recipe.optimizer == "adamw" else 2  # with the gradient
    memory += max(encoding, saved * batch // tried + 4 * moments * model.trainable_count())
    return Cost(images / tried * seconds, tta * forward / tried, in_use, memory, stored)


def _seconds(
    model: AdaptedEncoder,
    recipe: Recipe,
    folds: Sequence[int],
    forward: float,
    step: float,
    once: float,
) -> float:
    """Seconds of training the fit and its folds, for as many images as were tried.

    Args:
        forward: seconds of a whole forward pass over them.
        step: seconds of a training step.
        once: seconds to encode a view of each as it is cached.
    """
    head_epochs, other_epochs = recipe.head_epochs, recipe.epochs - recipe.head_epochs
    if model.trains_encoder:
        head_first = min(recipe.views, head_epochs) * forward
    else:
        head_first = head_epochs * step
    fit = head_first + other_epochs * step
    others = sum(parts - 1 for parts in folds)  # each fold trains on all images but its own part
    count = min(recipe.views, recipe.epochs)
    return count * once + (1 + others) * fit


@torch.no_grad()
def _largest_output(encoder: Encoder, pixels: Tensor, accelerator: Accelerator) -> int:
    """Bytes of the largest tensor on the way to features."""
    largest = 0

    def weigh(_: nn.Module, __: Any, output: Any) -> None:
        nonlocal largest
        if isinstance(output, Tensor):
            largest = max(largest, output.numel() * output.element_size())

    with register_module_forward_hook(weigh), accelerator.autocast():
        encoder(pixels)
    return largest


@torch.no_grad()
def _encoded(entry: EntryPoint, pixels: Tensor, accelerator: Accelerator) -> Activations:
    with accelerator.autocast():
        return entry.encode(pixels)


def _step(
    model: AdaptedEncoder, entry: EntryPoint, activations: Activations, accelerator: Accelerator
) -> int:
    """Go forward and backward once; the bytes that were kept from the one for the other."""
    kept: dict[int, int] = {}

    def weigh(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(weigh, lambda tensor: tensor)
    with hooks, accelerator.autocast():
        logits = model.logits(entry.features(activations))
    logits.float().sum().backward()
    model.zero_grad(set_to_none=True)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    return sum(size for place, size in kept.items() if place not in weights)


def _timed(run: Callable[[], T]) -> tuple[T, float]:
    """The result, and the seconds it took; those of a second run if the first took under 1 s."""
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
    """What a fit took, in words, with the most memory that the process has used.

    Args:
        seconds: of the fit.
        stored: bytes of encoded views that were cached.
    """
    if torch.cuda.is_initialized():
        on_gpu = f" ({torch.cuda.max_memory_allocated() / 1e9:.1f} GB on the GPU)"
    else:
        on_gpu = ""
    return (
        f"{duration(seconds)}, with {peak_memory() / 1e9:.1f} GB of memory at most{on_gpu}, and "
        f"{stored / 1e9:.1f} GB of encoded views"
    )
