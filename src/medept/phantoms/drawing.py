"""The tools that phantoms are drawn with: smooth random fields and soft shapes, in NumPy.

An image is the unit square, x to the right and y down, so that a drawing looks the same at every
size in pixels. Random fields do too: they are drawn on coarse lattices of fixed shape and
interpolated.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

Array = np.ndarray


@lru_cache(maxsize=8)
def grid(size: int) -> tuple[Array, Array]:
    """Coordinates x and y of pixel centres, each (size, size), between 0 and 1."""
    centres = (np.arange(size) + 0.5) / size
    x, y = np.meshgrid(centres, centres)
    x.flags.writeable = y.flags.writeable = False
    return x, y


def smoothstep(low: float | Array, high: float | Array, x: Array) -> Array:
    """0 up to ``low``, 1 from ``high`` on, smooth between; falling if ``high`` is below ``low``."""
    t = np.clip((x - low) / (np.asarray(high) - low), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def length(x: Array, y: Array) -> Array:
    """Length of the vector (x, y), ten times as fast as ``np.hypot``."""
    return np.asarray(np.sqrt(x * x + y * y))


def mix(a: float | Array, b: float | Array, t: float | Array) -> Array:
    """Linear interpolation: ``a`` where t is 0, ``b`` where t is 1."""
    return np.asarray(a + (b - a) * t)


def paint(image: Array, colour: Array | tuple[float, ...], cover: Array) -> None:
    """Blend a colour (or another image) into ``image`` (size, size, 3), in place, by ``cover``."""
    image += (np.asarray(colour) - image) * cover[..., None]


def rotate(x: Array, y: Array, angle: float | Array) -> tuple[Array, Array]:
    """Coordinates in axes that are rotated by ``angle`` (radians)."""
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


def noise(rng: np.random.Generator, size: int, cells: int) -> Array:
    """A smooth random field (size, size) with mean 0, variance 1 and ``cells`` bumps a side."""
    weights = _spline(size, cells)
    return weights @ rng.standard_normal((cells + 3, cells + 3)) @ weights.T


def fractal_noise(rng: np.random.Generator, size: int, cells: int, octaves: int = 3) -> Array:
    """A sum of :func:`noise`, each with half the grain size and half the amplitude of the last."""
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
    """Gaussian blur of (size, size) by ``sigma`` image sides; it does not darken the border."""
    kernel = _gaussian(len(field), sigma)
    return kernel @ field @ kernel.T


def sample(field: Array, x: Array, y: Array) -> Array:
    """Value of the field in the pixel of each point (outside the image: the nearest pixel)."""
    size = len(field)
    column = np.clip((np.asarray(x) * size).astype(int), 0, size - 1)
    row = np.clip((np.asarray(y) * size).astype(int), 0, size - 1)
    return field[row, column]


class Ellipses:
    """Many small ellipses, drawn at once; those outside of the image are left out.

    Args:
        size: pixels a side of the image.
        x, y: centres, each (n,).
        a, b: half axes, each (n,), in image sides.
        angle: direction of the axis ``a``, (n,), in radians.

    Attributes:
        radius: (n, p, p) distance from the centre, 1 on the outline, in a window of p x p pixels
            around each ellipse.
        depth: (n, p, p) distance inside the outline, in pixels.
    """

    def __init__(self, size: int, x: Array, y: Array, a: Array, b: Array, angle: Array) -> None:
        near = (np.abs(x - 0.5) < 0.55) & (np.abs(y - 0.5) < 0.55)
        x, y, a, b, angle = x[near], y[near], a[near], b[near], angle[near]
        reach = int(np.ceil(max(np.max(a, initial=0), np.max(b, initial=0)) * size)) + 1
        window = np.arange(-reach, reach + 1)
        column = (x * size).astype(int)[:, None, None] + window
        row = (y * size).astype(int)[:, None, None] + window[:, None]
        u, v = rotate(
            (column + 0.5) / size - x[:, None, None],
            (row + 0.5) / size - y[:, None, None],
            angle[:, None, None],
        )
        a, b = a[:, None, None], b[:, None, None]
        self.radius = length(u / a, v / b)
        self.depth = (1.0 - self.radius) * np.minimum(a, b) * size
        inside = (column >= 0) & (column < size) & (row >= 0) & (row < size)
        self._inside = inside & (self.depth > -1.0)
        self._index = np.broadcast_to(row * size + column, inside.shape)[self._inside]
        self._size = size

    @property
    def cover(self) -> Array:
        """(n, p, p): 1 inside, 0 outside, with an edge that is one pixel wide."""
        return np.clip(self.depth + 0.5, 0.0, 1.0)

    def rasterise(self, value: Array) -> Array:
        """Merge values (n, p, p) >= 0 into one field (size, size); the largest wins on overlaps."""
        field = np.zeros(self._size * self._size)
        np.maximum.at(field, self._index, np.broadcast_to(value, self.radius.shape)[self._inside])
        return field.reshape(self._size, self._size)


def to_image(image: Array) -> Array:
    """An RGB image, uint8, from values (size, size) or (size, size, 3) between 0 and 1."""
    if image.ndim == 2:
        image = np.repeat(image[..., None], 3, axis=-1)
    return np.rint(np.clip(image, 0.0, 1.0) * 255.0).astype(np.uint8)
