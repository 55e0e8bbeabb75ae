"""Visual Prompt Tuning (Jia et al., ECCV 2022), and prompts that are added to the tokens.

VPT prepends learnable tokens: EPT-like prompts steer *inside* the softmax, VPT's add keys, values
and queries to it. Where the original is ambiguous: prompts stand after the prefix tokens (class
token, registers); VPT-deep puts fresh ones before every block in place of the last block's; they
are taken out after the last block, so that whatever pools the tokens does not see them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from medept.methods.base import AdaptedEncoder, MethodSettings


class _TokenPrompts(AdaptedEncoder):
    """Prompts, one parameter a prompted block, that act on the tokens that go into the block."""

    def insert(self) -> None:
        self._hooks = ExitStack()
        self.prompts = nn.ParameterList(self.initial_prompts())
        self.prompts.requires_grad_(not getattr(self.settings, "frozen", False))

    def initial_prompts(self) -> list[Tensor]:
        raise NotImplementedError

    def before(self, block: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
        """Let ``change`` act on the tokens (B, T, D) that go into ``block``."""

        def hook(_: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
            return change(arguments[0]), *arguments[1:]

        self._hooks.callback(block.register_forward_pre_hook(hook).remove)

    def after(self, block: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
        """Let ``change`` act on the tokens that come out of ``block``."""

        def hook(_: nn.Module, __: Any, output: Tensor) -> Tensor:
            return change(output)

        self._hooks.callback(block.register_forward_hook(hook).remove)

    def remove(self) -> None:
        self._hooks.close()

    def inserted_state(self) -> dict[str, Tensor]:
        return {f"prompts.{i}": prompt.detach() for i, prompt in enumerate(self.prompts)}


class VisualPromptTuning(_TokenPrompts):
    """Trains ``length`` tokens of width D for each prompted block (deep) or the first (shallow).

    The original searches its learning rate for each task; 1e-3 here is the best of 1e-4 to 1e-2
    on small data. Where images have far fewer tokens than 197, fewer prompts do better.
    """

    class Settings(MethodSettings):
        """length: tokens a block. deep: before every block. frozen: keep the initial values."""

        length: int = Field(default=50, ge=1)
        deep: bool = True
        frozen: bool = False

    name = "vpt"
    summary = "learnable tokens beside the image's"
    recipe: ClassVar[dict[str, Any]] = {"encoder_lr": 1e-3}
    settings: Settings

    @classmethod
    def suggest(cls, trial: Any) -> dict[str, Any]:
        return {"length": trial.suggest_categorical("length", [1, 5, 10, 50])}

    def initial_prompts(self) -> list[Tensor]:
        """Uniform within sqrt(6 / (3 p^2 + D)), p the patch size in pixels, as the original."""
        site = self.encoder.sites[0]
        patch = self.encoder.preprocessing.size[0] // max(1, site.grid[0])
        width = _block_width(self.encoder.blocks[0])
        bound = math.sqrt(6 / (3 * patch**2 + width))
        count = len(self.encoder.blocks) if self.settings.deep else 1
        return [
            torch.empty(self.settings.length, width).uniform_(-bound, bound) for _ in range(count)
        ]

    def insert(self) -> None:
        super().insert()
        for i in range(len(self.prompts)):
            self.before(self.encoder.blocks[i], self._placing(i))
        self.after(self.encoder.blocks[-1], self._dropped)
        for module in self.encoder.modules():  # rotary embeddings leave prefix tokens alone
            count = getattr(module, "num_prefix_tokens", None)
            if isinstance(count, int) and module is not self.encoder.model:
                setattr(module, "num_prefix_tokens", count + self.settings.length)  # noqa: B010
                self._hooks.callback(setattr, module, "num_prefix_tokens", count)

    def _placing(self, index: int) -> Callable[[Tensor], Tensor]:
        def place(tokens: Tensor) -> Tensor:
            prefix = self.encoder.sites[0].prefix
            rest = tokens[:, prefix + (self.settings.length if index else 0) :]
            prompt = self.prompts[index].to(tokens.dtype).expand(len(tokens), -1, -1)
            return torch.cat([tokens[:, :prefix], prompt, rest], dim=1)

        return place

    def _dropped(self, tokens: Tensor) -> Tensor:
        prefix = self.encoder.sites[0].prefix
        return torch.cat([tokens[:, :prefix], tokens[:, prefix + self.settings.length :]], dim=1)


class AddedPrompts(_TokenPrompts):
    """``vp`` of the paper's comparison: a prompt for each token, added before every block.

    Read as T x D numbers for each block, prefix tokens included, starting at N(0, 0.02).
    """

    name = "vp"
    summary = "learnable offsets added to the tokens of every block"
    recipe: ClassVar[dict[str, Any]] = {"encoder_lr": 1e-3}

    def initial_prompts(self) -> list[Tensor]:
        width = _block_width(self.encoder.blocks[0])
        return [torch.randn(site.tokens, width) * 0.02 for site in self.encoder.sites]

    def insert(self) -> None:
        super().insert()
        for block, prompt in zip(self.encoder.blocks, self.prompts, strict=True):
            self.before(block, partial(_added, prompt))


def _added(prompt: Tensor, tokens: Tensor) -> Tensor:
    return tokens + prompt.to(tokens.dtype)


def _block_width(block: nn.Module) -> int:
    """The width D of the tokens that a block takes: its first layer norm's."""
    return next(m.normalized_shape[0] for m in block.modules() if isinstance(m, nn.LayerNorm))
