"""Features of three classes that overlap."""

from __future__ import annotations

import numpy as np
import torch

RANDOM = np.random.default_rng(0)


CENTRES = RANDOM.normal(size=(3, 48)) * 0.7


TARGETS = np.arange(60) % 3


FEATURES = (CENTRES[TARGETS] + RANDOM.normal(size=(60, 48))).astype(np.float32)


NEW = (CENTRES[TARGETS] + RANDOM.normal(size=(60, 48))).astype(np.float32)


LABELS = np.stack([TARGETS == 0, TARGETS != 2], axis=1).astype(np.uint8)


def logits(model, features: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model.head(torch.from_numpy(features)).numpy()
