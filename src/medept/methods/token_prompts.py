"""Shared by the methods that put learnable prompts on the tokens between blocks."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from medept.ept.config import Layers, parse_layers
from medept.methods.base import AdaptedEncoder, MethodSettings


class TokenPrompts(AdaptedEncoder):
    """One parameter per chosen block, which acts on the tokens that go into it.

    As in the code of Jia et al. (ECCV 2022), prompts start uniform within sqrt(6 / (3 p^2 + D)),
    with p the patch size in pixels, and learn by SGD that warms up over a tenth of the steps. The
    paper searches ten rates up to 50 on each task's validation set. Here it is the lowest of
    them, 0.05 for a batch of 256, scaled to batches of 16. The head's rate is lower, since it reads
    standardised features: at 0.003 it diverges where prompts change them fast.
    """

    recipe: ClassVar[dict[str, Any]] = {
        "optimizer": "sgd",
        "lr": 1e-3,
        "encoder_lr": 0.05 * 16 / 256,
        "weight_decay": 1e-4,
        "encoder_weight_decay": 1e-4,
        "warmup": 0.1,
    }

    class Settings(MethodSettings):
        """Where prompts are, and how they start."""

        layers: Layers = "all"
        """The chosen blocks: ``all``, ``first``, or numbers counted from 1 (``9-12``, ``1,3``)."""

        init: Literal["uniform", "normal", "zeros"] = "uniform"
        """Initial values: ``uniform``, the authors'; ``normal``, standard deviation 0.02; zeros."""

        frozen: bool = False
        """Keep the prompts at their initial values (Zu et al., table 3)."""

    settings: Settings

    def insert(self) -> None:
        self.layers = parse_layers(self.settings.layers, len(self.encoder.blocks))
        site = self.encoder.sites[0]
        patch = self.encoder.preprocessing.size[0] // max(1, site.grid[0])
        width = _block_width(self.encoder.blocks[0])
        bound = math.sqrt(6 / (3 * patch**2 + width))
        values = [torch.zeros(self.prompt_length(layer), width) for layer in self.layers]
        for value in values:
            if self.settings.init == "uniform":
                nn.init.uniform_(value, -bound, bound)
            elif self.settings.init == "normal":
                nn.init.normal_(value, std=0.02)
        self.prompts = nn.ParameterList(values)
        self.prompts.requires_grad_(not self.settings.frozen)

    def prompt_length(self, layer: int) -> int:
        """How many rows of width D the prompt of this block (counted from 0) has."""
        raise NotImplementedError

    def first_changed_block(self) -> int:
        return self.layers[0]

    def before(self, block: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
        """Let ``change`` act on the tokens (B, T, D) that go into ``block``."""

        def hook(_: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
            return change(arguments[0]), *arguments[1:]

        self.on_remove.callback(block.register_forward_pre_hook(hook).remove)

    def after(self, block: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
        """Let ``change`` act on the tokens that come out of ``block``."""

        def hook(_: nn.Module, __: Any, output: Tensor) -> Tensor:
            return change(output)

        self.on_remove.callback(block.register_forward_hook(hook).remove)

    def inserted_state(self) -> dict[str, Tensor]:
        prompts = zip(self.layers, self.prompts, strict=True)
        return {f"prompts.{layer}": prompt.detach() for layer, prompt in prompts}


def _block_width(block: nn.Module) -> int:
    """The width D of a block's tokens: that of its first layer norm."""
    return next(m.normalized_shape[0] for m in block.modules() if isinstance(m, nn.LayerNorm))
