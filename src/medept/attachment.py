"""Puts embedded prompts into any encoder's attention, and takes them out again.

The one thing that vision transformers of timm, transformers and open_clip share is the call of
``scaled_dot_product_attention`` at the heart of each attention. :func:`attach` finds those calls
with one trial forward pass (which also tells the number of heads and the token grid), and then
diverts each chosen one into its layer's :class:`~medept.prompts.EmbeddedPrompt`. Whatever else
an attention does (fused or separate projections, query and key norms, rotary embeddings, masks)
stays its own code. A prompted attention keeps its class's behaviour through a subclass made on
the spot, as ``torch.nn.utils.parametrize`` does; :meth:`Handle.detach` gives the class back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from medept.errors import InputError
from medept.prompts import EmbeddedPrompt, EmbeddedPromptConfig

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


class Handle:
    """Prompts attached to a model.

    Attributes:
        sites: every self-attention found, in order of execution.
        prompts: the prompts by layer index, counted from 0.
    """

    def __init__(self, model: nn.Module, config: EmbeddedPromptConfig, undo: ExitStack) -> None:
        self.model, self.config = model, config
        self.sites: tuple[AttentionSite, ...] = ()
        self.prompts: dict[int, EmbeddedPrompt] = {}
        self._undo = undo

    def parameters(self) -> Iterator[nn.Parameter]:
        """The prompts, first layer first."""
        return (prompt.prompt for prompt in self.prompts.values())

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Within it, a forward pass keeps its gates for :meth:`gates` to read."""
        for prompt in self.prompts.values():
            prompt.recording = True
        try:
            yield
        finally:
            for prompt in self.prompts.values():
                prompt.recording = False

    def gates(self) -> dict[int, Tensor]:
        """Gates of the last recorded forward pass: layer index -> (B, H, T), each in (0, 1).

        The gate is the factor Z / (Z + sum_l exp p_il) by which the prompted softmax scales a
        token's attention output.

        Raises:
            InputError: if no forward pass ran inside :meth:`recording`.
        """
        if any(prompt.recorded is None for prompt in self.prompts.values()):
            raise InputError(
                "no gates were recorded: run the model inside `with handle.recording():` first"
            )
        return {i: p.recorded for i, p in self.prompts.items() if p.recorded is not None}

    def merge(self) -> dict[int, Tensor]:
        """Collapse every prompt to one logit per token; returns them, layer index -> (T,)."""
        for prompt in self.prompts.values():
            prompt.merge()
        return {i: prompt.prompt.detach() for i, prompt in self.prompts.items()}

    def state_dict(self) -> dict[str, Tensor]:
        """The prompts by name, ``layer.<index>``: detached, not copied."""
        return {f"layer.{i}": prompt.prompt.detach() for i, prompt in self.prompts.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Put saved prompts, full or merged, back in place.

        Raises:
            InputError: if the layers or the shapes do not belong to this model and configuration.
        """
        expected = self.state_dict().keys()
        if state.keys() != expected:
            raise InputError(
                f"prompts of layers {sorted(state)} were given for a model that has "
                f"{sorted(expected)}"
            )
        for i, prompt in self.prompts.items():
            prompt.load(state[f"layer.{i}"])

    def detach(self) -> None:
        """Take the prompts out: the model is again exactly what it was before :func:`attach`."""
        self._undo.close()
        self.prompts = {}


def attach(
    model: nn.Module,
    config: EmbeddedPromptConfig | None = None,
    *,
    image_size: int | tuple[int, int] | None = None,
) -> Handle:
    """Freeze ``model`` and put one learnable prompt into each chosen self-attention.

    Args:
        model: a vision encoder; frozen in place, its weights untouched.
        config: what prompts, and where; the default is EPT-deep with way ``concat``.
        image_size: pixels a side (or height, width) of the input that sizes the prompts; by
            default what the model says of itself. Other sizes work afterwards: the prompts are
            interpolated over the token grid.

    Raises:
        InputError: if the model has prompts already, or no self-attention that can be served.
    """
    config = config or EmbeddedPromptConfig()
    if any(isinstance(module, EmbeddedPrompt) for module in model.modules()):
        raise InputError("this model already holds prompts: detach them first")
    with ExitStack() as stack:
        _use_sdpa(model, stack)
        sites = find_attentions(model, image_size)
        for parameter in model.parameters():
            stack.callback(parameter.requires_grad_, parameter.requires_grad)
            parameter.requires_grad_(False)
        handle = Handle(model, config, stack)
        handle.sites = sites
        device = next(model.parameters()).device
        for i in config.chosen_layers(len(sites)):
            site = sites[i]
            prompt = EmbeddedPrompt(config, heads=site.heads, prefix=site.prefix, grid=site.grid)
            handle.prompts[i] = prompt.to(device)
            _embed(site.module, handle.prompts[i], stack)
        handle._undo = stack.pop_all()
    return handle


# --- finding the attentions -----------------------------------------------------------------


def find_attentions(
    model: nn.Module, image_size: int | tuple[int, int] | None = None
) -> tuple[AttentionSite, ...]:
    """Every self-attention of ``model`` in order of execution, by one trial forward pass."""
    size = image_size or _own_image_size(model)
    height, width = (size, size) if isinstance(size, int) else size
    reference = next(model.parameters())
    pixels = torch.zeros(1, 3, height, width, device=reference.device, dtype=reference.dtype)
    with _Survey(model) as survey, torch.no_grad():
        training = model.training
        model.eval()
        try:
            model(pixels)
        finally:
            model.train(training)
    if not survey.sites:
        raise InputError(
            f"no self-attention that can be prompted was found in {type(model).__name__}. "
            f"Supported are {SUPPORTED}"
        )
    return tuple(_with_grid(site, survey.grids) for site in survey.sites)


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
    raise InputError(
        f"{type(model).__name__} does not say what image size it takes: pass image_size="
    )


# --- diverting them --------------------------------------------------------------------------


class _Divert(TorchFunctionMode):
    """Sends calls of scaled_dot_product_attention elsewhere."""

    def __init__(self, attend: Callable[..., Tensor]) -> None:
        super().__init__()
        self._attend = attend

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return self._attend(*args, **kwargs)
        if func is F.multi_head_attention_forward:
            return _multi_head_attention(self._attend, *args, **kwargs)
        return func(*args, **kwargs)


def _multi_head_attention(
    attend: Callable[..., Tensor],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    width: int,
    heads: int,
    in_weight: Tensor,
    in_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout: float,
    out_weight: Tensor,
    out_bias: Tensor | None,
    *,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    is_causal: bool = False,
    **_: Any,
) -> tuple[Tensor, None]:
    """Self-attention of ``torch.nn.MultiheadAttention`` on (T, B, D), attending by ``attend``."""
    if key_padding_mask is not None or bias_k is not None or add_zero_attn or need_weights:
        raise InputError(
            "nn.MultiheadAttention can be prompted without key padding, extra keys and returned "
            "weights (need_weights=False)"
        )
    tokens, batch, _width = query.shape
    projected = F.linear(query, in_weight, in_bias).reshape(tokens, batch, 3, heads, -1)
    output = attend(
        *projected.permute(2, 1, 3, 0, 4),  # three of (B, H, T, d)
        attn_mask=attn_mask,
        dropout_p=dropout if training else 0.0,
        is_causal=is_causal and attn_mask is None,
    )
    output = output.permute(2, 0, 1, 3).reshape(tokens, batch, width)
    return F.linear(output, out_weight, out_bias), None


@cache
def _prompted(attention: type[nn.Module]) -> type[nn.Module]:
    """The subclass of an attention class that attends through its ``embedded_prompt``."""

    class Prompted(attention):  # type: ignore[misc, valid-type]
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            with _Divert(self.embedded_prompt):
                return super().forward(*args, **kwargs)

    Prompted.__name__ = Prompted.__qualname__ = f"Prompted{attention.__name__}"
    return Prompted


def _embed(module: nn.Module, prompt: EmbeddedPrompt, stack: ExitStack) -> None:
    original = type(module)
    module.__class__ = _prompted(original)  # type: ignore[arg-type]
    module.embedded_prompt = prompt

    def undo() -> None:
        del module.embedded_prompt
        module.__class__ = original

    stack.callback(undo)


def _use_sdpa(model: nn.Module, stack: ExitStack) -> None:
    """Switch attentions that have a choice to ``scaled_dot_product_attention``."""
    for module in model.modules():
        if getattr(module, "fused_attn", None) is False:
            module.fused_attn = True  # type: ignore[assignment]
            stack.callback(setattr, module, "fused_attn", False)
    implementation = getattr(getattr(model, "config", None), "_attn_implementation", None)
    if implementation not in (None, "sdpa"):
        model.set_attn_implementation("sdpa")  # type: ignore[operator]
        stack.callback(model.set_attn_implementation, implementation)  # type: ignore[arg-type]
