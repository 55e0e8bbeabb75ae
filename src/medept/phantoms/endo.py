"""Endo: views through an endoscope, with any of four lesions, or none.

A height field (folds of the wall around the dark lumen, and raised or sunken lesions) is lit by a
lamp at the camera: Lambert shading, wet highlights, and light that falls off with depth. The colour
of the mucosa, the vessels, the lamp and the black frame are the patient's and the endoscope's; the
places of the lumen and the lesions differ from image to image.
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
    paint,
    smoothstep,
    to_image,
)
from medept.phantoms.patient import Patient


@dataclass(frozen=True)
class EndoPatient(Patient):
    """A patient's mucosa, and the endoscope it is seen through."""

    classes: ClassVar = ("bleeding", "erosion", "polyp", "ulcer")

    mucosa: Array  # colour
    blotch: float  # how uneven that colour is
    vessels: float  # contrast of the vessels
    aside: Array  # usual offset of the lumen from the centre of the view
    folds: float  # folds per unit of log distance
    relief: float  # their height
    corners: float  # 0: folds are round; more: triangular
    lamp: float  # brightness
    tint: Array  # colour of the light
    wet: float  # strength of highlights
    frame: float  # 2: circular; more: squarer
    aperture: float  # half the width of the frame

    @classmethod
    def random(cls, rng: np.random.Generator) -> EndoPatient:
        return cls(
            mucosa=np.array([0.93, 0.44, 0.36]) + rng.normal(0, [0.04, 0.045, 0.045]),
            blotch=rng.uniform(0.4, 1.2),
            vessels=rng.uniform(0.3, 1.0),
            aside=rng.uniform(-0.28, 0.28, 2),
            folds=rng.uniform(6.5, 11.0),
            relief=rng.uniform(0.6, 1.3),
            corners=rng.uniform(0.03, 0.2),
            lamp=rng.uniform(0.85, 1.15),
            tint=1 + rng.normal(0, 0.045, 3),
            wet=rng.uniform(0.3, 1.0),
            frame=rng.uniform(2.0, 7.0),
            aperture=rng.uniform(0.47, 0.53),
        )

    def draw(self, signs: Array, size: int, difficulty: float, rng: np.random.Generator) -> Array:
        view = _View(self, size, *rng.spawn(2))
        add = {
            "bleeding": view.add_bleeding,
            "erosion": view.add_erosion,
            "polyp": view.add_polyp,
            "ulcer": view.add_ulcer,
        }
        strength = mix(1.0, 0.1, difficulty)
        view.add_debris(difficulty)
        for lesion, present in zip(self.classes, signs, strict=True):
            if present:
                add[lesion](float(strength * view.lesion_rng.uniform(0.5, 1.25)))
        return to_image(view.light())


class _View:
    """One image: height, colour and gloss of the wall, and the lesions that change them.

    Lesions have a random stream of their own, so that an image is otherwise the same with and
    without them.
    """

    def __init__(
        self,
        patient: EndoPatient,
        size: int,
        rng: np.random.Generator,
        lesion_rng: np.random.Generator,
    ) -> None:
        self.patient, self.size, self.rng, self.lesion_rng = patient, size, rng, lesion_rng
        self.x, self.y = grid(size)
        self.lumen = 0.5 + patient.aside + rng.normal(0, 0.05, 2)
        self.grain = noise(rng, size, 8), noise(rng, size, 8)
        self.height = self._folds()
        self.colour = self._mucosa()
        self.gloss = np.ones((size, size))

    def _folds(self) -> Array:
        p, rng = self.patient, self.rng
        dx, dy = self.x - self.lumen[0], self.y - self.lumen[1]
        bend = noise(rng, self.size, 4)
        turns = np.arctan2(dy, dx)
        corner = p.corners * np.cos(3 * turns + rng.uniform(0, 2 * np.pi) + 0.5 * bend)
        self.far = length(dx, dy) * (1 + corner)  # distance from the middle of the lumen
        phase = p.folds * np.log(self.far + 0.06) + 0.55 * bend + 0.25 * noise(rng, self.size, 6)
        ridge = np.exp(2.2 * (np.sin(phase + rng.uniform(0, 6.28)) - 1))
        self.crest = 1 - (1 - ridge) * smoothstep(0.7, 0.2, self.far)
        height = p.relief * 0.05 * ridge * smoothstep(0.02, 0.3, self.far)
        return height + 0.005 * noise(rng, self.size, 7) + 0.0016 * noise(rng, self.size, 24)

    def _mucosa(self) -> Array:
        p, rng, size = self.patient, self.rng, self.size
        colour = np.ones((size, size, 3)) * p.mucosa
        blotch = fractal_noise(rng, size, 4)[..., None]
        colour += blotch * p.blotch * np.array([0.012, 0.03, 0.026])
        trunk = np.exp(-((fractal_noise(rng, size, 5, 2) / 0.07) ** 2))
        twig = np.exp(-((fractal_noise(rng, size, 11, 2) / 0.12) ** 2))
        show = smoothstep(-0.3, 1.0, noise(rng, size, 3)) * p.vessels
        paint(
            colour, p.mucosa * (0.78, 0.5, 0.5), blur(np.maximum(trunk, 0.5 * twig), 0.004) * show
        )
        return colour

    # Lesions ---------------------------------------------------------------------------------

    def _place(self) -> tuple[float, float]:
        """A random point in view, outside of the lumen."""
        while True:
            x, y = self.lesion_rng.uniform(0.2, 0.8, 2)
            if length(x - self.lumen[0], y - self.lumen[1]) > 0.2:
                return float(x), float(y)

    def _spot(self, radius: float | Array, ragged: float) -> Array:
        """Distance from a random place, 1 on the outline; ``ragged`` says how uneven that is."""
        x, y = self._place()
        dx = self.x - x + ragged * radius * self.grain[0]
        dy = self.y - y + ragged * radius * self.grain[1]
        angle, long = self.lesion_rng.uniform(0, np.pi), self.lesion_rng.uniform(1.0, 1.3)
        u = np.cos(angle) * dx + np.sin(angle) * dy
        w = np.cos(angle) * dy - np.sin(angle) * dx
        return length(u / long, w * long) / radius

    def add_polyp(self, strength: float) -> None:
        """A dome on the wall, a little redder, with a pitted surface."""
        radius = mix(0.08, 0.15, strength) * self.lesion_rng.uniform(0.85, 1.2)
        r = self._spot(radius, 0.12)
        dome = np.clip(1 - r**2, 0.0, 1.0) ** 0.75
        cover = smoothstep(1.1, 0.85, r)
        pits = noise(self.lesion_rng, self.size, 36)
        self.height = self.height * (1 - cover) + radius * 0.6 * dome + 0.0018 * pits * cover
        paint(self.colour, self.colour * (0.97, 0.78, 0.8), cover * (0.8 + 0.2 * np.tanh(pits)))
        paint(self.colour, self.colour * 0.72, smoothstep(1.4, 1.0, r) * (1 - cover))

    def add_ulcer(self, strength: float) -> None:
        """A crater with a pale floor of fibrin and a raised, red rim."""
        radius = mix(0.04, 0.12, strength) * self.lesion_rng.uniform(0.85, 1.2)
        r = self._spot(radius, 0.3)
        r = r + 0.12 * noise(self.lesion_rng, self.size, 20)
        floor = smoothstep(1.05, 0.7, r)
        rim = np.exp(-(((r - 1.12) / 0.2) ** 2))
        self.height += radius * (0.2 * rim - 0.28 * floor)
        paint(self.colour, self.colour * (0.93, 0.55, 0.55), rim * mix(0.4, 0.9, strength))
        texture = 1 + 0.08 * fractal_noise(self.lesion_rng, self.size, 16)
        slough = np.array([0.97, 0.8, 0.58]) * texture[..., None]
        paint(self.colour, slough, floor * mix(0.25, 0.95, strength))

    def add_erosion(self, strength: float) -> None:
        """Several small, flat defects: a pale speck in a red halo."""
        show = mix(0.25, 0.95, strength)
        for _ in range(int(self.lesion_rng.integers(3, 8))):
            radius = mix(0.012, 0.03, strength) * self.lesion_rng.uniform(0.7, 1.3)
            r = self._spot(radius, 0.25)
            paint(self.colour, self.colour * (0.95, 0.5, 0.5), smoothstep(2.4, 0.9, r) * show)
            paint(self.colour, (0.93, 0.8, 0.6), smoothstep(1.1, 0.3, r) * show)
            self.height -= radius * 0.12 * smoothstep(1.1, 0.7, r)

    def add_bleeding(self, strength: float) -> None:
        """Fresh blood: a pool, and streaks that run from it."""
        x, y = self._place()
        heading = self.lesion_rng.uniform(0, 2 * np.pi)
        dx, dy = self.x - x, self.y - y
        along = np.cos(heading) * dx + np.sin(heading) * dy
        across = np.cos(heading) * dy - np.sin(heading) * dx + 0.03 * self.grain[0]
        reach = mix(0.1, 0.42, strength)
        width = mix(0.01, 0.045, strength)
        run = smoothstep(-0.05, 0.02, along) * smoothstep(reach, reach * 0.5, along)
        lanes = np.cos(across / width * 1.4 + self.grain[1]) * 0.35 + 0.65
        streak = run * np.exp(-((across / (width * 1.6)) ** 2)) * lanes
        pool = np.exp(-((length(dx, dy) / (width * 2.0)) ** 2))
        ragged = 1 + 0.35 * fractal_noise(self.lesion_rng, self.size, 14, 2)
        flow = (streak + pool) * ragged
        wet = smoothstep(0.22, 0.55, flow)
        thick = smoothstep(0.3, 1.2, flow)[..., None]
        paint(
            self.colour,
            mix(np.array([0.72, 0.12, 0.09]), np.array([0.4, 0.02, 0.03]), thick),
            wet * mix(0.5, 0.95, strength),
        )
        self.height += 0.012 * blur(wet, 0.012)
        self.gloss += 1.2 * wet

    def add_debris(self, amount: float) -> None:
        """Distractors, which are no lesions but look like some: red patches, mucus, froth."""
        rng, size = self.rng, self.size
        red = smoothstep(0.5, 1.8, fractal_noise(rng, size, 5, 2)) * amount
        paint(self.colour, self.colour * (0.97, 0.6, 0.62), red)
        mucus = 0.7 * np.exp(-((fractal_noise(rng, size, 5, 2) / 0.3) ** 2))
        mucus *= smoothstep(0.5, 1.5, noise(rng, size, 4))
        mucus = np.maximum(mucus, smoothstep(2.0, 2.6, fractal_noise(rng, size, 6, 2)))
        paint(self.colour, (0.95, 0.82, 0.6), min(1.3 * amount, 1.0) * 0.75 * mucus)
        n = int(rng.integers(0, 30))
        x, y = np.array([self._place() for _ in range(3)])[rng.integers(0, 3, n)].T
        x, y = x + rng.normal(0, 0.05, n), y + rng.normal(0, 0.05, n)
        radius = rng.uniform(0.007, 0.02, n)
        froth = Ellipses(size, x, y, radius, radius, np.zeros(n))
        film = froth.rasterise(froth.cover * smoothstep(0.2, 0.9, froth.radius))
        paint(self.colour, (0.97, 0.85, 0.7), 0.7 * amount * film)

    # Light -----------------------------------------------------------------------------------

    def light(self) -> Array:
        """The lit wall as the camera sees it, (size, size, 3)."""
        p, rng, size = self.patient, self.rng, self.size
        down, right = np.gradient(self.height * size)
        normal = np.stack([-right, -down, np.ones_like(down)])
        normal /= np.sqrt((normal**2).sum(axis=0))
        lamp = np.stack([0.55 - self.x, 0.42 - self.y, np.full_like(down, 0.75)])
        lamp /= np.sqrt((lamp**2).sum(axis=0))
        lambert = np.clip((normal * lamp).sum(axis=0), 0.0, 1.0)
        half = lamp + np.array([0.0, 0.0, 1.0])[:, None, None]
        half /= np.sqrt((half**2).sum(axis=0))
        ripple = 0.012 * fractal_noise(rng, size, 22, 2)
        shine = np.clip((normal * half).sum(axis=0) + ripple, 0.0, 1.0)
        film = smoothstep(0.4, 1.8, noise(rng, size, 6))
        glint = smoothstep(0.99, 1.01, shine) * film * self.gloss * p.wet

        depth = smoothstep(0.0, 0.42, self.far)
        off = length(self.x - 0.5, self.y - 0.5)
        power = p.lamp * (0.1 + 0.9 * depth**1.2) * mix(1.0, 0.55, smoothstep(0.25, 0.7, off))
        shade = power * (0.2 + 0.8 * lambert**1.5) * (0.68 + 0.32 * self.crest)
        seen = (
            np.maximum(self.colour, 0.0) ** mix(1.5, 1.0, depth)[..., None]
            * shade[..., None]
            * p.tint
        )
        seen = seen + (0.8 * glint * power)[..., None]
        seen = 1 - np.exp(-1.9 * seen) * (1 - 0.04 * seen)

        edge = np.abs(2 * self.x - 1) ** p.frame + np.abs(2 * self.y - 1) ** p.frame
        edge = edge ** (1 / p.frame) / (2 * p.aperture)
        seen *= smoothstep(1.0, 0.97, edge)[..., None]
        return seen + 0.006 * noise(rng, size, 48)[..., None]
