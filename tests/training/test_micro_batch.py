"""A batch computed a few images at a time: the same training, in less memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medept.encoders.encoder import Encoder
from medept.encoders.preprocessing import Preprocessing
from medept.methods import adapt
from medept.training.device import make_accelerator
from medept.training.loop import train
from medept.training.recipes import make_recipe
from medept.training.views import Views

IMAGES = [np.random.default_rng(i).integers(0, 255, (40, 40, 3), np.uint8) for i in range(7)]
TARGETS = {
    "classes": np.arange(7) % 3,
    "labels": np.random.default_rng(0).integers(0, 2, (7, 3), np.uint8),
}


def trained(
    vit: nn.Module, method: str, task: str, micro_batch: int | None, views: int
) -> tuple[dict[str, Tensor], list[float], set[int]]:
    """What was learnt, the loss of each epoch, and how many images were computed at once.

    Batches are of 4, and the last of 3.
    """
    encoder = Encoder(vit, "tiny", Preprocessing((32, 32), (0.5,) * 3, (0.5,) * 3))
    torch.manual_seed(0)
    model = adapt(encoder, method, 3)
    recipe = make_recipe(
        "medept", method, optimizer="sgd", lr=0.01, encoder_lr=0.01, epochs=3, views=views,
        head_first=0.4, batch_size=4, micro_batch=micro_batch,
    )  # fmt: skip
    sizes: set[int] = set()
    model.head.register_forward_hook(
        lambda _, arguments, __: sizes.add(len(arguments[0])) if torch.is_grad_enabled() else None
    )
    history = train(model, Views(IMAGES, encoder.preprocessing, crop_scale=0.5), TARGETS[task],
                    recipe, make_accelerator("cpu", "float32"))  # fmt: skip
    state = {name: tensor.clone() for name, tensor in model.trained_state().items()}
    model.remove()
    return state, [row["loss"] for row in history], sizes


@pytest.mark.parametrize("task", TARGETS)
@pytest.mark.parametrize(
    ("method", "views"), [("linear", 2), ("ept", 2), ("ept", 3), ("vpt", 2), ("partial", 2)]
)
def test_the_training_is_that_of_the_whole_batch(
    tiny_vit: nn.Module, method: str, views: int, task: str
) -> None:
    whole, losses, sizes = trained(tiny_vit, method, task, None, views)
    assert sizes == {4, 3}
    for micro_batch, parts in ((3, {3, 1}), (2, {2, 1}), (1, {1}), (9, {4, 3})):
        state, found, sizes = trained(tiny_vit, method, task, micro_batch, views)
        assert sizes == parts
        assert found == pytest.approx(losses, rel=1e-5)
        for name, tensor in whole.items():
            torch.testing.assert_close(state[name], tensor, rtol=1e-4, atol=1e-5)
