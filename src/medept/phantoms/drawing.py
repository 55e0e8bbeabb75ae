"""What the phantoms are drawn with: a handful of smooth fields and soft shapes in numpy.

The image is the unit square, x to the right and y down, so that a drawing does not depend on its
size in pixels. Random fields are drawn on coarse lattices of fixed shape and interpolated, so
neither do they.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

Array = np.ndarray


@lru_cache(maxsize=8)
def grid(size: int) -> tuple[Array, Array]:
    """Pixel centres x and y, each (size, size), in (0, 1)."""
    centres = (np.arange(size) + 0.5) / size
    x, y = np.meshgrid(centres, centres)
    x.flags.writeable = y.flags.writeable = False
    return x, y


def smoothstep(low: float | Array, high: float | Array, x: Array) -> Array:
    """0 at or before ``low``, 1 at or after ``high`` (which may be the smaller), smooth between."""
    t = np.clip((x - low) / (np.asarray(high) - low), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def length(x: Array, y: Array) -> Array:
    """The length of the vector (x, y), at a tenth of the cost of ``np.hypot``."""
    return np.asarray(np.sqrt(x * x + y * y))


def mix(a: float | Array, b: float | Array, t: float | Array) -> Array:
    """``a`` where t is 0, ``b`` where t is 1."""
    return np.asarray(a + (b - a) * t)


def paint(image: Array, colour: Array | tuple[float, ...], cover: Array) -> None:
    """Lay a colour (or a whole image) over ``image`` (size, size, 3), in place."""
    image += (np.asarray(colour) - image) * cover[..., None]


def turn(x: Array, y: Array, angle: float | Array) -> tuple[Array, Array]:
    """Coordinates in axes turned by ``angle`` (radians)."""
    c, s = np.cos(angle), np.sin(angle)
    return c * x + s * y, c * y - s * x


@lru_cache(maxsize=64)
def _spline(size: int, cells: int) -> Array:
    """Cubic B-spline weights (size, cells + 3), scaled so that noise has unit variance."""
    t = (np.arange(size) + 0.5) / size * cells
    base = np.floor(t).astype(int)
    f = t - base
    taps = np.stack([(1 - f) ** 3, 3 * f**3 - 6 * f**2 + 4, -3 * f**3 + 3 * f**2 + 3 * f + 1, f**3])
    weights = np.zeros((size, cells + 3))
    for k in range(4):
        weights[np.arange(size), base + k] = taps[k] / 6.0
    return weights / np.sqrt(151.0 / 315.0)


def noise(rng: np.random.Generator, size: int, cells: int, rows: int | None = None) -> Array:
    """A smooth random field (size, size), mean 0 and variance 1, of ``cells`` bumps a side.

    ``rows``: bumps from top to bottom, where they differ from those from left to right.
    """
    rows = cells if rows is None else rows
    return _spline(size, rows) @ rng.standard_normal((rows + 3, cells + 3)) @ _spline(size, cells).T


def clouds(rng: np.random.Generator, size: int, cells: int, octaves: int = 3) -> Array:
    """A sum of :func:`noise`, each of half the grain and half the height of the one before."""
    return sum(
        (noise(rng, size, cells * 2**k) * 0.5**k for k in range(octaves)), np.zeros((size, size))
    )


@lru_cache(maxsize=64)
def _gaussian(size: int, sigma: float) -> Array:
    centres = (np.arange(size) + 0.5) / size
    distance = (centres[:, None] - centres) / sigma
    kernel = np.where(np.abs(distance) < 5.0, np.exp(-0.5 * distance**2), 0.0)
    return kernel / kernel.sum(axis=1, keepdims=True)


def blur(field: Array, sigma: float) -> Array:
    """A Gaussian blur of (size, size) by ``sigma``, in image sides; the border stays as bright."""
    kernel = _gaussian(len(field), sigma)
    return kernel @ field @ kernel.T


def at(field: Array, x: Array, y: Array) -> Array:
    """The field's value in the pixel that holds each point; the nearest one outside the image."""
    size = len(field)
    column = np.clip((np.asarray(x) * size).astype(int), 0, size - 1)
    row = np.clip((np.asarray(y) * size).astype(int), 0, size - 1)
    return field[row, column]


class Stamps:
    """Many small ellipses drawn at once.

    Args:
        size: pixels a side.
        x, y: centres, each (n,).
        a, b: half axes, each (n,), in image sides.
        angle: of the axis ``a``, (n,) radians.
    """

    def __init__(self, size: int, x: Array, y: Array, a: Array, b: Array, angle: Array) -> None:
        near = (np.abs(x - 0.5) < 0.55) & (np.abs(y - 0.5) < 0.55)
        x, y, a, b, angle = x[near], y[near], a[near], b[near], angle[near]
        reach = int(np.ceil(max(np.max(a, initial=0), np.max(b, initial=0)) * size)) + 1
        window = np.arange(-reach, reach + 1)
        column = (x * size).astype(int)[:, None, None] + window
        row = (y * size).astype(int)[:, None, None] + window[:, None]
        u, v = turn(
            (column + 0.5) / size - x[:, None, None],
            (row + 0.5) / size - y[:, None, None],
            angle[:, None, None],
        )
        a, b = a[:, None, None], b[:, None, None]
        self.radius = length(u / a, v / b)  # 1 on the outline
        self.depth = (1.0 - self.radius) * np.minimum(a, b) * size  # pixels inside the outline
        inside = (column >= 0) & (column < size) & (row >= 0) & (row < size)
        self._inside = inside & (self.depth > -1.0)
        self._index = np.broadcast_to(row * size + column, inside.shape)[self._inside]
        self._size = size

    @property
    def cover(self) -> Array:
        """(n, p, p): 1 inside, 0 outside, soft over one pixel."""
        return np.clip(self.depth + 0.5, 0.0, 1.0)

    def press(self, value: Array) -> Array:
        """(n, p, p) >= 0 onto one field (size, size); the largest wins where stamps meet."""
        field = np.zeros(self._size * self._size)
        np.maximum.at(field, self._index, np.broadcast_to(value, self.radius.shape)[self._inside])
        return field.reshape(self._size, self._size)


def develop(image: Array) -> Array:
    """Values (size, size[, 3]) in 0 to 1 as an RGB image, uint8."""
    if image.ndim == 2:
        image = np.repeat(image[..., None], 3, axis=-1)
    return np.rint(np.clip(image, 0.0, 1.0) * 255.0).astype(np.uint8)
