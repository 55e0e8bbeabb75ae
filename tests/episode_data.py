"""Data sets to draw episodes from: small ones by hand, and Hypothesis strategies."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from medept.data.labelled_images import LabelledImages


def table(
    labels: list[int], groups: list[int] | None, splits: list[str] | None = None
) -> LabelledImages:
    names = tuple(f"image_{i}.png" for i in range(len(labels)))
    count = max(labels) + 1
    return LabelledImages(
        images=names,
        names=names,
        targets=np.array(labels),
        classes=tuple("abcdefgh"[:count]),
        groups=None if groups is None else np.array([f"g{g}" for g in groups]),
        splits=None if splits is None else np.array(splits),
    )


@st.composite
def tables(draw: st.DrawFn) -> LabelledImages:
    """Four to twelve groups of each of two or three classes, one to three images a group."""
    labels, groups = [], []
    for c in range(draw(st.integers(2, 3))):
        for g in range(draw(st.integers(4, 12))):
            size = draw(st.integers(1, 3))
            labels += [c] * size
            groups += [c * 100 + g] * size
    return table(labels, groups)


@st.composite
def mixed(draw: st.DrawFn) -> LabelledImages:
    """Groups whose images differ in class, and multi-label groups, with any shortage."""
    n, count = draw(st.integers(4, 30)), draw(st.integers(2, 4))
    groups = np.array([f"p{g}" for g in draw(st.lists(st.integers(0, 12), min_size=n, max_size=n))])
    names = tuple(f"{i}.png" for i in range(n))
    if draw(st.booleans()):
        cells = draw(st.lists(st.booleans(), min_size=n * count, max_size=n * count))
        targets = np.array(cells, dtype=np.uint8).reshape(n, count)
        targets[:count] |= np.eye(count, dtype=np.uint8)
    else:
        rest = draw(st.lists(st.integers(0, count - 1), min_size=n - count, max_size=n - count))
        targets = np.array([*range(count), *rest])
    return LabelledImages(names, names, targets, tuple("abcd"[:count]), groups)
