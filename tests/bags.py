"""Small synthetic cases: images of which one in a positive case is bright."""

from __future__ import annotations

import numpy as np


def make_bags(
    cases: int = 8, sizes: tuple[int, ...] = (1, 4, 3, 2), side: int = 48, seed: int = 0
) -> tuple[list[np.ndarray], list[str], list[str], list[str]]:
    """Images (H, W, 3), the case of each, the label of each case, and the patient of each case.

    The images are listed case by case. A case in two is positive; two cases are of one patient.
    """
    random = np.random.default_rng(seed)
    images, ids, labels = [], [], []
    for case in range(cases):
        positive = case % 2 == 1
        size = sizes[case % len(sizes)]
        odd = int(random.integers(size))
        for i in range(size):
            image = random.integers(60, 120, (side, side, 3))
            if positive and i == odd:
                image[8:40, 8:40] = random.integers(200, 255, (32, 32, 3))
            images.append(image.astype(np.uint8))
            ids.append(f"case-{case}")
        labels.append("ill" if positive else "well")
    return images, ids, labels, [f"patient-{case // 2}" for case in range(cases)]
