"""Prefetching keeps the order, stays within its limit, and stops when nobody takes any more."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from medept.data.threads import prefetch


def test_results_come_in_the_order_of_items() -> None:
    def slow(item: int) -> int:
        time.sleep(0.01 * (item % 3 == 0))
        return item * item

    assert list(prefetch(slow, range(20), threads=4, limit=8)) == [i * i for i in range(20)]


def test_no_more_items_are_taken_than_the_limit_allows() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for item in range(10):
            taken.append(item)
            yield item

    results = prefetch(abs, items(), threads=2, limit=3)
    assert taken == [], "nothing begins before the first result is asked for"
    next(results)
    assert len(taken) == 4, "one was given out, three are ahead"
    results.close()
    assert len(taken) == 4


def test_an_error_is_raised_where_its_result_would_be() -> None:
    results = prefetch(lambda item: 1 // item, [1, 0, 1], threads=2)
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_whoever_stops_taking_does_not_wait_for_the_rest() -> None:
    release, begun = threading.Event(), []

    def wait(item: int) -> int:
        begun.append(item)
        if item:
            release.wait(timeout=10)
        return item

    results = prefetch(wait, range(9), threads=1, limit=8)
    assert next(results) == 0
    release.set()
    results.close()
    assert len(begun) < 9
