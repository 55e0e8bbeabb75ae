"""BitFit (Ben Zaken et al., ACL 2022): only biases are trained."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

from medept.encoders.encoder import Encoder
from medept.methods.own_parameters import OwnParameters


class Bias(OwnParameters):
    """Trains every bias, including those of layer norms and of the patch embedding.

    The paper tunes language models, which have no patch embedding; its "all bias terms" is read as
    all of the encoder's, as Jia et al. (ECCV 2022) do in their comparison. AdamW at 1e-3, the
    largest rate of the paper's search (1e-4 to 1e-3).
    """

    name = "bias"
    summary = "every bias of the encoder"
    recipe: ClassVar[dict[str, Any]] = {"encoder_lr": 1e-3}

    @classmethod
    def own(cls, encoder: Encoder, settings: Any) -> list[nn.Parameter]:
        return [p for n, p in encoder.named_parameters() if n.rpartition(".")[2].endswith("bias")]
