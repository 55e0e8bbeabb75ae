"""Colon: tiles of stained tissue, with normal crypts or tumour glands.

Light passes through two stains (Beer-Lambert law): haematoxylin, which nuclei take up, and eosin,
which everything else takes up. Only the order of the tissue tells the classes apart: normal crypts
are round, evenly spaced and full of mucin, with one row of small nuclei at their rim; tumour glands
are crowded and irregular, and their nuclei are large, uneven and stratified. Stain, thickness,
magnification and focus are the patient's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from medept.phantoms.drawing import (
    Array,
    Ellipses,
    blur,
    fractal_noise,
    grid,
    length,
    mix,
    noise,
    rotate,
    sample,
    smoothstep,
    to_image,
)
from medept.phantoms.patient import Patient

HAEMATOXYLIN = np.array([0.65, 0.70, 0.29])
EOSIN = np.array([0.07, 0.85, 0.22])


@dataclass(frozen=True)
class ColonPatient(Patient):
    """A patient's slide: how it was cut, stained and photographed."""

    classes: ClassVar = ("normal", "tumour")

    haematoxylin: Array  # optical density of red, green, blue
    eosin: Array
    glass: Array  # colour where there is no tissue
    slope: Array  # change of the lighting to the right and downwards
    gland: float  # radius of a crypt, in image sides
    stretch: float  # how obliquely the crypts are cut; 1: straight across
    angle: float  # direction of the stretch
    stroma: float  # number of nuclei between the glands, relative to the average
    focus: float  # blur, in image sides

    @classmethod
    def random(cls, rng: np.random.Generator) -> ColonPatient:
        return cls(
            haematoxylin=HAEMATOXYLIN * rng.uniform(0.6, 1.45) + rng.normal(0, 0.06, 3),
            eosin=EOSIN * rng.uniform(0.45, 1.5) + rng.normal(0, 0.06, 3),
            glass=rng.uniform(0.9, 0.99) + rng.normal(0, 0.012, 3),
            slope=rng.normal(0, 0.12, 2),
            gland=rng.uniform(0.155, 0.205),
            stretch=rng.uniform(1.0, 1.35),
            angle=rng.uniform(0, np.pi),
            stroma=rng.uniform(0.6, 1.5),
            focus=rng.uniform(0.002, 0.006),
        )

    def draw(self, signs: Array, size: int, difficulty: float, rng: np.random.Generator) -> Array:
        spread = 0.12 + 0.1 * difficulty
        middle = 0.5 + (0.5 - 0.38 * difficulty) * (1 if signs[1] else -1)
        atypia = float(np.clip(rng.normal(middle, spread), 0.0, 1.1))

        tissue = _Tissue(self, atypia, size, rng)
        h, e = tissue.concentrations()
        density = h[..., None] * self.haematoxylin + e[..., None] * self.eosin
        density = np.stack([blur(density[..., k], self.focus) for k in range(3)], axis=-1)
        x, y = grid(size)
        light = 1 + self.slope[0] * (x - 0.5) + self.slope[1] * (y - 0.5)
        light += 0.008 * noise(rng, size, 48)
        return to_image(self.glass * light[..., None] * np.exp(-density))


class _Tissue:
    """Glands, and the nuclei in and between them.

    Args:
        atypia: 0 for normal tissue, about 1 for the most abnormal tumour.
    """

    def __init__(
        self, patient: ColonPatient, atypia: float, size: int, rng: np.random.Generator
    ) -> None:
        self.patient, self.atypia, self.size, self.rng = patient, atypia, size, rng
        self.angle = patient.angle + rng.normal(0, 0.3)
        self.unit = patient.gland * rng.uniform(0.94, 1.06)
        bend = self.unit * (0.1 + 0.2 * atypia)
        self.bend = noise(rng, size, 5) * bend, noise(rng, size, 5) * bend
        self._place_glands()
        self._measure()

    def _place_glands(self) -> None:
        """Centres, radii, shapes and lumens of the glands, on a jittered triangular lattice."""
        rng, a = self.rng, self.atypia
        pitch = self.unit * mix(2.3, 2.05, a)
        reach = int(np.ceil(1.0 / pitch)) + 1
        i, j = np.meshgrid(np.arange(-reach, reach + 1), np.arange(-reach, reach + 1))
        x = (i + 0.5 * (j % 2)).ravel() * pitch * self.patient.stretch
        y = j.ravel() * pitch * np.sqrt(0.75)
        x, y = rotate(x + rng.uniform(0, pitch), y + rng.uniform(0, pitch), -self.angle)
        jitter = rng.normal(0, pitch * (0.05 + 0.15 * a), (2, x.size))
        x, y = x + jitter[0] + 0.5, y + jitter[1] + 0.5
        margin = 1.3 * self.unit
        near = (np.abs(x - 0.5) < 0.5 + margin) & (np.abs(y - 0.5) < 0.5 + margin)
        self.x, self.y = x[near], y[near]
        n = self.x.size
        self.radius = self.unit * np.exp(rng.normal(0.04 * a, 0.05 + 0.14 * a, n))
        self.long = np.sqrt(self.patient.stretch) * np.exp(rng.normal(0, 0.04 + 0.2 * a, n))
        self.tilt = self.angle + rng.normal(0, 0.15 + 0.8 * a, n)
        self.lumen = np.clip(rng.normal(0.3 + 0.06 * a, 0.05 + 0.12 * a, n), 0.12, 0.5)

    def _measure(self) -> None:
        """For each pixel: the nearest gland, and the distances to it and to the second nearest.

        Distances are from a gland's centre, and 1 at its rim.
        """
        x, y = grid(self.size)
        x, y = x + self.bend[0], y + self.bend[1]
        self.rho = np.full(x.shape, 9.0)
        self.next = self.rho
        self.owner = np.zeros(x.shape, dtype=int)
        for g in range(self.x.size):
            u, v = rotate(x - self.x[g], y - self.y[g], self.tilt[g])
            rho = length(u / self.long[g], v * self.long[g]) / self.radius[g]
            closer = rho < self.rho
            self.next = np.minimum(self.next, np.maximum(rho, self.rho))
            self.rho = np.where(closer, rho, self.rho)
            self.owner[closer] = g

    def _gland_points(self, turns: Array, rho: Array, g: Array) -> tuple[Array, Array]:
        """Coordinates of points in glands g, at angle ``turns`` and relative radius ``rho``."""
        u = np.cos(turns) * self.radius[g] * rho * self.long[g]
        v = np.sin(turns) * self.radius[g] * rho / self.long[g]
        u, v = rotate(u, v, -self.tilt[g])
        u, v = u + self.x[g], v + self.y[g]
        x, y = u, v
        for _ in range(3):  # the bend is known per image position: solve position + bend = (u, v)
            x, y = u - sample(self.bend[0], x, y), v - sample(self.bend[1], x, y)
        return x, y

    def _around(self, per_gland: Array) -> tuple[Array, Array]:
        """Gland and angle of ``per_gland`` points around each rim, evenly spaced, then jittered."""
        g = np.repeat(np.arange(self.x.size), per_gland)
        first = np.repeat(np.cumsum(per_gland) - per_gland, per_gland)
        step = (np.arange(g.size) - first) / per_gland[g]
        jitter = self.rng.normal(0, 0.15 + 0.5 * self.atypia, g.size) / per_gland[g]
        return g, (step + jitter) * 2 * np.pi

    def _epithelium(self) -> Ellipses:
        """Nuclei of the glands: one row at the rim, or stratified towards the lumen."""
        rng, a = self.rng, self.atypia
        count = np.rint(self.radius / self.unit * mix(21, 34, a)).astype(int)
        g, turns = self._around(np.maximum(count, 6))
        n = g.size
        depth = np.abs(rng.normal(0, 0.03 + 0.18 * a, n))
        rho = np.maximum(0.87 - depth, self.lumen[g] + 0.12)
        x, y = self._gland_points(turns, rho, g)
        inner_x, inner_y = self._gland_points(turns, rho - 0.1, g)
        angle = np.arctan2(y - inner_y, x - inner_x) + rng.normal(0, 0.2 + 0.45 * a, n)
        scale = self.unit * np.exp(rng.normal(0, 0.08 + 0.15 * a, n)) * mix(1.0, 1.2, a)
        own = (sample(self.owner, x, y) == g) & (sample(self.next, x, y) > 0.8)
        shape = np.exp(rng.normal(0, 0.08 + 0.1 * a, n))
        a_axis, b_axis = scale * 0.135 * shape, scale * 0.088 / shape
        return Ellipses(self.size, x[own], y[own], a_axis[own], b_axis[own], angle[own])

    def _connective(self) -> Ellipses:
        """Nuclei between the glands: round lymphocytes and spindle-shaped fibroblasts."""
        rng = self.rng
        n = int(150 * self.patient.stroma)
        x, y = rng.uniform(-0.02, 1.02, (2, n))
        spindle = rng.uniform(size=n) < 0.5
        scale = self.unit * np.exp(rng.normal(0, 0.12, n))
        a = scale * np.where(spindle, 0.14, 0.072)
        b = scale * np.where(spindle, 0.04, 0.066)
        angle = self.angle + rng.normal(0, 0.7, n)
        free = (sample(self.rho, x, y) > 1.12) & (sample(self.next, x, y) > 1.05)
        return Ellipses(self.size, x[free], y[free], a[free], b[free], angle[free])

    def _goblets(self) -> Array:
        """Mucin vacuoles of goblet cells, which tumours lose: how much of each pixel they cover."""
        rng = self.rng
        count = np.rint(self.radius / self.unit * 11).astype(int)
        g, turns = self._around(np.maximum(count, 3))
        kept = rng.uniform(size=g.size) < 0.9 - 0.8 * self.atypia
        g, turns = g[kept], turns[kept]
        rho = rng.normal(0.61, 0.03, g.size)
        x, y = self._gland_points(turns, rho, g)
        inner_x, inner_y = self._gland_points(turns, rho - 0.1, g)
        angle = np.arctan2(y - inner_y, x - inner_x)
        size = self.unit * np.exp(rng.normal(0, 0.12, g.size))
        stamps = Ellipses(self.size, x, y, 0.17 * size, 0.115 * size, angle)
        return stamps.rasterise(stamps.cover)

    def concentrations(self) -> tuple[Array, Array]:
        """Haematoxylin and eosin in each pixel, from 0 to about 1.6."""
        rng, size = self.rng, self.size
        x, y = grid(size)
        along, across = rotate(x, y, self.angle)
        soft = 1.2 / (size * self.unit)  # one pixel and a bit, in relative radius

        wave = noise(rng, size, 4) * 1.5 + noise(rng, size, 9) * 0.8
        fibre = 0.5 + 0.5 * np.sin(across * 75 + wave * 3.2 + along * 9)
        gaps = smoothstep(1.1, 1.9, fractal_noise(rng, size, 9)) * smoothstep(1.05, 1.3, self.rho)
        e = (0.42 + 0.3 * fibre + 0.07 * noise(rng, size, 24)) * (1 - 0.8 * gaps)
        h = 0.06 + 0.03 * fibre

        gland = smoothstep(1.0 + soft, 1.0 - soft, self.rho)
        seam = smoothstep(0.16, 0.04, self.next - self.rho) * smoothstep(0.7, 0.9, self.rho)
        body = gland * (1 - 0.7 * seam)
        fine = noise(rng, size, 40)
        e = mix(e, 0.42 + 0.05 * fine + 0.12 * self.atypia, body)
        h = mix(h, 0.2 + 0.05 * fine + 0.12 * self.atypia, body)
        mucin = self._goblets() * gland
        e, h = mix(e, 0.1, mucin * 0.85), mix(h, 0.14, mucin * 0.85)

        edge = self.lumen[self.owner] + 0.05 * noise(rng, size, 14)
        lumen = smoothstep(edge + soft, edge - soft, self.rho)
        debris = self.atypia * smoothstep(0.5, 1.5, fractal_noise(rng, size, 12))
        e, h = mix(e, 0.03 + 0.5 * debris, lumen), mix(h, 0.03 + 0.35 * debris, lumen)

        chromatin = 1.0 + 0.16 * noise(rng, size, 56)
        for nuclei, dark in ((self._connective(), 1.15), (self._epithelium(), 1.2)):
            shade = dark * np.exp(rng.normal(0, 0.08 + 0.12 * self.atypia, len(nuclei.radius)))
            rim = mix(1.0 - 0.18 * self.atypia, 1.08, smoothstep(0.3, 0.95, nuclei.radius))
            ink = nuclei.rasterise(nuclei.cover * rim * shade[:, None, None])
            h = np.maximum(h, ink * chromatin)
            e = e * (1 - 0.5 * np.minimum(ink, 1.0))
        return h, e
