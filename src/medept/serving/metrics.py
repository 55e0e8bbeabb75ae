"""What the service counts and times, in the form that Prometheus reads."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

from medept.serving.limits import RequestError


class Metrics:
    """Counters of one service.

    Args:
        inside: how many requests are being served.
    """

    def __init__(self, inside: Callable[[], int]) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self.images = Counter(
            "medept_images", "Images predicted", ["model"], registry=self._registry
        )
        self.batch_size = Histogram(
            "medept_batch_size",
            "Images computed at once",
            buckets=(1, 2, 4, 8, 16, 32),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "medept_request_seconds",
            "Time of a prediction request, by its HTTP status",
            ["status"],
            registry=self._registry,
        )
        Gauge(
            "medept_requests_in_flight", "Requests being served", registry=self._registry
        ).set_function(inside)

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Time a request and count how it ends."""
        began, status = time.perf_counter(), 500
        try:
            yield
            status = 200
        except RequestError as problem:
            status = problem.status
            raise
        finally:
            self._seconds.labels(str(status)).observe(time.perf_counter() - began)

    def text(self) -> tuple[bytes, str]:
        """All of them, and the content type."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST
