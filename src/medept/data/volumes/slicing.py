"""Which slices of a volume are images, and how they are shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from medept.errors import SettingsError

Plane = Literal["axial", "coronal", "sagittal"]
Channels = Literal["grey", "neighbours"]

WINDOWS = {"lung": (-600.0, 1500.0), "bone": (400.0, 1800.0), "soft": (50.0, 400.0),
           "brain": (40.0, 80.0)}  # fmt: skip
"""Level and width of the usual windows of CT, in Hounsfield units."""


@dataclass(frozen=True)
class Slicing:
    """How a volume becomes images.

    Attributes:
        plane: ``axial``, ``coronal`` or ``sagittal``.
        slices: how many, evenly over the part that is not empty; None for all of the volume.
        window: ``auto`` (the central 98 % of what is not empty), a usual window of CT
            (:data:`WINDOWS`), or its level and width, such as ``40,400``.
        channels: ``grey``; or ``neighbours``: the slice before, the slice, and the one after it as
            red, green and blue.

    Raises:
        SettingsError: if one of them cannot be.

    >>> Slicing(window="soft").range()
    (-150.0, 250.0)
    >>> Slicing.parse(str(Slicing(plane="coronal", slices=None, window="40,80")))
    Slicing(plane='coronal', slices=None, window='40,80', channels='grey')
    """

    plane: Plane = "axial"
    slices: int | None = 16
    window: str = "auto"
    channels: Channels = "grey"

    def __post_init__(self) -> None:
        for name, kind in (("plane", Plane), ("channels", Channels)):
            if getattr(self, name) not in get_args(kind):
                known = ", ".join(get_args(kind))
                raise SettingsError(f"{name}={getattr(self, name)!r}: use one of {known}")
        if self.slices is not None and self.slices < 1:
            raise SettingsError(f"slices={self.slices}: give 1 or more, or all")
        self.range()

    def range(self) -> tuple[float, float] | None:
        """The values that are shown black and white; None where they depend on the volume."""
        if self.window == "auto":
            return None
        if self.window in WINDOWS:
            level, width = WINDOWS[self.window]
        else:
            try:
                level, width = (float(part) for part in self.window.split(","))
            except ValueError:
                level, width = 0.0, 0.0
        if not width > 0:
            raise SettingsError(
                f"window={self.window}: use auto, {', '.join(WINDOWS)}, or a level and a width "
                "above 0, such as 40,400"
            )
        return level - width / 2, level + width / 2

    @classmethod
    def of(
        cls,
        plane: str | None = None,
        slices: str | None = None,
        window: str | None = None,
        channels: str | None = None,
        default: Slicing | None = None,
    ) -> Slicing:
        """What was given, as a command line gives it; the rest from ``default``.

        >>> Slicing.of(slices="all", default=Slicing(window="lung"))
        Slicing(plane='axial', slices=None, window='lung', channels='grey')
        """
        base = default or cls()
        count = base.slices
        if slices is not None:
            if slices != "all" and not slices.isdecimal():
                raise SettingsError(f"slices={slices}: give a whole number from 1, or all")
            count = None if slices == "all" else int(slices)
        return cls(
            plane=plane or base.plane,  # type: ignore[arg-type]
            slices=count,
            window=window or base.window,
            channels=channels or base.channels,  # type: ignore[arg-type]
        )

    def options(self) -> dict[str, str]:
        """As :meth:`of` takes them."""
        count = "all" if self.slices is None else str(self.slices)
        return {
            "plane": self.plane,
            "slices": count,
            "window": self.window,
            "channels": self.channels,
        }

    def __str__(self) -> str:
        """One line, which :meth:`parse` reads."""
        return " ".join(self.options().values())

    @classmethod
    def parse(cls, text: str) -> Slicing:
        """The slicing of such a line.

        Raises:
            SettingsError: if it is none.
        """
        parts = text.split(" ")
        if len(parts) != 4:
            raise SettingsError(f"{text!r}: no plane, slices, window and channels of a volume")
        plane, slices, window, channels = parts
        return cls.of(plane, slices, window, channels)
