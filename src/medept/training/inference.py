"""Running images through an encoder: features and logits, in batches, decoded ahead."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from medept.data.threads import ahead, available_threads
from medept.methods import AdaptedEncoder
from medept.progress import Progress, silent
from medept.training.cache import Kept, State
from medept.training.views import Views

if TYPE_CHECKING:
    from accelerate import Accelerator

T = TypeVar("T")

EVALUATION_BATCH = 32


def predict_logits(
    model: nn.Module,
    views: Views,
    accelerator: Accelerator,
    *,
    progress: Progress = silent,
) -> np.ndarray:
    """Outputs (n, C), float32, of ``model`` for every image as it is evaluated."""
    images = ahead(
        views.plain, range(len(views)), threads=available_threads(), most=2 * EVALUATION_BATCH
    )
    rows = [
        output.float().cpu().numpy()
        for output in _batches(model, images, len(views), accelerator, "reading", progress)
    ]
    return np.concatenate(rows) if rows else np.zeros((0, 0), dtype=np.float32)


def plain_features(
    model: AdaptedEncoder,
    views: Views,
    accelerator: Accelerator,
    kept: Kept,
    progress: Progress = silent,
) -> np.ndarray:
    """The encoder's own features (n, D) of images as they are evaluated.

    Those of the whole set that ``views`` are a part of are computed once.
    """

    def encode() -> Iterator[State]:
        whole = predict_logits(model.encoder, views.part(), accelerator, progress=progress)
        yield [torch.as_tensor(whole)]

    key = ("plain", model.encoder_identity["sha256"], accelerator.mixed_precision)
    (features,) = kept.get(key, views.total, encode)
    return features[views.numbers].numpy()


def encode_views(
    function: Callable[[Tensor], State],
    views: Views,
    count: int,
    accelerator: Accelerator,
    progress: Progress,
) -> Iterator[State]:
    """``function`` of the first ``count`` random views, image by image, view by view."""
    draw = partial(views.first, count=count)
    threads = available_threads()
    drawn = ahead(draw, range(len(views)), threads=threads, most=2 * threads)
    images = chain.from_iterable(drawn)
    return _batches(function, images, count * len(views), accelerator, "encoding", progress)


@torch.inference_mode()
def _batches(
    model: Callable[[Tensor], T],
    images: Iterator[Tensor],
    count: int,
    accelerator: Accelerator,
    what: str,
    progress: Progress,
) -> Iterator[T]:
    """``model`` of ``count`` images (3, H, W) in batches, with its progress."""
    for start in range(0, count, EVALUATION_BATCH):
        batch = list(islice(images, EVALUATION_BATCH))
        with accelerator.autocast():
            yield model(torch.stack(batch).to(accelerator.device))
        progress(what, start + len(batch), count)
