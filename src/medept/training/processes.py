"""Several processes share each batch, and end with the weights that one would have come to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

if TYPE_CHECKING:
    from accelerate import Accelerator


def own_rows(rows: Tensor, accelerator: Accelerator) -> tuple[Tensor, float]:
    """This process's rows of a batch, and the weight of its loss.

    Gradients are averaged over the processes: with these weights, their mean is the gradient of
    the whole batch, however unequal the shares. A process that is left without a row takes one
    with weight 0.
    """
    count = accelerator.num_processes
    own = rows[accelerator.process_index :: count]
    if not len(own):
        return rows[:1], 0.0
    return own, count * len(own) / len(rows)


@torch.no_grad()
def copy_from_first(values: Sequence[Tensor], accelerator: Accelerator) -> None:
    """Every process takes the values of the first."""
    from accelerate.utils import broadcast

    if accelerator.num_processes > 1:
        for value in values:
            value.copy_(broadcast(value))


def average_gradients(parameters: Sequence[nn.Parameter], accelerator: Accelerator) -> None:
    """The gradients of all processes become their mean.

    Parameters without a gradient are left out: some of an encoder's play no part in its features.
    """
    if accelerator.num_processes > 1:
        gradients = [p.grad for p in parameters if p.grad is not None]
        mean = accelerator.reduce(parameters_to_vector(gradients), "mean")
        vector_to_parameters(mean, gradients)
