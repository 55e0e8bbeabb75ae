"""LoRA and its relatives, through Hugging Face peft, on the query and value projections.

peft works on whole linear layers. Where an encoder computes query, key and value in one fused
layer, that layer is replaced by three that share its weights while the method is in place, so
that queries and values alone are adapted, as in Hu et al. 2022.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, Literal

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
    """An adapter of peft's on the query and value projections of every attention."""

    def config(self, targets: list[str]) -> Any:
        """peft's configuration for the named layers."""
        raise NotImplementedError

    def insert(self) -> None:
        try:
            from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
        except ImportError as error:
            raise InputError(
                f"the method {self.name!r} needs an extra: pip install 'medept[peft]'"
            ) from error
        self._undo = ExitStack()
        model = self.encoder.model
        for site in self.encoder.sites:
            fused = getattr(site.module, "qkv", None)
            if isinstance(fused, nn.Linear):
                site.module.qkv = SplitProjection(fused)
                self._undo.callback(setattr, site.module, "qkv", fused)
        names = [n for n, _ in model.named_modules() if n.rpartition(".")[2] in (*QUERY, *VALUE)]
        if not names:
            raise InputError(
                f"the attentions of {self.encoder.name!r} have no query and value projections that "
                f"the method {self.name!r} can adapt"
            )
        config = self.config(names)
        tuner = PEFT_TYPE_TO_TUNER_MAPPING[config.peft_type](model, config, "default")
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
    """Low-rank updates (Hu et al. 2022): 2 r D numbers for each of Wq and Wv; zero at the start."""

    class Settings(MethodSettings):
        """rank: r. alpha: updates are scaled by alpha / r; None is alpha = r."""

        rank: int = Field(default=8, ge=1)
        alpha: float | None = Field(default=None, gt=0)

    name = "lora"
    summary = "low-rank updates of query and value projections"
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
    """Weight-decomposed LoRA (Liu et al. 2024): direction by LoRA, magnitude by a vector."""

    name = "dora"
    summary = "low-rank updates of direction, and magnitudes"
    decomposed = True


class IA3(_Peft):
    """Learnt scales of the value projections' outputs (Liu et al. 2022); one at the start."""

    class Settings(MethodSettings):
        """where: which projections are scaled."""

        where: Literal["value", "query+value"] = "value"

    name = "ia3"
    summary = "learnt scales of value projections"
    settings: Settings

    def config(self, targets: list[str]) -> Any:
        from peft import IA3Config

        if self.settings.where == "value":
            targets = [n for n in targets if n.rpartition(".")[2] in VALUE]
        return IA3Config(target_modules=targets, feedforward_modules=[])
