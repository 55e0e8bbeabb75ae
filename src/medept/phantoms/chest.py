"""Chest: frontal radiographs with any of five findings, or none.

Each structure adds to or subtracts from the tissue that the X-ray beam crosses, and a film curve
turns the sum into brightness. So ribs, vessels and findings overlap as they do on a real film. The
body has its own coordinates (``t``: distance from the midline; ``v``: down from the top), which
build, position and rotation map to the image. Build, anatomy and exposure are the patient's; the
side and place of a finding differ from image to image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from medept.phantoms.drawing import (
    Array,
    blur,
    fractal_noise,
    grid,
    length,
    mix,
    noise,
    rotate,
    smoothstep,
    to_image,
)
from medept.phantoms.patient import Patient


@dataclass(frozen=True)
class ChestPatient(Patient):
    """A patient's build and anatomy, and the settings of the machine that took their films."""

    classes: ClassVar = ("cardiomegaly", "consolidation", "effusion", "nodule", "pneumothorax")

    width: float  # half the inner width of the rib cage
    apex: float  # top of the lungs
    base: float  # top of the right half of the diaphragm
    heart: float  # width of the healthy heart, divided by that of the chest
    lean: float  # how far the heart points to the patient's left
    ribs: float  # distance between two ribs
    rib_phase: float
    fat: float  # soft tissue over the lungs
    breast: float
    bone: float  # contrast of bone
    exposure: float
    contrast: float
    marker: float  # brightness of the side marker
    centre: Array  # offset of the body from the middle of the film
    tilt: float

    @classmethod
    def random(cls, rng: np.random.Generator) -> ChestPatient:
        return cls(
            width=rng.uniform(0.35, 0.41),
            apex=rng.uniform(0.08, 0.14),
            base=rng.uniform(0.66, 0.77),
            heart=rng.uniform(0.39, 0.48),
            lean=rng.uniform(0.15, 0.75),
            ribs=rng.uniform(0.066, 0.08),
            rib_phase=rng.uniform(),
            fat=rng.uniform(0.0, 0.25),
            breast=max(0.0, rng.uniform(-0.25, 0.25)),
            bone=rng.uniform(0.6, 1.25),
            exposure=rng.normal(0, 0.1),
            contrast=rng.uniform(2.3, 3.3),
            marker=rng.uniform(0.0, 1.0),
            centre=rng.normal(0, 0.04, 2),
            tilt=rng.normal(0, 0.05),
        )

    def draw(self, signs: Array, size: int, difficulty: float, rng: np.random.Generator) -> Array:
        film = _Film(self, size, *rng.spawn(2))
        add = {
            "cardiomegaly": film.add_cardiomegaly,
            "consolidation": film.add_consolidation,
            "effusion": film.add_effusion,
            "nodule": film.add_nodule,
            "pneumothorax": film.add_pneumothorax,
        }
        strength = mix(1.0, 0.3, difficulty)
        for finding, present in zip(self.classes, signs, strict=True):
            if present:
                add[finding](float(strength * film.finding_rng.uniform(0.6, 1.25)))
        return to_image(film.expose())


class _Film:
    """One radiograph: lungs, heart, bones and vessels, and the findings that change them.

    Findings have a random stream of their own, so that an image is otherwise the same with and
    without them.
    """

    def __init__(
        self,
        patient: ChestPatient,
        size: int,
        rng: np.random.Generator,
        finding_rng: np.random.Generator,
    ) -> None:
        self.patient, self.size, self.rng, self.finding_rng = patient, size, rng, finding_rng
        x, y = grid(size)
        shift = patient.centre + rng.normal(0, 0.008, 2)
        x, y = rotate(x - 0.5 - shift[0], y - 0.5 - shift[1], patient.tilt + rng.normal(0, 0.012))
        self.u, self.v = x, y + 0.5  # u: to the right of the image, the patient's left
        self.t, self.left = np.abs(x), x > 0
        self.breath = rng.normal(0, 0.012)
        self.heart_ratio = patient.heart + rng.normal(0, 0.008)
        self.lung = self._lung(self.t, self.v)
        self.aerated = self.lung.copy()  # where vessels are visible
        self.added = np.zeros((size, size))  # density of findings

    # Anatomy ---------------------------------------------------------------------------------

    def _wall(self, v: Array) -> Array:
        """Distance of the inner chest wall from the midline, at height v."""
        widest = 0.66
        up = np.clip((widest - v) / (widest - self.patient.apex), 0.0, 1.0)
        return self.patient.width * np.sqrt(1.0 - up**2.4) * mix(1.0, 0.97, smoothstep(0.66, 1, v))

    def _dome(self, t: Array) -> Array:
        """Height of the diaphragm at distance t; its left half is a little lower."""
        base = self.patient.base + self.breath + np.where(self.left, 0.025, 0.0)
        return base + 0.13 * ((t / self.patient.width - 0.45) / 0.55) ** 2

    def _lung(self, t: Array, v: Array) -> Array:
        """How much of each pixel is lung, 0 to 1, with soft edges."""
        wall, dome = self._wall(v) - t, self._dome(t) - v
        medial = t - 0.048 - 0.022 * np.exp(-(((v - 0.42) / 0.07) ** 2))
        return (
            smoothstep(0.0, 0.03, wall) * smoothstep(0.0, 0.012, dome) * smoothstep(0, 0.03, medial)
        )

    def _heart(self) -> Array:
        p = self.patient
        half = self.heart_ratio * p.width  # half of the heart's width
        low = p.base + self.breath + 0.05
        x, y = rotate(self.u - half * 0.42, self.v - (low - half * 0.62), 0.35 + 0.35 * p.lean)
        body = length(x / (half * 1.04), y / (half * 0.8))
        right = length((self.u + half * 0.1) / (half * 0.55), (self.v - low + half) / half)
        knob = length((self.u - 0.048) / 0.032, (self.v - 0.3) / 0.042)
        trunk = length((self.u - 0.03) / 0.05, (self.v - 0.42) / 0.13)
        near = np.minimum(np.minimum(body, right), np.minimum(knob * 1.05, trunk))
        return smoothstep(1.05, 0.92, near) * np.sqrt(np.clip(1.25 - 0.65 * near**2, 0.0, 1.0))

    def _bones(self) -> Array:
        p, t, v = self.patient, self.t, self.v
        wall = np.maximum(self._wall(v), 0.02)
        out = np.clip(t / (p.width * 1.03), 0.0, 1.0)
        inside = smoothstep(1.06, 1.0, t / wall) * smoothstep(p.apex - 0.01, p.apex + 0.02, v)

        back = v - 0.22 * (1 - np.sqrt(1.0 - 0.98 * out**2)) - 0.05 * out
        front = v + 0.3 * out + 0.06 * out**3
        ribs = 0.13 * _bands(back / p.ribs + p.rib_phase, 0.19)
        ribs += 0.075 * _bands(front / (p.ribs * 1.15) + 0.3, 0.17) * smoothstep(0.25, 0.55, out)
        ribs *= inside * smoothstep(p.base + 0.2, p.base + 0.05, v)

        level = p.apex + 0.055 - 0.3 * (t - 0.04) + 0.022 * np.sin(t * 16)
        clavicle = 0.2 * smoothstep(0.017, 0.008, np.abs(v - level) / (1 + t))
        clavicle *= smoothstep(0.02, 0.035, t) * smoothstep(0.46, 0.42, t)
        blade = smoothstep(0.8, 0.88, t / (p.width * 1.05)) * smoothstep(0.45, 0.3, v)
        blade *= 0.06 * smoothstep(p.apex, p.apex + 0.05, v)

        disc = 0.5 + 0.5 * np.cos(v * 2 * np.pi / 0.052)
        spine = smoothstep(0.045, 0.03, t) * (0.09 + 0.06 * disc**2)
        return p.bone * (ribs + clavicle + blade + spine)

    def _vessels(self) -> Array:
        """Branches that leave each hilum, and get thinner and fainter on their way."""
        rng, steps = self.rng, 60
        n = 30
        side = np.repeat([-1.0, 1.0], n // 2)[:, None]
        way = np.linspace(-1.45, 1.5, n // 2)
        direction = np.concatenate([way, way])[:, None] + rng.normal(0, 0.12, (n, 1))
        s = np.linspace(0, 1, steps)
        bend = rng.normal(0, 0.5, (n, 1)) * s + 0.12 * np.sin(s * 9 + rng.uniform(0, 6, (n, 1)))
        step = rng.uniform(0.2, 0.34, (n, 1)) / steps
        x = 0.06 + np.cumsum(np.cos(direction + bend) * step, axis=1)
        y = 0.43 + 0.05 * np.sin(direction) + np.cumsum(np.sin(direction + bend) * step, axis=1)
        ink = np.broadcast_to((1 - s) * (0.35 + s), x.shape)
        x, y = rotate(x * side, y - 0.5, -self.patient.tilt)
        x, y = x + 0.5 + self.patient.centre[0], y + 0.5 + self.patient.centre[1]
        inside = (x >= 0) & (x < 1) & (y >= 0) & (y < 1)
        flat = (y[inside] * self.size).astype(int) * self.size + (x[inside] * self.size).astype(int)
        ink = ink[inside] * self.size**2 * 2.9e-5
        dots = np.bincount(flat, ink, self.size**2).reshape(self.size, self.size)
        return 0.8 * blur(dots, 0.004) + 0.9 * blur(dots, 0.012)

    # Findings --------------------------------------------------------------------------------

    def _one_side(self) -> Array:
        """Mask of the left or the right half of the body, each with probability 1/2."""
        return self.left == bool(self.finding_rng.integers(2))

    def _place(self) -> tuple[float, float, Array]:
        """A random place in a lung: t, v, and the mask of its half of the body."""
        half = self._one_side()
        v = self.finding_rng.uniform(self.patient.apex + 0.12, self.patient.base - 0.05)
        t = self._wall(np.array(v)) * self.finding_rng.uniform(0.45, 0.85)
        return float(t), float(v), half

    def add_effusion(self, strength: float) -> None:
        """Fluid at the base of one lung; its upper edge rises towards the chest wall."""
        half = self._one_side()
        out = self.t / self.patient.width
        level = self.patient.base + 0.12 - 0.01 - 0.13 * strength - 0.15 * strength * out**3
        fluid = half * smoothstep(level - 0.02, level + 0.035, self.v)
        self.lung *= 1 - 0.95 * fluid
        self.aerated *= 1 - fluid

    def add_nodule(self, strength: float) -> None:
        """One to three round opacities."""
        for _ in range(int(self.finding_rng.integers(1, 4))):
            t, v, half = self._place()
            radius = mix(0.026, 0.044, strength) * self.finding_rng.uniform(0.85, 1.2)
            r = length(self.t - t, self.v - v) / radius
            ball = half * np.sqrt(np.clip(1 - r**2, 0.0, 1.0))
            self.added += ball * mix(0.22, 0.42, strength) * (self.lung > 0.3)

    def add_cardiomegaly(self, strength: float) -> None:
        """A heart wider than half of the chest."""
        self.heart_ratio += 0.19 * strength

    def add_consolidation(self, strength: float) -> None:
        """An uneven patch, without a clear edge, where the lung holds no air."""
        t, v, half = self._place()
        size = mix(0.09, 0.14, strength) * self.finding_rng.uniform(0.85, 1.2)
        r = length((self.t - t) / 1.1, self.v - v) / size
        texture = fractal_noise(self.finding_rng, self.size, 8)
        patch = half * smoothstep(1.35, 0.35, r + 0.25 * texture)
        self.lung *= 1 - (0.4 + 0.5 * strength) * patch * (0.8 + 0.2 * np.tanh(texture))

    def add_pneumothorax(self, strength: float) -> None:
        """Air around a collapsed lung: no vessels beyond a fine line."""
        half = self._one_side()
        keep = 1 - mix(0.02, 0.22, strength) * self.finding_rng.uniform(0.9, 1.1)
        t = 0.07 + (self.t - 0.07) / keep
        v = 0.62 + (self.v - 0.62) / mix(keep, 1.0, smoothstep(0.5, 0.75, self.v))
        edge = self._wall(v) - t
        air = half * smoothstep(0.004, -0.004, edge) * self.lung
        self.aerated *= 1 - air
        self.lung *= 1 + 0.22 * air
        self.added += half * 0.12 * smoothstep(0.008, 0.002, np.abs(edge)) * (self.lung > 0.4)
        self.added += 0.05 * half * (1 - air) * self.lung * strength

    # Exposure --------------------------------------------------------------------------------

    def expose(self) -> Array:
        """Brightness of the film (size, size), 0 to 1."""
        p, rng, t, v = self.patient, self.rng, self.t, self.v
        neck = mix(0.13, 0.55, smoothstep(-0.02, 0.13, v))
        trunk = mix(neck, p.width + 0.075, smoothstep(0.16, 0.42, v))
        body = smoothstep(0.0, 0.035, trunk - t)
        thick = 0.8 + 0.25 * np.sqrt(np.clip(1 - (t / 0.5) ** 2, 0.0, 1.0)) + p.fat
        belly = 0.22 * smoothstep(-0.02, 0.06, v - self._dome(t))
        breast = length((t - 0.2) / 0.19, (v - p.base + 0.1) / 0.19)
        thick = thick + belly
        thick += p.breast * np.sqrt(np.clip(1 - breast**2, 0, 1)) * smoothstep(0.4, 0.6, v)
        thick *= body

        heart = self._heart()
        air = self.lung * (
            0.76 + 0.08 * smoothstep(0.7, 0.2, v) + 0.02 * fractal_noise(rng, self.size, 10)
        )
        air *= 1 - 0.72 * heart
        windpipe = smoothstep(0.02, 0.012, np.abs(self.u - 0.006)) * smoothstep(0.36, 0.3, v)
        bubble = length((self.u - 0.17) / 0.075, (v - p.base - 0.125) / 0.05)
        path = thick - air - 0.22 * windpipe * body
        path -= 0.25 * smoothstep(1.1, 0.7, bubble) * smoothstep(0.0, 0.03, v - self._dome(t))
        path += 0.14 * heart * mix(1.0, 0.3, belly / 0.22)
        path += (self._bones() + 0.45 * self._vessels() * self.aerated + self.added) * body
        path += 0.1 * smoothstep(0.085, 0.02, t) * body

        film = 1 / (1 + np.exp(-p.contrast * (path - 0.74 - 0.8 * p.fat - p.exposure)))
        film = (film - 0.1) / 0.87
        film += 0.85 * p.marker * _letter_l(self.size, p.marker)
        return blur(film, 0.0035) + 0.012 * noise(rng, self.size, min(self.size, 96))


def _bands(phase: Array, half: float) -> Array:
    """A band around each whole number of ``phase``, brighter along its edges, 0 to 1."""
    d = np.abs(phase - np.rint(phase)) / half
    return smoothstep(1.15, 0.85, d) * (0.65 + 0.35 * smoothstep(0.3, 0.9, d))


def _letter_l(size: int, where: float) -> Array:
    """The letter L that marks the patient's left, in the upper right corner of the film."""
    x, y = grid(size)
    x, y = x - 0.9, y - 0.06 - 0.2 * where
    stem = (np.abs(x) < 0.008) & (np.abs(y) < 0.03)
    foot = (np.abs(x - 0.012) < 0.02) & (np.abs(y - 0.024) < 0.0075)
    return blur((stem | foot).astype(float), 0.003)
