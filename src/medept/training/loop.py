"""The one training loop: any method, any recipe, the same views in the same order.

>>> from medept.encoders.load import load_encoder
>>> from medept.methods import adapt
>>> from medept.training.device import make_accelerator
>>> from medept.training.recipes import make_recipe
>>> model = adapt(load_encoder(), "linear", classes=2)
>>> images = [np.full((64, 64, 3), grey, np.uint8) for grey in (20, 230)]
>>> views = Views(images, model.encoder.preprocessing)
>>> recipe = make_recipe("medept", "linear", epochs=2, views=1)
>>> history = train(model, views, np.array([0, 1]), recipe, make_accelerator("cpu", "float32"))
>>> [(row["epoch"], row["trained"]) for row in history]
[(1, 'head'), (2, 'head')]
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from medept.data.threads import prefetch
from medept.encoders.symmetry import Symmetry
from medept.methods import AdaptedEncoder
from medept.methods.features import FeatureMethod
from medept.methods.pooling import pool_cases
from medept.progress import Progress, silent
from medept.training.cache import Activations, TensorCache
from medept.training.checkpoint import Checkpoint
from medept.training.inference import AS_IT_IS, EVALUATION_BATCH, frozen_features
from medept.training.inputs import CaseInputs, FeatureInputs, Inputs, open_inputs
from medept.training.processes import average_gradients, copy_from_first, own_rows
from medept.training.recipes import Recipe
from medept.training.views import Views

if TYPE_CHECKING:
    from accelerate import Accelerator

logger = logging.getLogger(__name__)

History = list[dict[str, Any]]
"""The learning curve, one row per epoch."""


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
    symmetry: Symmetry = AS_IT_IS,
    checkpoint: Checkpoint | None = None,
    cache: TensorCache | None = None,
) -> History:
    """Train ``model`` in place; returns its learning curve.

    Each row is an epoch: what was ``trained`` (``head``, or ``all`` that the method trains), the
    ``epoch``'s number from 1, the mean ``loss``, ``lr`` and ``encoder_lr`` at its end, and its
    ``seconds``. Methods that are fitted to features at once have none.

    Under ``accelerate launch`` the processes share each batch, and end with the same weights.

    Args:
        model: an adapted encoder; moved to the accelerator's device.
        views: n images or cases, and their random views.
        targets: (n,) class indices, or (n, C) of 0 and 1.
        recipe: how to train.
        accelerator: where to compute, and in what precision.
        groups: (n,) ids, for methods that cross-validate within the support set.
        seed: determines the order of images; ``views`` have a seed of their own.
        progress: called with what is done.
        symmetry: whose views a method learns from that is fitted at once.
        checkpoint: where to resume from, and where to write the state after each epoch.
        cache: tensors that fits to other subsets of the same images share; None for a cache that
            ends with this fit.

    Raises:
        InputError: if an image cannot be read.
        ResourceError: if there is no room on the disk for encoded views.
    """
    model.to(accelerator.device)
    with ExitStack() as stack:
        cache = cache or stack.enter_context(TensorCache())
        if isinstance(model, FeatureMethod):
            features = frozen_features(
                model, views, accelerator, cache, progress, symmetry=symmetry
            )
            sizes = views.sizes.numpy()
            if model.pool.learns:
                model.pool.fit(features.mean(axis=1), sizes, targets, seed)
                features = pool_cases(model.pool, features, sizes)
            model.fit_views(features, targets, groups)
            return []
        opened = open_inputs(model, views, recipe, accelerator, cache, progress)
        inputs: Inputs = stack.enter_context(opened)
        if (views.sizes > 1).any():
            inputs = CaseInputs(inputs, views.sizes, recipe.images_per_case, model.pool, views.seed)
        on_device = torch.as_tensor(targets, device=accelerator.device)
        trainer = _Trainer(model, inputs, on_device, recipe, accelerator, seed)
        if recipe.standardise:
            model.head.standardise(trainer.features(view=0))
        head_epochs = range(recipe.head_epochs)
        head_history = trainer.train_head(head_epochs, progress) if head_epochs else []
        other_epochs = range(recipe.head_epochs, recipe.epochs)
        return head_history + trainer.train(other_epochs, progress, checkpoint)


@dataclass(frozen=True)
class _Batch:
    """This process's share of a batch.

    Attributes:
        size: of the whole batch, in images.
        rows: (b,) the images of this share.
        weight: of its loss (:func:`~medept.training.processes.own_rows`).
        activations: what the model is fed.
    """

    size: int
    rows: Tensor
    weight: float
    activations: Activations


@dataclass(frozen=True)
class _Trainer:
    """A model, what it is trained on, and how; see :func:`train`.

    Attributes:
        targets: on the accelerator's device.
    """

    model: AdaptedEncoder
    inputs: Inputs
    targets: Tensor
    recipe: Recipe
    accelerator: Accelerator
    seed: int

    @torch.no_grad()
    def features(self, view: int) -> Tensor:
        """Features (n, D) of one view of every image, by the model as it is now."""
        batches = torch.arange(len(self.targets)).split(EVALUATION_BATCH)
        features = []
        for activations in prefetch(partial(self.inputs.read, view), batches):
            with self.accelerator.autocast():
                features.append(self.inputs.features(activations))
        return torch.cat(features)

    def train_head(self, epochs: range, progress: Progress) -> History:
        """Train the head alone, on features of every view before anything else is trained."""
        count = min(self.recipe.views, len(epochs))
        features = []
        for view in range(count):
            features.append(self.features(view))
            progress("encoding for the head", view + 1, count)
        inside = self.model.parameter_groups()["encoder"]
        for parameter in inside:
            parameter.requires_grad_(False)
        history = replace(self, inputs=FeatureInputs(features)).train(epochs)
        for parameter in inside:
            parameter.requires_grad_(True)
        return history

    def train(
        self, epochs: range, progress: Progress = silent, checkpoint: Checkpoint | None = None
    ) -> History:
        """Train for these of the recipe's epochs, counted from 0.

        The learning rates go once through their schedule. The checkpoint is resumed from, and
        written after each epoch.
        """
        recipe, accelerator = self.recipe, self.accelerator
        order = torch.Generator().manual_seed(self.seed)
        optimizer = _make_optimizer(self.model, recipe)
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        peak_rates = [group["lr"] for group in optimizer.param_groups]
        steps = math.ceil(len(self.targets) / recipe.batch_size)
        history = checkpoint.restore(parameters, optimizer, order) if checkpoint else []
        if history:
            logger.info("resuming after epoch %d of %d", history[-1]["epoch"], recipe.epochs)
        copy_from_first([*parameters, *self.model.head.buffers()], accelerator)
        prepared = accelerator.prepare(optimizer)
        for done in range(len(history), len(epochs)):
            began, total = time.perf_counter(), 0.0
            for step, batch in enumerate(self._batches(epochs[done], order), start=done * steps):
                factor = recipe.schedule(step / (steps * len(epochs)))
                for group, rate in zip(optimizer.param_groups, peak_rates, strict=True):
                    group["lr"] = rate * factor
                prepared.zero_grad(set_to_none=True)
                loss = self._add_gradients(batch)
                average_gradients(parameters, accelerator)
                prepared.step()
                total += accelerator.reduce(loss, "mean").item() * batch.size
            row = {
                "trained": "all" if self.model.trains_encoder else "head",
                "epoch": epochs[done] + 1,
                "loss": total / len(self.targets),
                "lr": optimizer.param_groups[0]["lr"],
                "encoder_lr": optimizer.param_groups[-1]["lr"],
                "seconds": time.perf_counter() - began,
            }
            history.append(row)
            progress(f"training (loss {row['loss']:.3f})", epochs[done] + 1, recipe.epochs)
            if checkpoint and accelerator.is_main_process:
                checkpoint.save(parameters, optimizer, order, history)
        return history

    def _batches(self, epoch: int, order: torch.Generator) -> Iterator[_Batch]:
        """Every image once, in a new order; batches are read ahead, in another thread."""
        images = torch.randperm(len(self.targets), generator=order)
        read = partial(self._read, epoch % self.recipe.views)
        return prefetch(read, images.split(self.recipe.batch_size))

    def _read(self, view: int, rows: Tensor) -> _Batch:
        own, weight = own_rows(rows, self.accelerator)
        return _Batch(len(rows), own, weight, self.inputs.read(view, own))

    def _add_gradients(self, batch: _Batch) -> Tensor:
        """Add the gradient of a batch's loss, one micro-batch at a time; returns the loss.

        A loss is a mean over images, and no image affects another: the gradients of the parts,
        each weighted by its share of the images, add up to that of the whole.
        """
        rows, accelerator = batch.rows, self.accelerator
        size = min(self.recipe.micro_batch or len(rows), len(rows))
        parts = (tensor.split(size) for tensor in batch.activations)
        whole = torch.zeros((), device=accelerator.device)
        for part_rows, *part in zip(rows.split(size), *parts, strict=True):
            with accelerator.autocast():
                logits = self.model.logits(self.inputs.features(part))
            weight = batch.weight * len(part_rows) / len(rows)
            loss = weight * loss_of(logits.float(), self.targets[part_rows])
            accelerator.backward(loss)
            whole += loss.detach()
        return whole


def loss_of(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy for class indices (B,); binary cross-entropy for labels (B, C)."""
    if targets.ndim == 1:
        return F.cross_entropy(logits, targets)
    return F.binary_cross_entropy_with_logits(logits, targets.float())


def _make_optimizer(model: AdaptedEncoder, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimiser; its first group is the head, its second what is in the encoder."""
    groups = model.parameter_groups()
    head, inside = recipe.weight_decay, recipe.encoder_weight_decay
    parameters = [
        {"params": groups["head"], "lr": recipe.lr, "weight_decay": head},
        {"params": groups["encoder"], "lr": recipe.encoder_lr, "weight_decay": inside},
    ]
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(parameters)
    return torch.optim.SGD(parameters, momentum=0.9)
