"""What training steps are fed: random views, from the cache as far as they are cached."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from medept.methods import AdaptedEncoder
from medept.methods.pooling import Pool
from medept.progress import Progress, silent
from medept.training.cache import Activations, CacheKey, RandomViews, TensorCache
from medept.training.inference import encode_views
from medept.training.plan import EntryPoint, make_plan
from medept.training.recipes import Recipe
from medept.training.views import Views, combined_seed

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


class CaseInputs:
    """Features of cases, pooled from those of some of their images.

    Which images of a case are seen with a view is drawn by the seed, and the same in every epoch.

    Args:
        inputs: of all images, one case after the other.
        sizes: (n,) the number of images of each case.
        limit: how many images of a case are computed at once, at most.
        pool: how their features become those of the case.
        seed: of the draws.
    """

    def __init__(self, inputs: Inputs, sizes: Tensor, limit: int, pool: Pool, seed: int) -> None:
        self._inputs, self._pool, self._seed = inputs, pool, seed
        self._sizes, self._starts = sizes, sizes.cumsum(0) - sizes
        self._limit = min(limit, int(sizes.max()))

    def read(self, view: int, rows: Tensor) -> Activations:
        """Activations (B, K, ...) of at most K images of each case; the last says which are real.

        A case of fewer images has its first again in the places that are left.
        """
        seen = self._sizes[rows].clamp(max=self._limit)
        real = torch.arange(self._limit) < seen[:, None]
        drawn = torch.stack([self._draw(view, row) for row in rows.tolist()])
        images = torch.where(real, drawn, drawn[:, :1])
        read = self._inputs.read(view, images.flatten())
        return [*(part.unflatten(0, images.shape) for part in read), real]

    def features(self, activations: Activations) -> Tensor:
        *parts, real = activations
        features = self._inputs.features([part.flatten(0, 1) for part in parts])
        return self._pool.pool_batch(
            features.unflatten(0, real.shape).float(), real.to(features.device)
        )

    def _draw(self, view: int, row: int) -> Tensor:
        """Places (K) of images of a case, those drawn first."""
        size = int(self._sizes[row])
        generator = torch.Generator().manual_seed(combined_seed(self._seed, row, view))
        order = torch.randperm(size, generator=generator)[: self._limit]
        places = torch.nn.functional.pad(order, (0, self._limit - len(order)))
        return self._starts[row] + places


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
