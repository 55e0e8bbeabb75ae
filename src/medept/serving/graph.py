"""A fitted classifier as one plain module, from pixels to probabilities, for export.

Everything that a prediction needs is in the graph: the encoder with its adapter, the flips and
turns that a prediction averages over, the head and the calibration. What is not is how an image
becomes pixels: :func:`inputs_of` says that in words that another program can follow.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from medept.classifier.classifier import FewShotClassifier
from medept.encoders.preprocessing import Preprocessing
from medept.encoders.symmetry import ENLARGED, Symmetry
from medept.errors import SettingsError
from medept.evaluation.prevalence import complete_prevalence, logit_shift


class ProbabilityGraph(nn.Module):
    """Prepared pixels -> probabilities (B, C), as ``predict_proba`` gives them.

    The inputs are the normalised images (B, 3, H, W); where the prediction also looks at corners,
    the same images enlarged (B, 3, h, w) come second.

    Args:
        classifier: fitted, with one encoder, on the CPU in float32.
    """

    scale: Tensor
    offset: Tensor

    def __init__(self, classifier: FewShotClassifier) -> None:
        super().__init__()
        info = classifier.info()
        if info.others:
            raise SettingsError(
                "a file holds one encoder: export a fit of each of the several, and average their "
                "probabilities"
            )
        if info.support_cases is not None:
            raise SettingsError(
                "a file looks at single images, and this fit is of cases: fit without cases to "
                "export"
            )
        if isinstance(info.prevalence, str):
            raise SettingsError(
                "a prevalence that is estimated from the images of each call is not exported: "
                "fit again and state it"
            )
        if info.calibration.steps:
            raise SettingsError(
                "an isotonic calibration is not exported: fit again with temperature scaling"
            )
        self.model = classifier.model_
        if self.model.handle is not None:
            self.model.handle.merge()
        self.symmetry = Symmetry(info.symmetry)
        self.count = min(classifier.tta or info.tta, len(self.symmetry))
        self.preprocessing = self.model.encoder.preprocessing
        self.multilabel = classifier.task_ == "multilabel"
        scale, offset = np.array(info.calibration.scale), np.array(info.calibration.offset)
        if info.prevalence is not None:
            before = np.array(info.shares)
            after = complete_prevalence(info.prevalence, info.classes, before, info.task)
            offset = offset + logit_shift(before, after, info.task)
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float32))
        self.register_buffer("offset", torch.tensor(offset, dtype=torch.float32))

    def forward(self, pixels: Tensor, enlarged: Tensor | None = None) -> Tensor:
        """Probabilities (B, C) of B images."""
        if enlarged is not None:
            pixels = self.symmetry.with_corners(pixels, enlarged)
        views = list(self.symmetry.views(pixels, self.count))
        features = self.model.features(torch.cat(views))
        features = features.unflatten(0, (len(views), -1)).mean(dim=0)
        logits = self.model.logits(features) * self.scale + self.offset
        return logits.sigmoid() if self.multilabel else logits.softmax(dim=1)


def inputs_of(graph: ProbabilityGraph) -> dict[str, Preprocessing]:
    """How an image becomes each input of a graph, by the input's name."""
    found = {"pixels": graph.preprocessing}
    if graph.symmetry.corners:
        found["enlarged"] = graph.preprocessing.enlarged(ENLARGED)
    return found
