"""The one way to run images through an encoder: features and logits, in batches, decoded ahead.

Images are decoded in threads while the encoder computes. A list of images is read once and nothing
of it is kept, so memory stays flat however long the list is; :class:`~medept.training.views.Views`
keep what they decoded, for whoever reads them next.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from medept.data.cases import Item, images_of, sizes_of
from medept.data.images import ImageLike, read_image
from medept.data.threads import available_threads, prefetch
from medept.encoders.encoder import Encoder
from medept.encoders.preprocessing import Preprocessing
from medept.encoders.symmetry import Symmetry
from medept.errors import DataError, InputError
from medept.methods import AdaptedEncoder
from medept.methods.pooling import MeanPool, Pool
from medept.progress import Progress, silent
from medept.training.cache import Activations, CacheKey, TensorCache
from medept.training.views import Views

if TYPE_CHECKING:
    from accelerate import Accelerator

T = TypeVar("T")

EVALUATION_BATCH = 32
"""Images that are computed at once, where no gradients are needed."""

AS_IT_IS = Symmetry("none")

MEAN = MeanPool()

Images = Sequence[Item] | Views

Unreadable = dict[int, InputError]
"""Why images cannot be read, by their number among all images, those of cases counted singly."""


def encode_images(
    encoder: Encoder,
    images: Images,
    accelerator: Accelerator,
    *,
    symmetry: Symmetry = AS_IT_IS,
    tta: int | None = None,
    pool: Pool = MEAN,
    unreadable: Unreadable | None = None,
    progress: Progress = silent,
) -> np.ndarray:
    """Features (n, D), float32, of every image or case, by the encoder as it is now.

    Args:
        encoder: is moved to the accelerator's device.
        images: paths, PIL images or arrays, or cases of these; or views, of which the evaluation
            views are taken.
        accelerator: where to compute, and in what precision.
        symmetry: over whose views of each image features are averaged.
        tta: over how many of these, at most; None for all.
        pool: how the features of a case come from those of its images.
        unreadable: if given, images that cannot be read are added to it. The features of each such
            image, and of its case, are NaN.
        progress: called with ``"reading"``, the images done, and all of them.

    Raises:
        InputError: if an image cannot be read and ``unreadable`` is not given; the message names
            it.

    >>> from medept.encoders.load import load_encoder
    >>> from medept.training.device import make_accelerator
    >>> black = np.zeros((64, 64, 3), dtype=np.uint8)
    >>> encode_images(load_encoder(), [black, black], make_accelerator("cpu", "float32")).shape
    (2, 192)
    """
    encoder.to(accelerator.device)
    sizes, outputs = _pass(encoder, images, accelerator, symmetry, progress, unreadable)
    if (sizes == 1).all():
        features = _rows(outputs(partial(_mean_over_views, encoder, symmetry, tta)))
    else:
        views = outputs(partial(_views_to_pool, encoder, symmetry, tta, pool))
        features = _rows(_batched(_pooled(pool, views, sizes), EVALUATION_BATCH))
    features[np.repeat(np.arange(len(sizes)), sizes)[list(unreadable or ())]] = np.nan
    return features


def predict_logits(
    model: AdaptedEncoder,
    images: Images,
    accelerator: Accelerator,
    *,
    symmetry: Symmetry = AS_IT_IS,
    tta: int | None = None,
    progress: Progress = silent,
) -> np.ndarray:
    """Logits (n, C), float32, of every image, from its mean features over a symmetry's views.

    Those of a case are from the features that the model pools. Arguments and errors are
    :func:`encode_images`'s.

    >>> from medept.encoders.load import load_encoder
    >>> from medept.methods import adapt
    >>> from medept.training.device import make_accelerator
    >>> model = adapt(load_encoder(), "ept", classes=3)
    >>> black = np.zeros((64, 64, 3), dtype=np.uint8)
    >>> predict_logits(model, [black], make_accelerator("cpu", "float32")).shape
    (1, 3)
    """
    return predict_cases(
        model, images, accelerator, symmetry=symmetry, tta=tta, progress=progress
    ).logits


@dataclass(frozen=True)
class CaseLogits:
    """What a model makes of n images or cases, and of each of their N images.

    Attributes:
        logits: (n, C).
        image_logits: (N, C) of the images by themselves.
        weights: (N,) how much each image decides of the features of its case; those of a case add
            up to 1.
        strangeness: (n,) how strange the features are; None where that was not asked for.
    """

    logits: np.ndarray
    image_logits: np.ndarray
    weights: np.ndarray
    strangeness: np.ndarray | None = None


def predict_cases(
    model: AdaptedEncoder,
    images: Images,
    accelerator: Accelerator,
    *,
    symmetry: Symmetry = AS_IT_IS,
    tta: int | None = None,
    unreadable: Unreadable | None = None,
    strangeness: Callable[[np.ndarray], np.ndarray] | None = None,
    progress: Progress = silent,
) -> CaseLogits:
    """As :func:`predict_logits`, with what single images say; every image is read once.

    Args:
        unreadable: if given, images that cannot be read are added to it and left out, as are cases
            of which none is left.
        strangeness: of features (B, D), one number each (B,).

    Raises:
        InputError: if an image cannot be read and ``unreadable`` is not given, or none can be.
    """
    model.to(accelerator.device)
    encoder, pool = model.encoder, model.pool
    sizes, outputs = _pass(encoder, images, accelerator, symmetry, progress, unreadable)
    left_out = {} if unreadable is None else unreadable

    def told(features: Tensor) -> Tensor:
        """Logits, and as a last column the strangeness, if it is asked for."""
        logits = model.logits(features)
        if strangeness is None:
            return logits
        strange = torch.as_tensor(strangeness(features.float().cpu().numpy()))
        return torch.cat([logits.float().cpu(), strange[:, None].float()], dim=1)

    def parts(found: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        return (found, None) if strangeness is None else (found[:, :-1], found[:, -1])

    if (sizes == 1).all():

        def single(pixels: Tensor) -> Tensor:
            return told(_mean_over_views(encoder, symmetry, tta, pixels))

        found, strange = parts(np.delete(_rows(outputs(single)), sorted(left_out), axis=0))
        _refuse_nothing(len(found), left_out)
        return CaseLogits(found, found, np.ones(len(found), dtype=np.float32), strange)

    def views(pixels: Tensor) -> Tensor:
        return _views_to_pool(encoder, symmetry, tta, pool, pixels)

    image_logits: list[Tensor] = []
    weights: list[Tensor] = []

    @torch.inference_mode()
    def explained() -> Iterator[Tensor]:
        for case in _by_case(outputs(views), sizes, left_out):
            images = list(case)
            if not images:
                continue
            means = torch.cat([part.mean(dim=1) for part in images])
            image_logits.append(model.logits(means))
            weights.append(pool.weights(means))
            yield pool.pool(images).mean(dim=0)

    with torch.inference_mode():
        found, strange = parts(_rows(map(told, _batched(explained(), EVALUATION_BATCH))))
    _refuse_nothing(len(found), left_out)
    return CaseLogits(found, _rows(image_logits), _rows(weights), strange)


@torch.inference_mode()
def logits_of_features(model: AdaptedEncoder, features: np.ndarray) -> np.ndarray:
    """Logits (n, C), float32, from features (n, D) that :func:`encode_images` gave.

    What needs both features and logits so decodes and encodes every image once.
    """
    device = next(model.parameters()).device
    return model.logits(torch.as_tensor(features).to(device)).float().cpu().numpy()


def pixel_batches(
    images: Sequence[ImageLike] | Views,
    preprocessing: Preprocessing,
    size: int = EVALUATION_BATCH,
    symmetry: Symmetry = AS_IT_IS,
    unreadable: Unreadable | None = None,
) -> Iterator[Tensor]:
    """Batches (B, 3, H, W), B at most ``size``, of images as an encoder is evaluated on them.

    They are decoded in threads, at most two batches ahead; with corner views (B, 5, 3, H, W).

    Args:
        unreadable: if given, images (no views) that cannot be read are added to it, and a black
            image stands in the place of each.

    Raises:
        InputError: if an image cannot be read and ``unreadable`` is not given; the message names
            it.
    """
    if isinstance(images, Views):
        prepare = images.prepared if symmetry.corners else images.evaluation_view
    else:
        prepare = partial(_prepare, images, symmetry.preparation(preprocessing), unreadable)
    rows = range(len(images))
    return _batched(prefetch(prepare, rows, threads=available_threads(), limit=2 * size), size)


@torch.inference_mode()
def run_batches(
    function: Callable[[Tensor], T], batches: Iterable[Tensor], accelerator: Accelerator
) -> Iterator[T]:
    """``function`` of each batch, on the accelerator's device and in its precision."""
    for batch in batches:
        with accelerator.autocast():
            output = function(batch.to(accelerator.device))
        yield output


def frozen_features(
    model: AdaptedEncoder,
    views: Views,
    accelerator: Accelerator,
    cache: TensorCache,
    progress: Progress = silent,
    *,
    symmetry: Symmetry = AS_IT_IS,
) -> np.ndarray:
    """Features (n, V, D) of V views of n images or cases, by the encoder as it came.

    Those of the whole set that ``views`` are a subset of are cached. A pooling that is learnt needs
    those of the images, and has (N, V, D) of all N images.

    Args:
        model: of a method that does not alter features.
        views: n images or cases.
        accelerator: where to compute, and in what precision.
        cache: shared by fits to subsets of the same images.
        progress: as for :func:`encode_images`.
        symmetry: whose views are encoded.
    """
    sha256, precision = model.encoder_identity["sha256"], accelerator.mixed_precision
    whole = views.whole()
    pooled = bool((whole.sizes > 1).any()) and not model.pool.learns
    details = (str(model.encoder.readout), symmetry.name, model.pool.name if pooled else "")
    key = CacheKey("frozen features", sha256, precision, details=details)
    found = _features_of_views(model, whole, accelerator, progress, symmetry)
    if pooled:
        sizes = whole.sizes.numpy()
        cases = _batched(_pooled(model.pool, found, sizes, mean=False), EVALUATION_BATCH)
        (features,) = cache.get(key, len(whole.cases), ([batch.cpu()] for batch in cases))
        return features[views.cases].numpy()
    (features,) = cache.get(key, len(whole), ([batch.float().cpu()] for batch in found))
    return features[views.indices].numpy()


def _features_of_views(
    model: AdaptedEncoder,
    views: Views,
    accelerator: Accelerator,
    progress: Progress,
    symmetry: Symmetry,
) -> Iterator[Tensor]:
    """Features (B, V, D) of every image, computed when they are asked for."""
    model.encoder.to(accelerator.device)

    def every_view(pixels: Tensor) -> Tensor:
        return torch.stack([model.encoder(view) for view in symmetry.views(pixels)], dim=1)

    batches = pixel_batches(views, model.encoder.preprocessing, symmetry=symmetry)
    yield from map(_Counter(progress, len(views)), run_batches(every_view, batches, accelerator))


def encode_views(
    encode: Callable[[Tensor], Activations],
    views: Views,
    count: int,
    accelerator: Accelerator,
    progress: Progress = silent,
) -> Iterator[Activations]:
    """What ``encode`` makes of the first ``count`` random views, image by image, view by view."""
    draw = partial(views.random_views, count=count)
    threads = available_threads()
    drawn = prefetch(draw, range(len(views)), threads=threads, limit=2 * threads)
    batches = _batched(chain.from_iterable(drawn), EVALUATION_BATCH)
    done, total = 0, count * len(views)
    for activations in run_batches(encode, batches, accelerator):
        yield activations
        done += len(activations[0])
        progress("encoding", done, total)


def _mean_over_views(
    encoder: Encoder, symmetry: Symmetry, count: int | None, pixels: Tensor
) -> Tensor:
    """The mean features (B, D) of the views of prepared pixels."""
    views = [encoder(view) for view in symmetry.views(pixels, count)]
    return views[0] if len(views) == 1 else torch.stack(views).mean(dim=0)


def _views_to_pool(
    encoder: Encoder, symmetry: Symmetry, count: int | None, pool: Pool, pixels: Tensor
) -> Tensor:
    """Features (B, V, D) of the views of prepared pixels; their mean where that is enough."""
    if not pool.by_view:
        return _mean_over_views(encoder, symmetry, count, pixels)[:, None]
    return torch.stack([encoder(view) for view in symmetry.views(pixels, count)], dim=1)


def _pass(
    encoder: Encoder,
    images: Images,
    accelerator: Accelerator,
    symmetry: Symmetry,
    progress: Progress,
    unreadable: Unreadable | None = None,
) -> tuple[np.ndarray, Callable[[Callable[[Tensor], Tensor]], Iterator[Tensor]]]:
    """One pass over the images of images and cases, with progress.

    Returns:
        how many images each item has, (n,); and what gives a function's outputs, batch by batch.
    """
    if isinstance(images, Views):
        single: Sequence[ImageLike] | Views = images
        sizes = images.sizes.numpy()
    else:
        single, sizes = images_of(images), sizes_of(images)
    batches = pixel_batches(single, encoder.preprocessing, symmetry=symmetry, unreadable=unreadable)
    seen = _Counter(progress, len(single))
    return sizes, lambda function: map(seen, run_batches(function, batches, accelerator))


def _by_case(
    batches: Iterator[Tensor], sizes: np.ndarray, left_out: Container[int] = ()
) -> Iterator[Iterator[Tensor]]:
    """For each case the features (b, V, D) of its images, in float32 and in parts.

    Each case has to be read to its end before the next one. One whose images are all left out has
    no part.
    """
    rest, done = torch.zeros(0), 0

    def parts(size: int) -> Iterator[Tensor]:
        nonlocal rest, done
        while size:
            if not len(rest):
                rest = next(batches).float()
            part, rest = rest[:size], rest[size:]
            size -= len(part)
            kept = [i for i in range(len(part)) if done + i not in left_out]
            done += len(part)
            if kept:
                yield part if len(kept) == len(part) else part[kept]

    for size in sizes.tolist():
        yield parts(size)


@torch.inference_mode()
def _pooled(
    pool: Pool, batches: Iterator[Tensor], sizes: np.ndarray, *, mean: bool = True
) -> Iterator[Tensor]:
    """Features (D) of each case, means over views; or those of its views (V, D)."""
    for parts in _by_case(batches, sizes):
        features = pool.pool(parts)
        yield features.mean(dim=0) if mean else features


class _Counter:
    """Passes batches on, and reports how many images have been read."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def __call__(self, batch: Tensor) -> Tensor:
        self._done += len(batch)
        self._progress("reading", self._done, self._total)
        return batch


def _rows(batches: Iterable[Tensor]) -> np.ndarray:
    """All rows of batches, in float32."""
    rows = [batch.float().cpu().numpy() for batch in batches]
    return np.concatenate(rows) if rows else np.zeros((0, 0), dtype=np.float32)


def _prepare(
    images: Sequence[ImageLike],
    transform: Callable[..., Tensor],
    unreadable: Unreadable | None,
    row: int,
) -> Tensor:
    try:
        image = read_image(images[row])
    except InputError as error:
        if unreadable is None:
            raise
        unreadable[row] = error
        image = Image.new("RGB", (64, 64))
    return transform(image)


def _refuse_nothing(left: int, left_out: Unreadable) -> None:
    """Refuse if none of the images is left."""
    if left_out and not left:
        raise DataError(f"none of the {len(left_out)} images can be read")


def _batched(images: Iterator[Tensor], size: int) -> Iterator[Tensor]:
    """Tensors stacked into batches of ``size``, such as images; the last may be smaller."""
    while batch := list(islice(images, size)):
        yield torch.stack(batch)
