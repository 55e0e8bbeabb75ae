"""Where training enters a model, and whether what enters there is cached.

What lies below the first thing that training changes gives the same numbers for the same view in
every epoch. So training enters the model as late as the method allows: with features, with what
enters the first block that changes, or with pixels. Three classes, one for each, share the
interface :class:`EntryPoint`.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from medept.encoders.tensors import fingerprint
from medept.methods import AdaptedEncoder
from medept.training.cache import Activations, CacheDetails, Content
from medept.training.prefix import Prefix, find_prefix
from medept.training.recipes import Recipe

if TYPE_CHECKING:
    from accelerate import Accelerator


class EntryPoint(Protocol):
    """Where training enters a model.

    Attributes:
        content: what enters there.
        details: what else determines it (:class:`~medept.training.cache.CacheKey`).
    """

    content: Content
    details: CacheDetails

    def encode(self, pixels: Tensor) -> Activations:
        """Pixels (B, 3, H, W) -> what enters there."""

    def resumed(self) -> AbstractContextManager[None]:
        """While it is open, :meth:`features` may be called."""

    def features(self, activations: Activations) -> Tensor:
        """What :meth:`encode` gave -> features (B, D), by the model as it is now."""


class FromPixels:
    """Everything may change: the whole encoder runs in every step."""

    content: Content = "pixels"
    details: CacheDetails = ()

    def __init__(self, adapted: AdaptedEncoder) -> None:
        self.adapted = adapted

    def encode(self, pixels: Tensor) -> Activations:
        return [pixels]

    def resumed(self) -> AbstractContextManager[None]:
        return nullcontext()

    def features(self, activations: Activations) -> Tensor:
        return self.adapted.features(activations[0])


class FromPrefix:
    """The encoder runs from the first thing that changes (:mod:`medept.training.prefix`)."""

    content: Content = "prefix"

    def __init__(self, adapted: AdaptedEncoder, prefix: Prefix) -> None:
        self.adapted, self.prefix = adapted, prefix
        self.details: CacheDetails = (adapted.first_changed_block(), prefix.prompt is not None)

    def encode(self, pixels: Tensor) -> Activations:
        return self.prefix.encode(pixels)

    def resumed(self) -> AbstractContextManager[None]:
        return self.prefix.resumed()

    def features(self, activations: Activations) -> Tensor:
        return self.adapted.features(self.prefix.feed(activations))


class FromFeatures:
    """The head alone is trained: the encoder does not run at all."""

    content: Content = "features"

    def __init__(self, adapted: AdaptedEncoder) -> None:
        self.adapted = adapted
        altered = (adapted.name, adapted.settings.model_dump_json())
        self.details: CacheDetails = (
            *(altered if adapted.alters_features else ()),
            fingerprint(adapted.inserted_state()),
        )

    def encode(self, pixels: Tensor) -> Activations:
        return [self.adapted.features(pixels)]

    def resumed(self) -> AbstractContextManager[None]:
        return nullcontext()

    def features(self, activations: Activations) -> Tensor:
        return activations[0]


@dataclass(frozen=True)
class Plan:
    """Where training enters a model, and whether what enters there is cached."""

    entry: EntryPoint
    cached: bool


def make_plan(
    model: AdaptedEncoder, recipe: Recipe, accelerator: Accelerator, fits: int = 1
) -> Plan:
    """Enter the model as late as the method allows; cache what is read more than once.

    Args:
        model: an adapted encoder, not trained yet.
        recipe: how often each view is seen.
        accelerator: in whose precision a prefix is verified.
        fits: how many fits share the cache. Where each sees a view once, the views are cached for
            the others if that saves whole blocks.
    """
    if not model.trains_encoder:
        return Plan(FromFeatures(model), cached=True)
    seen_again = recipe.views < recipe.epochs
    prefix = None
    if seen_again or (fits > 1 and model.first_changed_block()):
        with accelerator.autocast():
            prefix = find_prefix(model)
    if prefix is not None:
        return Plan(FromPrefix(model, prefix), cached=True)
    return Plan(FromPixels(model), cached=seen_again)
