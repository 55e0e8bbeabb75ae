"""What training steps are fed: random views, from the cache as far as they are cached."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from medept.methods import AdaptedEncoder
from medept.progress import Progress, silent
from medept.training.cache import Activations, CacheKey, RandomViews, TensorCache
from medept.training.inference import encode_views
from medept.training.plan import EntryPoint, make_plan
from medept.training.recipes import Recipe
from medept.training.views import Views

if TYPE_CHECKING:
    from accelerate import Accelerator


class Inputs(Protocol):
    """What steps are fed, in two parts: the first may run ahead, in another thread."""

    def read(self, view: int, rows: Tensor) -> Activations:
        """What enters the model, on the CPU, of random view number ``view`` of these images."""

    def features(self, activations: Activations) -> Tensor:
        """Features (B, D) of what :meth:`read` gave, by the model as it is now."""


class ViewInputs:
    """Random views, cached or drawn anew each time; made by :func:`open_inputs`."""

    def __init__(
        self,
        entry: EntryPoint,
        views: Views,
        count: int,
        cached: Sequence[Tensor] | None,
        device: torch.device,
    ) -> None:
        self._entry, self._views, self._device = entry, views, device
        self._count, self._cached = count, cached

    def read(self, view: int, rows: Tensor) -> Activations:
        if self._cached is None:
            return [self._views.random_batch(rows, view)]
        places = self._count * self._views.indices[rows] + view
        return [tensor[places] for tensor in self._cached]

    def features(self, activations: Activations) -> Tensor:
        return self._entry.features([part.to(self._device) for part in activations])


class FeatureInputs:
    """Features (n, D) of each view, which are known and stay as they are."""

    def __init__(self, features: Sequence[Tensor]) -> None:
        self._features = features

    def read(self, view: int, rows: Tensor) -> Activations:
        return [self._features[view][rows]]

    def features(self, activations: Activations) -> Tensor:
        return activations[0]


@contextmanager
def open_inputs(
    model: AdaptedEncoder,
    views: Views,
    recipe: Recipe,
    accelerator: Accelerator,
    cache: TensorCache,
    progress: Progress = silent,
) -> Iterator[ViewInputs]:
    """Inputs of the recipe's random views of each image; while open, the model resumes from them.

    What is cached is computed here, of the whole set that ``views`` are a subset of, unless
    another fit has done so.

    Raises:
        InputError: if an image cannot be read.
        ResourceError: if there is no room on the disk for what is cached.
    """
    plan = make_plan(model, recipe, accelerator, cache.fits)
    count = min(recipe.views, recipe.epochs)
    cached = None
    if plan.cached:
        key = CacheKey(
            plan.entry.content,
            model.encoder_identity["sha256"],
            accelerator.mixed_precision,
            RandomViews(count, recipe.crop_scale, views.seed),
            plan.entry.details,
        )
        whole = views.whole()
        encoded = encode_views(plan.entry.encode, whole, count, accelerator, progress)
        cached = cache.get(key, count * len(whole), encoded)
    with plan.entry.resumed():
        yield ViewInputs(plan.entry, views, count, cached, accelerator.device)
