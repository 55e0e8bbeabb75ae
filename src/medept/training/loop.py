"""The one fit loop: any method, any recipe, the same views in the same order."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from medept.data.threads import prefetch
from medept.methods import AdaptedEncoder
from medept.methods.features import FeatureMethod
from medept.progress import Progress, silent
from medept.training.cache import State, TensorCache
from medept.training.checkpoint import Checkpoint
from medept.training.inference import EVALUATION_BATCH, encode_views, frozen_features
from medept.training.plan import Inputs, open_inputs
from medept.training.recipes import Recipe
from medept.training.views import Views

if TYPE_CHECKING:
    from accelerate import Accelerator

logger = logging.getLogger(__name__)

T = TypeVar("T")

Share = tuple[Tensor, float, State]
"""A process's rows of a batch, by what its loss counts, and what the model is fed."""


def train(
    model: AdaptedEncoder,
    views: Views,
    targets: np.ndarray,
    recipe: Recipe,
    accelerator: Accelerator,
    *,
    groups: np.ndarray | None = None,
    seed: int = 0,
    progress: Progress = silent,
    checkpoint: Checkpoint | None = None,
    cache: TensorCache | None = None,
) -> list[dict[str, Any]]:
    """Train ``model`` in place; returns its learning curve.

    A row is an epoch: what was ``trained`` (``head``, or ``all`` that the method trains), its
    number, mean loss, learning rates at its end, seconds.

    Under ``accelerate launch`` the processes share each batch, and end with the same weights.

    Args:
        targets: (n,) class indices, or (n, C) of 0 and 1.
        groups: (n,) ids, for methods that cross-validate within the support set.
        seed: of the order of images; that of the views is in ``views``.
        checkpoint: where to go on from, and to write the state to after each epoch.
        cache: what fits to other parts of the same set have computed already.
    """
    model.to(accelerator.device)

    def encode(function: Callable[[Tensor], State], count: int) -> Iterator[State]:
        return encode_views(function, views.whole(), count, accelerator, progress)

    with ExitStack() as stack:
        cache = cache or stack.enter_context(TensorCache())
        if isinstance(model, FeatureMethod):
            features = frozen_features(model, views, accelerator, cache, progress)
            model.fit_features(features, targets, groups)
            return []
        inputs = stack.enter_context(open_inputs(model, views, recipe, accelerator, cache, encode))
        wanted = torch.as_tensor(targets, device=accelerator.device)
        training = _Training(model, inputs, wanted, recipe, accelerator, seed)
        if recipe.standardise:
            model.head.standardise(_features(training, view=0))
        alone, together = range(recipe.head_epochs), range(recipe.head_epochs, recipe.epochs)
        head_curve = _train_head(training, alone, progress) if alone else []
        return head_curve + _epochs(training, together, progress, checkpoint)


@dataclass(frozen=True)
class _Training:
    """What is trained, on what, and how; the other arguments are :func:`train`'s.

    Attributes:
        inputs: of as many views of each image as the recipe has.
        targets: on the accelerator's device.
    """

    model: AdaptedEncoder
    inputs: Inputs
    targets: Tensor
    recipe: Recipe
    accelerator: Accelerator
    seed: int


@torch.no_grad()
def _features(training: _Training, view: int) -> Tensor:
    """Features (n, D) of one view of every image, as they are now."""
    batches = torch.arange(len(training.targets)).split(EVALUATION_BATCH)
    features = []
    for state in prefetch(partial(training.inputs.read, view), batches):
        with training.accelerator.autocast():
            features.append(training.inputs.features(state))
    return torch.cat(features)


def _train_head(training: _Training, epochs: range, progress: Progress) -> list[dict[str, Any]]:
    """Train the head alone, on the features of every view before the encoder is adapted."""
    views = []
    for view in range(count := min(training.recipe.views, len(epochs))):
        views.append(_features(training, view))
        progress("encoding for the head", view + 1, count)
    known = Inputs(lambda view, rows: [views[view][rows]], lambda state: state[0])
    inside = training.model.parameter_groups()["encoder"]
    for parameter in inside:
        parameter.requires_grad_(False)
    history = _epochs(replace(training, inputs=known), epochs)
    for parameter in inside:
        parameter.requires_grad_(True)
    return history


def _epochs(
    training: _Training,
    epochs: range,
    progress: Progress = silent,
    checkpoint: Checkpoint | None = None,
) -> list[dict[str, Any]]:
    """Train for those of the recipe's epochs, in which the rates fall from their highest to 0."""
    model, recipe, accelerator = training.model, training.recipe, training.accelerator
    order = torch.Generator().manual_seed(training.seed)
    optimizer = _optimizer(model, recipe)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    rates = [group["lr"] for group in optimizer.param_groups]
    steps = math.ceil(len(training.targets) / recipe.batch_size)
    history = checkpoint.restore(parameters, optimizer, order) if checkpoint else []
    if history:
        logger.info("going on after epoch %d of %d", history[-1]["epoch"], recipe.epochs)
    _agree([*parameters, *model.head.buffers()], accelerator)
    stepper = accelerator.prepare(optimizer)

    def take_step(batch: Share, step: int) -> Tensor:
        part = recipe.schedule(step / (steps * len(epochs)))
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * part
        stepper.zero_grad(set_to_none=True)
        loss = _backward(training, batch)
        _share_gradients(parameters, accelerator)
        stepper.step()
        return loss

    for done in range(len(history), len(epochs)):
        started = time.perf_counter()
        loss = _epoch(training, epochs[done], order, take_step, done * steps)
        history.append(
            {
                "trained": "all" if model.trains_encoder else "head",
                "epoch": epochs[done] + 1,
                "loss": loss,
                "lr": optimizer.param_groups[0]["lr"],
                "encoder_lr": optimizer.param_groups[-1]["lr"],
                "seconds": time.perf_counter() - started,
            }
        )
        progress(f"training (loss {loss:.3f})", epochs[done] + 1, recipe.epochs)
        if checkpoint and accelerator.is_main_process:
            checkpoint.save(parameters, optimizer, order, history)
    return history


def _epoch(
    training: _Training,
    epoch: int,
    order: torch.Generator,
    take_step: Callable[[Share, int], Tensor],
    first: int,
) -> float:
    """See every image once, in a new order; the mean loss.

    Args:
        take_step: is given a batch and the step's number, of which the ``first`` is given here.
    """
    recipe, accelerator, total = training.recipe, training.accelerator, 0.0
    batches = torch.randperm(len(training.targets), generator=order).split(recipe.batch_size)
    read = partial(_read_share, training.inputs, epoch % recipe.views, accelerator)
    read_ahead = zip(batches, prefetch(read, batches), strict=True)
    for step, (rows, batch) in enumerate(read_ahead, start=first):
        loss = take_step(batch, step)
        total += accelerator.reduce(loss, "mean").item() * len(rows)
    return total / len(training.targets)


def _backward(training: _Training, batch: Share) -> Tensor:
    """Add the gradient of a batch's loss, of a micro-batch at a time; returns the loss.

    A loss is a mean over images, and no image sees another: the gradients of the parts, each by
    its share of the images, add up to that of the whole.
    """
    rows, weight, state = batch
    accelerator = training.accelerator
    size = min(training.recipe.micro_batch or len(rows), len(rows))
    parts = (tensor.split(size) for tensor in state)
    whole = torch.zeros((), device=accelerator.device)
    for own, *part in zip(rows.split(size), *parts, strict=True):
        with accelerator.autocast():
            logits = training.model.logits(training.inputs.features(part))
        loss = weight * len(own) / len(rows) * loss_of(logits.float(), training.targets[own])
        accelerator.backward(loss)
        whole += loss.detach()
    return whole


@torch.no_grad()
def _agree(values: list[Tensor], accelerator: Accelerator) -> None:
    """Processes go on from the values of the first."""
    from accelerate.utils import broadcast

    if accelerator.num_processes > 1:
        for value in values:
            value.copy_(broadcast(value))


def _share_gradients(parameters: list[nn.Parameter], accelerator: Accelerator) -> None:
    """Each process's gradients become their mean: once a batch, in whatever parts it came.

    Some of an encoder's parameters may play no part in its features, and have none.
    """
    if accelerator.num_processes > 1:
        gradients = [p.grad for p in parameters if p.grad is not None]
        mean = accelerator.reduce(parameters_to_vector(gradients), "mean")
        vector_to_parameters(mean, gradients)


def _read_share(inputs: Inputs, view: int, accelerator: Accelerator, rows: Tensor) -> Share:
    own, weight = _share(rows, accelerator)
    return own, weight, inputs.read(view, own)


def _share(rows: Tensor, accelerator: Accelerator) -> tuple[Tensor, float]:
    """This process's rows of a batch, and by what its loss counts.

    Processes' gradients are averaged: so weighted, their mean is the gradient of the whole batch,
    whatever the shares. One that is left without a row takes one that counts nothing.
    """
    count = accelerator.num_processes
    own = rows[accelerator.process_index :: count]
    if not len(own):
        return rows[:1], 0.0
    return own, count * len(own) / len(rows)


def loss_of(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy for class indices (B,); binary cross-entropy for labels (B, C)."""
    if targets.ndim == 1:
        return F.cross_entropy(logits, targets)
    return F.binary_cross_entropy_with_logits(logits, targets.float())


def _optimizer(model: AdaptedEncoder, recipe: Recipe) -> torch.optim.Optimizer:
    groups = model.parameter_groups()
    head, inside = recipe.weight_decay, recipe.encoder_weight_decay
    parameters = [
        {"params": groups["head"], "lr": recipe.lr, "weight_decay": head},
        {"params": groups["encoder"], "lr": recipe.encoder_lr, "weight_decay": inside},
    ]
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(parameters)
    return torch.optim.SGD(parameters, momentum=0.9)
