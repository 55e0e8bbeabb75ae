"""Look through a data set before anything is fitted to it."""

from __future__ import annotations

import numpy as np
import torch

from medept.checks.check import Check
from medept.checks.check import check as look_through
from medept.data.table import LabelledImages
from medept.encoders.load import load_encoder
from medept.progress import Progress, silent
from medept.training.device import make_accelerator


def check(data: LabelledImages, *, device: str = "auto", progress: Progress = silent) -> Check:
    """Look through a data set, its labels by features of the embedded encoder."""
    return look_through(data, _FrozenFeatures(device), progress=progress)


class _FrozenFeatures:
    """What the check of labels asks for, of the embedded encoder."""

    def __init__(self, device: str) -> None:
        self.device = make_accelerator(device, "float32").device
        self.encoder = load_encoder().to(self.device)
        self.prepare = self.encoder.preprocessing.evaluation()

    def features(self, prepared: list[torch.Tensor]) -> np.ndarray:
        with torch.inference_mode():
            return self.encoder(torch.stack(prepared).to(self.device)).float().cpu().numpy()
