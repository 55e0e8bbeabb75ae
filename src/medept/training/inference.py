"""The one way to run images through an encoder: features and logits, in batches, decoded ahead.

Images are decoded in threads while the encoder computes. A list of images is read once and nothing
of it is kept, so memory stays flat however long the list is; :class:`~medept.training.views.Views`
keep what they decoded, for whoever reads them next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from torch import Tensor

from medept.data.images import ImageLike, read_image
from medept.data.threads import available_threads, prefetch
from medept.encoders.encoder import Encoder
from medept.encoders.preprocessing import Preprocessing
from medept.encoders.symmetry import Symmetry
from medept.methods import AdaptedEncoder
from medept.progress import Progress, silent
from medept.training.cache import Activations, CacheKey, TensorCache
from medept.training.views import Views

if TYPE_CHECKING:
    from accelerate import Accelerator

T = TypeVar("T")

EVALUATION_BATCH = 32
"""Images that are computed at once, where no gradients are needed."""

AS_IT_IS = Symmetry("none")

Images = Sequence[ImageLike] | Views


def encode_images(
    encoder: Encoder,
    images: Images,
    accelerator: Accelerator,
    *,
    symmetry: Symmetry = AS_IT_IS,
    tta: int | None = None,
    progress: Progress = silent,
) -> np.ndarray:
    """Features (n, D), float32, of every image, by the encoder as it is now.

    Args:
        encoder: is moved to the accelerator's device.
        images: paths, PIL images or arrays; or views, of which the evaluation views are taken.
        accelerator: where to compute, and in what precision.
        symmetry: over whose views of each image features are averaged.
        tta: over how many of these, at most; None for all.
        progress: called with ``"reading"``, the images done, and all of them.

    Raises:
        InputError: if an image cannot be read; the message names it.

    >>> from medept.encoders.load import load_encoder
    >>> from medept.training.device import make_accelerator
    >>> black = np.zeros((64, 64, 3), dtype=np.uint8)
    >>> encode_images(load_encoder(), [black, black], make_accelerator("cpu", "float32")).shape
    (2, 192)
    """
    features = partial(_mean_over_views, encoder, symmetry, tta)
    return _outputs(encoder, features, images, accelerator, progress, symmetry)


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

    Arguments and errors are :func:`encode_images`'s.

    >>> from medept.encoders.load import load_encoder
    >>> from medept.methods import adapt
    >>> from medept.training.device import make_accelerator
    >>> model = adapt(load_encoder(), "ept", classes=3)
    >>> black = np.zeros((64, 64, 3), dtype=np.uint8)
    >>> predict_logits(model, [black], make_accelerator("cpu", "float32")).shape
    (1, 3)
    """

    def logits(pixels: Tensor) -> Tensor:
        return model.logits(_mean_over_views(model.encoder, symmetry, tta, pixels))

    return _outputs(model, logits, images, accelerator, progress, symmetry)


@torch.inference_mode()
def logits_of_features(model: AdaptedEncoder, features: np.ndarray) -> np.ndarray:
    """Logits (n, C), float32, from features (n, D) that :func:`encode_images` gave.

    What needs both features and logits so decodes and encodes every image once.
    """
    device = next(model.parameters()).device
    return model.logits(torch.as_tensor(features).to(device)).float().cpu().numpy()


def pixel_batches(
    images: Images,
    preprocessing: Preprocessing,
    size: int = EVALUATION_BATCH,
    symmetry: Symmetry = AS_IT_IS,
) -> Iterator[Tensor]:
    """Batches (B, 3, H, W), B at most ``size``, of images as an encoder is evaluated on them.

    They are decoded in threads, at most two batches ahead; with corner views (B, 5, 3, H, W).

    Raises:
        InputError: if an image cannot be read; the message names it.
    """
    if isinstance(images, Views):
        prepare = images.prepared if symmetry.corners else images.evaluation_view
    else:
        prepare = partial(_prepare, images, symmetry.preparation(preprocessing))
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
    """Features (n, V, D) of the images' V views of a symmetry, by the encoder as it came.

    Those of the whole set that ``views`` are a subset of are cached.

    Args:
        model: of a method that does not alter features.
        views: n images.
        accelerator: where to compute, and in what precision.
        cache: shared by fits to subsets of the same images.
        progress: as for :func:`encode_images`.
        symmetry: whose views are encoded.
    """
    sha256, precision = model.encoder_identity["sha256"], accelerator.mixed_precision
    details = (str(model.encoder.readout), symmetry.name)
    key = CacheKey("frozen features", sha256, precision, details=details)
    whole = views.whole()
    batches = _features_of_views(model, whole, accelerator, progress, symmetry)
    (features,) = cache.get(key, len(whole), batches)
    return features[views.indices].numpy()


def _features_of_views(
    model: AdaptedEncoder,
    views: Views,
    accelerator: Accelerator,
    progress: Progress,
    symmetry: Symmetry,
) -> Iterator[Activations]:
    """Features (n, V, D) in one batch, computed when it is asked for."""

    def every_view(pixels: Tensor) -> Tensor:
        return torch.stack([model.encoder(view) for view in symmetry.views(pixels)], dim=1)

    features = _outputs(model.encoder, every_view, views, accelerator, progress, symmetry)
    yield [torch.as_tensor(features)]


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


def _outputs(
    model: Encoder | AdaptedEncoder,
    function: Callable[[Tensor], Tensor],
    images: Images,
    accelerator: Accelerator,
    progress: Progress,
    symmetry: Symmetry,
) -> np.ndarray:
    """What a function of prepared pixels, by the model, makes of every image, one row each."""
    model.to(accelerator.device)
    encoder = model if isinstance(model, Encoder) else model.encoder
    batches = pixel_batches(images, encoder.preprocessing, symmetry=symmetry)
    outputs: list[np.ndarray] = []
    done = 0
    for output in run_batches(function, batches, accelerator):
        outputs.append(output.float().cpu().numpy())
        done += len(output)
        progress("reading", done, len(images))
    return np.concatenate(outputs) if outputs else np.zeros((0, 0), dtype=np.float32)


def _prepare(images: Sequence[ImageLike], transform: Callable[..., Tensor], row: int) -> Tensor:
    return transform(read_image(images[row]))


def _batched(images: Iterator[Tensor], size: int) -> Iterator[Tensor]:
    """Images (3, H, W) stacked into batches of ``size``; the last may be smaller."""
    while batch := list(islice(images, size)):
        yield torch.stack(batch)
