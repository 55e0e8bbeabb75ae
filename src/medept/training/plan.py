"""What each step of training is fed: as much as possible computed once, kept, and read again.

Of every random view are kept: its features, where the method trains a head alone; what enters the
first thing that training changes (:mod:`medept.training.prefix`); or its pixels. They are in
memory, or in a file where they are large, and are gone when the fit ends; the folds of one fit
share them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor

from medept.encoders.tensors import fingerprint
from medept.methods import AdaptedEncoder
from medept.training.cache import State, TensorCache
from medept.training.prefix import Prefix, find_prefix
from medept.training.recipes import Recipe
from medept.training.views import Views

if TYPE_CHECKING:
    from accelerate import Accelerator

logger = logging.getLogger(__name__)


Encode = Callable[[Callable[[Tensor], State], int], Iterator[State]]
"""Applies a function to the first so many views of every image of the whole set, in batches."""


@dataclass(frozen=True)
class Plan:
    """What is kept of each view, and how features are made from it.

    Attributes:
        what: its name among what other fits keep.
        keep: pixels (B, 3, H, W) -> what is kept; None where no view is seen twice.
        resumed: a context in which features are made from it; gives a function from what was kept
            (or from the pixels, where nothing was) to features (B, D).
    """

    what: Hashable
    keep: Callable[[Tensor], State] | None
    resumed: Callable[[], AbstractContextManager[Callable[[State], Tensor]]]


def make_plan(
    model: AdaptedEncoder, recipe: Recipe, accelerator: Accelerator, fits: int = 1
) -> Plan:
    """As much as the method leaves unchanged, where it is needed more than once.

    Views that a fit sees once are kept for other ``fits`` if whole blocks are saved thereby.
    """

    def from_pixels() -> AbstractContextManager[Callable[[State], Tensor]]:
        return nullcontext(lambda state: model.features(state[0]))

    if not model.trains_encoder:
        by = (model.name, model.settings.model_dump_json()) if model.alters_features else ()
        return Plan(
            ("features", *by, fingerprint(model.inserted_state())),
            lambda pixels: [model.features(pixels)],
            lambda: nullcontext(lambda state: state[0]),
        )
    again = recipe.views < recipe.epochs
    prefix = None
    if again or (fits > 1 and model.first_changed_block()):
        with accelerator.autocast():
            prefix = find_prefix(model)
    if prefix is not None:
        what = ("state", model.first_changed_block(), model.first_changed_prompt() is not None)
        return Plan(what, prefix.encode, partial(_from_prefix, model, prefix))
    if again:
        return Plan("pixels", lambda pixels: [pixels], from_pixels)
    return Plan("nothing", None, from_pixels)


@contextmanager
def _from_prefix(model: AdaptedEncoder, prefix: Prefix) -> Iterator[Callable[[State], Tensor]]:
    with prefix.resumed() as feed:
        yield lambda state: model.features(feed(state))


class Inputs:
    """What steps are fed, in two parts, of which the first may run in another thread."""

    def __init__(
        self, read: Callable[[int, Tensor], State], features: Callable[[State], Tensor]
    ) -> None:
        self.read, self.features = read, features
        """A view's number and rows (B,) -> a state; a state -> features (B, D)."""


@contextmanager
def open_inputs(
    model: AdaptedEncoder,
    views: Views,
    recipe: Recipe,
    accelerator: Accelerator,
    cache: TensorCache,
    encode: Encode,
) -> Iterator[Inputs]:
    """What steps are fed. The encoder goes on from what is kept while this is open."""
    plan = make_plan(model, recipe, accelerator, cache.fits)
    count = min(recipe.views, recipe.epochs)

    def drawn(view: int, rows: Tensor) -> State:
        return [views.random_batch(rows, view)]

    def stored(keep: Callable[[Tensor], State]) -> Callable[[int, Tensor], State]:
        frozen = (model.encoder_identity["sha256"], accelerator.mixed_precision, views.seed)
        key = (plan.what, count, recipe.crop_scale, *frozen)
        stores = cache.get(key, count * len(views.whole()), lambda: encode(keep, count))
        return lambda view, rows: [s[count * views.indices[rows] + view] for s in stores]

    read = stored(plan.keep) if plan.keep else drawn
    with plan.resumed() as features:
        yield Inputs(read, lambda state: features([part.to(accelerator.device) for part in state]))
