"""Finds the self-attentions of a model, whichever library it is from, by one forward pass.

All that the vision transformers of timm, transformers and open_clip have in common is that each
self-attention calls ``scaled_dot_product_attention``. A forward pass of one black image shows which
module calls it, over how many tokens and heads, and what grid of patches there is.
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

from medept.ept.grid import Grid
from medept.errors import EncoderError, is_out_of_memory

SUPPORTED = (
    "timm: ViT, DeiT, DINOv2, DINOv3, EVA-02, BEiT, SigLIP, CLIP, Swin; "
    "transformers: ViT, DINOv2, DINOv3, CLIP and SigLIP vision models; "
    "open_clip: ViT towers (model.visual); and any module whose self-attention calls "
    "torch.nn.functional.scaled_dot_product_attention"
)


@dataclass(frozen=True)
class AttentionSite:
    """One self-attention of a model.

    Attributes:
        name: of its module within the model.
        module: the module that calls ``scaled_dot_product_attention``.
        heads: H.
        tokens: T, for the image that the model was tried on.
        width: d, the numbers in one head's query.
        prefix: how many tokens come before the patches, such as a class token.
        grid: rows and columns of the patches; (0, 0) if the tokens form no grid.
    """

    name: str
    module: nn.Module
    heads: int
    tokens: int
    width: int
    prefix: int = 0
    grid: Grid = (0, 0)


def find_attentions(
    model: nn.Module, image_size: int | tuple[int, int] | None = None
) -> tuple[AttentionSite, ...]:
    """Every self-attention of a model that can be prompted, in order of execution.

    The model is left as it was.

    >>> import timm
    >>> model = timm.create_model("test_vit")  # a tiny ViT that ships with timm
    >>> first, *_ = find_attentions(model)
    >>> first.name, first.heads, first.tokens, first.prefix, first.grid
    ('blocks.0.attn', 2, 101, 1, (10, 10))

    Args:
        model: what takes pixels (B, 3, H, W).
        image_size: pixels a side, or (height, width); by default what the model says of itself.

    Raises:
        InputError: if there is none, or the model takes no image of this size.
    """
    reference = next(model.parameters(), None)
    if reference is None:
        raise EncoderError(_none_found(model))
    size = image_size or _own_image_size(model)
    height, width = (size, size) if isinstance(size, int) else size
    pixels = torch.zeros(1, 3, height, width, device=reference.device, dtype=reference.dtype)
    with ExitStack() as stack:
        use_sdpa(model, stack)
        for module in model.modules():
            stack.callback(setattr, module, "training", module.training)
        model.eval()
        survey = stack.enter_context(_Survey(model))
        stack.enter_context(torch.no_grad())
        try:
            model(pixels)
        except (AttributeError, RuntimeError, TypeError, ValueError, AssertionError) as error:
            if is_out_of_memory(error):
                raise
            raise EncoderError(
                f"{type(model).__name__} does not take an image of {height} x {width} pixels "
                f"({error}): give its vision part, or image_size=. Supported are {SUPPORTED}"
            ) from error
    if not survey.sites:
        raise EncoderError(_none_found(model))
    return tuple(_with_grid(site, survey.grids) for site in survey.sites)


def use_sdpa(model: nn.Module, undo: ExitStack) -> None:
    """Switch attentions that have a choice to ``scaled_dot_product_attention``, until ``undo``."""
    for module in model.modules():
        if getattr(module, "fused_attn", None) is False:  # timm
            module.fused_attn = True  # type: ignore[assignment]
            undo.callback(setattr, module, "fused_attn", False)
    implementation = getattr(getattr(model, "config", None), "_attn_implementation", None)
    if implementation not in (None, "sdpa"):  # transformers
        model.set_attn_implementation("sdpa")  # type: ignore[operator]
        undo.callback(model.set_attn_implementation, implementation)  # type: ignore[arg-type]


class _Survey(TorchFunctionMode):
    """Watches a forward pass: which module calls attention, and what shapes convolutions give."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.sites: list[AttentionSite] = []
        self.grids: list[Grid] = []
        self._model = model
        self._running: list[tuple[str, nn.Module]] = []
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
        return lambda module, _: self._running.append((name, module))

    def _leaving(self, module: nn.Module, _: Any, output: Any) -> None:
        if self._running:
            self._running.pop()
        if isinstance(module, nn.Conv2d) and not self.sites:
            self.grids.append(tuple(output.shape[-2:]))

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            query, key = _query_and_key(*args, **kwargs)  # (B, H, T, d)
            self._found(*query.shape[-3:], keys=key.shape[-2])
        elif func is F.multi_head_attention_forward:
            query, key, heads = args[0], args[1], args[4]  # (T, B, D)
            self._found(heads, len(query), query.shape[-1] // heads, keys=len(key))
        return func(*args, **kwargs)

    def _found(self, heads: int, tokens: int, width: int, *, keys: int) -> None:
        if tokens == keys and tokens > 1:  # attention pooling has a single query
            name, module = self._running[-1]
            self.sites.append(AttentionSite(name, module, heads, tokens, width))


def _query_and_key(query: Any, key: Any, *_: Any, **__: Any) -> tuple[Any, Any]:
    return query, key


def _with_grid(site: AttentionSite, grids: list[Grid]) -> AttentionSite:
    """The site with its tokens split into prefix and grid, which a convolution has shown."""
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


def _none_found(model: nn.Module) -> str:
    return (
        f"no self-attention that can be prompted was found in {type(model).__name__}. "
        f"Supported are {SUPPORTED}"
    )
