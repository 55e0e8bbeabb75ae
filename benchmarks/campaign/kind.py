"""A kind of damaged input, and the pictures that go with most of them."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from mutate import damaged
from PIL import Image

Damage = Callable[[bytes, Random], bytes]

NAMES = ("a.png", "b.png", "c.png", "d.png")


@dataclass(frozen=True)
class Seed:
    """A whole file: its name, its bytes, and how it is damaged."""

    name: str
    content: bytes
    damage: Damage = damaged


@dataclass(frozen=True)
class Kind:
    """A kind of input.

    Attributes:
        share: of all inputs.
        seeds: whole files.
        read: reads a damaged file, in a folder that ``prepare`` has filled.
        prepare: puts into a folder what the file goes with.
    """

    share: float
    seeds: Callable[[], list[Seed]]
    read: Callable[[Path], object]
    prepare: Callable[[Path], None] = lambda folder: None


@cache
def pixels() -> np.ndarray:
    """A picture (24, 20, 3)."""
    return np.random.default_rng(0).integers(0, 256, (24, 20, 3), dtype=np.uint8)


def saved(form: str, mode: str = "RGB", **options: Any) -> bytes:
    """The same in a file of Pillow's format and mode."""
    out = io.BytesIO()
    Image.fromarray(pixels()).convert(mode).save(out, format=form, **options)
    return out.getvalue()


def put_pictures(folder: Path) -> None:
    """Write pictures of the names that tables list."""
    folder.mkdir(exist_ok=True)
    for name in NAMES:
        (folder / name).write_bytes(saved("PNG"))


def each_in_turn(*actions: Callable[[], Any]) -> None:
    """Call all of them, and then raise the first refusal."""
    failed = None
    for action in actions:
        try:
            action()
        except ValueError as error:
            failed = failed or error
    if failed:
        raise failed
