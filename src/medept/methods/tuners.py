"""Hugging Face peft's tuners: LoRA, DoRA and IA3 on query and value projections, and layer norms.

peft works on whole linear layers. Where an encoder computes query, key and value in one fused
layer, that layer is replaced by three that share its weights while the method is in place, so
that queries and values alone are adapted, as in Hu et al. 2022.
"""

from __future__ import annotations

import re
import warnings
from contextlib import ExitStack
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from medept.errors import InputError
from medept.methods.base import AdaptedEncoder, MethodSettings

QUERY = ("q_proj", "query")
VALUE = ("v_proj", "value")


class SplitProjection(nn.Module):
    """A fused (3 D' x D) projection as three linear layers on views of its weights."""

    q_proj: nn.Linear
    k_proj: nn.Linear
    v_proj: nn.Linear

    def __init__(self, fused: nn.Linear) -> None:
        super().__init__()
        width, third = fused.in_features, fused.out_features // 3
        biases = (None,) * 3 if fused.bias is None else fused.bias.chunk(3)
        for name, weight, bias in zip(
            ("q_proj", "k_proj", "v_proj"), fused.weight.chunk(3), biases, strict=True
        ):
            layer = nn.Linear(width, third, bias=bias is not None, device="meta")
            layer.weight = nn.Parameter(weight.detach(), requires_grad=False)
            if bias is not None:
                layer.bias = nn.Parameter(bias.detach(), requires_grad=False)
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.q_proj(x), self.k_proj(x), self.v_proj(x)], dim=-1)


class _Peft(AdaptedEncoder):
    """A tuner of peft's; on the query and value projections of every attention, by default."""

    def config(self, targets: list[str]) -> Any:
        """peft's configuration for the named layers."""
        raise NotImplementedError

    def targets(self) -> list[str]:
        """Names of the layers that are tuned; a fused projection is split first."""
        for site in self.encoder.sites:
            fused = getattr(site.module, "qkv", None)
            if isinstance(fused, nn.Linear):
                site.module.qkv = SplitProjection(fused)
                self._undo.callback(setattr, site.module, "qkv", fused)
        modules = self.encoder.model.named_modules()
        return [n for n, _ in modules if n.rpartition(".")[2] in (*QUERY, *VALUE)]

    def insert(self) -> None:
        try:
            from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
        except ImportError as error:
            raise InputError(
                f"the method {self.name!r} needs an extra: pip install 'medept[peft]'"
            ) from error
        self._undo = ExitStack()
        names = self.targets()
        if not names:
            raise InputError(
                f"the method {self.name!r} tunes layers that {self.encoder.name!r} does not have"
            )
        config = self.config(names)
        with warnings.catch_warnings():  # that it has not met timm's LayerNorm, which it copies
            warnings.filterwarnings("ignore", "Unsupported layer type")
            tuner = PEFT_TYPE_TO_TUNER_MAPPING[config.peft_type](
                self.encoder.model, config, "default"
            )
        self._undo.callback(tuner.unload)

    def remove(self) -> None:
        self._undo.close()

    @torch.no_grad()
    def merge(self) -> None:
        """Add what was learnt to the frozen weights, in place: same outputs, no extra cost."""
        for module in list(self.encoder.modules()):
            if hasattr(module, "merge") and hasattr(module, "base_layer"):
                module.merge()  # type: ignore[operator]


class LoRA(_Peft):
    """Low-rank updates (Hu et al. 2022): 2 r D numbers for each of Wq and Wv; zero at the start.

    Trained as their RoBERTa: AdamW, 5e-4.
    """

    class Settings(MethodSettings):
        """rank: r. alpha: updates are scaled by alpha / r; None is alpha = r."""

        rank: int = Field(default=8, ge=1)
        alpha: float | None = Field(default=None, gt=0)

    name = "lora"
    summary = "low-rank updates of query and value projections"
    recipe: ClassVar[dict[str, Any]] = {"encoder_lr": 5e-4}
    settings: Settings
    decomposed = False

    @classmethod
    def suggest(cls, trial: Any) -> dict[str, Any]:
        return {"rank": trial.suggest_categorical("rank", [1, 4, 8, 32, 64])}

    def config(self, targets: list[str]) -> Any:
        from peft import LoraConfig

        alpha = self.settings.alpha or self.settings.rank
        return LoraConfig(
            r=self.settings.rank,
            lora_alpha=alpha,
            target_modules=targets,
            use_dora=self.decomposed,
        )


class DoRA(LoRA):
    """Weight-decomposed LoRA (Liu et al. 2024): direction by LoRA, magnitude by a vector.

    Trained with AdamW at 2e-4, theirs for LLaMA-7B.
    """

    name = "dora"
    summary = "low-rank updates of direction, and magnitudes"
    recipe: ClassVar[dict[str, Any]] = {"encoder_lr": 2e-4}
    decomposed = True


class IA3(_Peft):
    """Learnt scales of the value projections' outputs (Liu et al. 2022); one at the start.

    Trained at their 3e-3, by AdamW in place of Adafactor.
    """

    class Settings(MethodSettings):
        """where: which projections are scaled."""

        where: Literal["value", "query+value"] = "value"

    name = "ia3"
    summary = "learnt scales of value projections"
    recipe: ClassVar[dict[str, Any]] = {"encoder_lr": 3e-3}
    settings: Settings

    def config(self, targets: list[str]) -> Any:
        from peft import IA3Config

        if self.settings.where == "value":
            targets = [n for n in targets if n.rpartition(".")[2] in VALUE]
        return IA3Config(target_modules=targets, feedforward_modules=[])


class NormTuning(_Peft):
    """Weights and biases of every layer norm (Zhao et al. 2024)."""

    name = "norm"
    summary = "weights and biases of every layer norm"
    recipe: ClassVar[dict[str, Any]] = {"encoder_lr": 1e-3}

    def targets(self) -> list[str]:
        modules = self.encoder.model.named_modules()
        return [name for name, module in modules if isinstance(module, nn.LayerNorm)]

    def config(self, targets: list[str]) -> Any:
        from peft import LNTuningConfig

        return LNTuningConfig(target_modules="|".join(map(re.escape, targets)))
