"""Where a model attends: found by watching one forward pass, whatever library the model is from.

The one thing that vision transformers of timm, transformers and open_clip share is the call of
``scaled_dot_product_attention`` at the heart of each self-attention. A trial forward pass on a
black image tells which module makes it, over how many tokens and heads, and what the patch
embedding's grid is.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from medept.errors import EncoderError

SUPPORTED = (
    "timm: ViT, DeiT, DINOv2, DINOv3, EVA-02, BEiT, SigLIP, CLIP, Swin; "
    "transformers: ViT, DINOv2, DINOv3, CLIP and SigLIP vision models; "
    "open_clip: ViT towers (model.visual); and any module whose self-attention calls "
    "torch.nn.functional.scaled_dot_product_attention"
)


@dataclass(frozen=True)
class AttentionSite:
    """One self-attention of a model: where it is and what it attends over."""

    name: str
    module: nn.Module
    heads: int
    tokens: int
    prefix: int = 0
    grid: tuple[int, int] = (0, 0)


def find_attentions(
    model: nn.Module, image_size: int | tuple[int, int] | None = None
) -> tuple[AttentionSite, ...]:
    """Every self-attention of ``model`` in order of execution, by one trial forward pass.

    Raises:
        InputError: if it has none that can be prompted, or takes no images.
    """
    reference = next(model.parameters(), None)
    if reference is None:
        raise EncoderError(_none_found(model))
    size = image_size or _own_image_size(model)
    height, width = (size, size) if isinstance(size, int) else size
    pixels = torch.zeros(1, 3, height, width, device=reference.device, dtype=reference.dtype)
    with _Survey(model) as survey, torch.no_grad():
        training = model.training
        model.eval()
        try:
            model(pixels)
        except (AttributeError, RuntimeError, TypeError, ValueError, AssertionError) as error:
            raise EncoderError(
                f"{type(model).__name__} does not take an image of {height} x {width} pixels "
                f"({error}): give its vision part, or image_size=. Supported are {SUPPORTED}"
            ) from error
        finally:
            model.train(training)
    if not survey.sites:
        raise EncoderError(_none_found(model))
    return tuple(_with_grid(site, survey.grids) for site in survey.sites)


def _none_found(model: nn.Module) -> str:
    return (
        f"no self-attention that can be prompted was found in {type(model).__name__}. "
        f"Supported are {SUPPORTED}"
    )


class _Survey(TorchFunctionMode):
    """Watches a forward pass: which module calls attention, over how many tokens and heads."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.sites: list[AttentionSite] = []
        self.grids: list[tuple[int, int]] = []
        self._model = model
        self._stack: list[tuple[str, nn.Module]] = []
        self._hooks = ExitStack()

    def __enter__(self) -> _Survey:
        for name, module in self._model.named_modules():
            enter = module.register_forward_pre_hook(self._entering(name))
            leave = module.register_forward_hook(self._leaving, always_call=True)
            self._hooks.callback(enter.remove)
            self._hooks.callback(leave.remove)
        super().__enter__()
        return self

    def __exit__(self, *exc: Any) -> None:
        super().__exit__(*exc)
        self._hooks.close()

    def _entering(self, name: str) -> Callable[..., None]:
        return lambda module, _: self._stack.append((name, module))

    def _leaving(self, module: nn.Module, _: Any, output: Any) -> None:
        if self._stack:
            self._stack.pop()
        if isinstance(module, nn.Conv2d) and not self.sites:
            self.grids.append(tuple(output.shape[-2:]))

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            query, key = _arguments(args, kwargs)[:2]
            self._found(heads=query.shape[-3], tokens=query.shape[-2], keys=key.shape[-2])
        elif func is F.multi_head_attention_forward:
            query, key = args[:2]  # (T, B, D)
            self._found(heads=args[4], tokens=query.shape[0], keys=key.shape[0])
        return func(*args, **kwargs)

    def _found(self, heads: int, tokens: int, keys: int) -> None:
        if tokens == keys and tokens > 1:  # attention pooling has a single query
            name, module = self._stack[-1]
            self.sites.append(AttentionSite(name, module, heads, tokens))


def _arguments(args: tuple, kwargs: dict) -> list[Any]:
    return [*args, *(kwargs[name] for name in ("query", "key", "value") if name in kwargs)]


def _with_grid(site: AttentionSite, grids: list[tuple[int, int]]) -> AttentionSite:
    """Split a site's tokens into prefix and grid: the grid is the patch embedding's output."""
    for rows, columns in reversed(grids):
        if 0 <= site.tokens - rows * columns <= 16:
            return replace(site, prefix=site.tokens - rows * columns, grid=(rows, columns))
    side = int(site.tokens**0.5)
    if side * side == site.tokens:  # attention within windows
        return replace(site, grid=(side, side))
    return replace(site, prefix=site.tokens, grid=(0, 0))


def _own_image_size(model: nn.Module) -> int | tuple[int, int]:
    """The input size that a timm, transformers or open_clip model says it was made for."""
    timm_size = (getattr(model, "pretrained_cfg", None) or {}).get("input_size")
    patch_embed_size = getattr(getattr(model, "patch_embed", None), "img_size", None)
    config_size = getattr(getattr(model, "config", None), "image_size", None)
    for size in (
        patch_embed_size,
        timm_size and timm_size[1:],
        config_size,
        getattr(model, "image_size", None),
    ):
        if size is not None:
            return size if isinstance(size, int) else (int(size[0]), int(size[1]))
    raise EncoderError(
        f"{type(model).__name__} does not say what image size it takes: pass image_size="
    )


def use_sdpa(model: nn.Module, stack: ExitStack) -> None:
    """Switch attentions that have a choice to ``scaled_dot_product_attention``."""
    for module in model.modules():
        if getattr(module, "fused_attn", None) is False:
            module.fused_attn = True  # type: ignore[assignment]
            stack.callback(setattr, module, "fused_attn", False)
    implementation = getattr(getattr(model, "config", None), "_attn_implementation", None)
    if implementation not in (None, "sdpa"):
        model.set_attn_implementation("sdpa")  # type: ignore[operator]
        stack.callback(model.set_attn_implementation, implementation)  # type: ignore[arg-type]
