"""Peak memory of `medept predict` over numbers of images, which are hard links to a few files.

    python benchmarks/predict_memory.py [--images 200 20000] [--pixels 512] [--skip-unreadable]

Each number is predicted by a process of its own; what a process needs for one image is the base.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from medept import FewShotClassifier

FILES = 8
"""Files that all images are links to."""


def linked_images(folder: Path, count: int, pixels: int) -> Path:
    """A folder of so many links to a few JPEG files of these pixels a side."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for i in range(FILES):
        small = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(small).resize((pixels, pixels)).save(folder / f"{i}.jpg")
    for i in range(FILES, count):
        os.link(folder / f"{i % FILES}.jpg", folder / f"{i}.jpg")
    for i in range(count, FILES):
        (folder / f"{i}.jpg").unlink()
    return folder


def peak(words: list[str]) -> tuple[float, float]:
    """Seconds that a medept command takes, and the most MB that its process holds."""
    began = time.monotonic()
    process = os.spawnv(os.P_NOWAIT, sys.executable, [sys.executable, "-m", "medept", *words])
    _, status, used = os.wait4(process, 0)
    if status:
        raise SystemExit(f"medept {' '.join(words)} failed")
    return time.monotonic() - began, used.ru_maxrss / 1024


def main() -> None:
    """Print a row for each number of images."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, nargs="+", default=[200, 20_000])
    parser.add_argument("--pixels", type=int, default=512)
    parser.add_argument("--skip-unreadable", action="store_true")
    given = parser.parse_args()
    skip = ["--skip-unreadable"] if given.skip_unreadable else []
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        grey = [np.full((64, 64, 3), value, np.uint8) for value in (10, 30, 220, 240)]
        classifier = FewShotClassifier(method="prototype", symmetry="none", device="cpu")
        classifier.fit(grey, ["dark", "dark", "bright", "bright"]).save(place / "adapter")
        print(f"{'images':>9} {'MB':>7} {'more than for one':>18} {'images/s':>9}")
        base = 0.0
        for count in (1, *given.images):
            folder = linked_images(place / str(count), count, given.pixels)
            words = ["predict", str(place / "adapter"), str(folder), "--device", "cpu"]
            seconds, most = peak([*words, "--out", str(place / f"{count}.csv"), *skip])
            base = base or most
            print(f"{count:9,} {most:7.0f} {most - base:18.0f} {count / seconds:9.0f}", flush=True)


if __name__ == "__main__":
    main()
