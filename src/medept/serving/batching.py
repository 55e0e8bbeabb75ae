"""One thread that runs models, and takes what waits for the same model in one batch.

Nothing waits for a batch to fill: while one is computed the next gathers, so batches are large when
many clients ask, and a lone image is computed at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from threading import Condition, Thread
from typing import Generic, TypeVar

import numpy as np

from medept.training.inference import EVALUATION_BATCH

T = TypeVar("T")

Predict = Callable[[Sequence[T]], np.ndarray]
"""Images to their probabilities (n, C). Those of the same function are computed together."""


class ModelThread(Generic[T]):
    """Computes probabilities of single images, in batches, in a thread of its own.

    Args:
        batch: most images that are computed at once.
        seen: called with the size of each batch.

    >>> def double(numbers):
    ...     return 2 * np.array(numbers)
    >>> thread = ModelThread()
    >>> futures = [thread.submit(double, number) for number in range(3)]
    >>> [int(future.result()) for future in futures]
    [0, 2, 4]
    >>> thread.close()
    """

    def __init__(
        self, batch: int = EVALUATION_BATCH, seen: Callable[[int], None] = lambda size: None
    ) -> None:
        self._batch, self._seen = batch, seen
        self._waiting: deque[tuple[Predict[T], T, Future[np.ndarray]]] = deque()
        self._changed = Condition()
        self._closed = False
        self._thread = Thread(target=self._run, name="models", daemon=True)
        self._thread.start()

    @property
    def is_running(self) -> bool:
        """Whether it takes images."""
        return self._thread.is_alive() and not self._closed

    def submit(self, predict: Predict[T], image: T) -> Future[np.ndarray]:
        """The probabilities (C,) of an image, once they are computed."""
        future: Future[np.ndarray] = Future()
        with self._changed:
            if self._closed:
                raise RuntimeError("the models' thread is closed")
            self._waiting.append((predict, image, future))
            self._changed.notify()
        return future

    def close(self) -> None:
        """Compute what was submitted, and end."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    return
                predict, batch = self._take()
            wanted = [(image, f) for image, f in batch if f.set_running_or_notify_cancel()]
            if wanted:
                self._seen(len(wanted))
                _compute(predict, wanted)
            del batch, wanted  # or the images would stay until the next are here

    def _take(self) -> tuple[Predict[T], list[tuple[T, Future[np.ndarray]]]]:
        """The first image that waits, and others that wait for the same model."""
        first = self._waiting[0][0]
        batch: list[tuple[T, Future[np.ndarray]]] = []
        others = []
        while self._waiting:
            predict, image, future = self._waiting.popleft()
            if predict == first and len(batch) < self._batch:
                batch.append((image, future))
            else:
                others.append((predict, image, future))
        self._waiting.extend(others)
        return first, batch


def _compute(predict: Predict[T], batch: Sequence[tuple[T, Future[np.ndarray]]]) -> None:
    """Give each image of a batch its result; if the batch fails, each by itself."""
    try:
        rows = predict([image for image, _ in batch])
    except Exception as error:
        if len(batch) == 1:
            batch[0][1].set_exception(error)
            return
        for each in batch:
            _compute(predict, [each])
        return
    for (_, future), row in zip(batch, rows, strict=True):
        future.set_result(row)
