"""Finds the self-attentions of a model, whichever library it is from, by trying it.

All that the vision transformers of timm, transformers and open_clip have in common is that each
self-attention calls ``scaled_dot_product_attention``. A forward pass of one black image shows which
module calls it, over how many tokens and heads, and what maps the convolutions before it make. The
beginning of a second pass, of another image, shows which tokens the image does not change: those
are the prefix. The others are patches if a convolution's map has as many.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import nn

from medept.ept.grid import Grid, GridWatch
from medept.ept.probe import probe_image, refusing, undisturbed
from medept.ept.survey import POOLING, Call, EnoughSeen, Survey
from medept.errors import EncoderError

logger = logging.getLogger(__name__)

SUPPORTED = (
    "timm: ViT, DeiT, DINOv2, DINOv3, EVA-02, BEiT, SigLIP, CLIP, Swin; "
    "transformers: ViT, DINOv2, DINOv3, CLIP and SigLIP vision models; "
    "open_clip: ViT towers (model.visual); and any module whose self-attention calls "
    "torch.nn.functional.scaled_dot_product_attention"
)
TWICE = "several calls in one pass"
_PREFIX = 16
"""On the meta device, where nothing is computed, up to so many tokens are taken to be a prefix."""


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
        image: height and width of the image that the model was tried on.
        patches: the convolution whose output has this grid, for every image; None if none has.
    """

    name: str
    module: nn.Module
    heads: int
    tokens: int
    width: int
    prefix: int = 0
    grid: Grid = (0, 0)
    image: tuple[int, int] = (0, 0)
    patches: nn.Module | None = None


@dataclass(frozen=True)
class LeftOut:
    """An attention that cannot be prompted: the name of its module, and why not."""

    name: str
    why: str


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
        model: what takes pixels (B, C, H, W).
        image_size: pixels a side, or (height, width); by default what the model says of itself.

    Raises:
        InputError: if there is none, or the model takes no image of this size.
    """
    return find_all_attentions(model, image_size)[0]


def find_all_attentions(
    model: nn.Module, image_size: int | tuple[int, int] | None = None
) -> tuple[tuple[AttentionSite, ...], tuple[LeftOut, ...]]:
    """As :func:`find_attentions`, and the attentions that cannot be prompted."""
    if next(model.parameters(), None) is None:
        raise EncoderError(_none_found(model, ()))
    size = image_size or _own_image_size(model)
    height, width = (size, size) if isinstance(size, int) else size
    what = f"{type(model).__name__} does not take an image of {height} x {width} pixels"
    advice = f"give its vision part, or image_size=. Supported are {SUPPORTED}"
    with ExitStack() as stack:
        use_sdpa(model, stack)
        stack.enter_context(undisturbed(model))
        stack.enter_context(torch.no_grad())
        stack.enter_context(refusing(what, advice))
        random = torch.get_rng_state()
        with Survey(model) as seen:
            model(probe_image(model, (height, width), black=True))
        if not torch.equal(random, torch.get_rng_state()):
            raise EncoderError(
                f"{type(model).__name__} draws random numbers in evaluation mode, perhaps to mask "
                "patches: switch that off (mask_ratio=0), so that an image has one answer"
            )
        prefixes = _prefixes(model, (height, width), seen.calls)
    times = Counter(call.module for call in seen.calls if call.why_not != POOLING)
    for call in seen.calls:
        call.why_not = call.why_not or (TWICE if times[call.module] > 1 else "")
    left_out = tuple(dict.fromkeys(LeftOut(c.name, c.why_not) for c in seen.calls if c.why_not))
    sites = tuple(
        _site(call, prefixes.get(call.tokens), seen.maps[: call.maps], (height, width))
        for call in seen.calls
        if not call.why_not
    )
    if not sites:
        raise EncoderError(_none_found(model, left_out))
    if told := describe(each for each in left_out if each.why != POOLING):
        logger.warning("attentions of %s without prompts: %s", type(model).__name__, told)
    return sites, left_out


def describe(left_out: Iterable[LeftOut]) -> str:
    """Attentions that are left out, by reason: ``2 with fewer keys than queries (a, b)``."""
    names: dict[str, list[str]] = {}
    for each in left_out:
        names.setdefault(each.why, []).append(each.name)
    return "; ".join(
        f"{len(group)} with {why} ({', '.join(group[:3])}{', ...' if len(group) > 3 else ''})"
        for why, group in names.items()
    )


def use_sdpa(model: nn.Module, undo: ExitStack) -> None:
    """Switch attentions that have a choice to ``scaled_dot_product_attention``, until ``undo``."""
    for module in model.modules():
        if getattr(module, "fused_attn", None) is False:  # timm
            module.fused_attn = True  # type: ignore[assignment]
            undo.callback(setattr, module, "fused_attn", False)
    implementation = getattr(getattr(model, "config", None), "_attn_implementation", None)
    if implementation not in (None, "sdpa"):  # transformers
        try:
            model.set_attn_implementation("sdpa")  # type: ignore[operator]
            undo.callback(model.set_attn_implementation, implementation)  # type: ignore[arg-type]
        except ValueError:  # some part of it has attentions of its own kind alone
            model.set_attn_implementation(implementation)  # type: ignore[operator]


def watch_grids(
    sites: Iterable[AttentionSite], undo: ExitStack
) -> dict[nn.Module | None, GridWatch]:
    """By convolution that makes a site's patches, what knows their grid, until ``undo``."""
    watches: dict[nn.Module | None, GridWatch] = {}
    for patches in (site.patches for site in sites):
        if patches is not None and patches not in watches:
            watches[patches] = GridWatch()
            undo.callback(patches.register_forward_hook(watches[patches]).remove)
    return watches


def _prefixes(model: nn.Module, size: tuple[int, int], calls: list[Call]) -> dict[int, set[int]]:
    """By number of tokens, how many of them may come before the patches.

    Those are the leading tokens whose query is the same for another image; with what was a prefix
    before, where tokens joined later. The pass ends where nothing new can come.
    """
    new = [i for i, call in enumerate(calls) if call.rows is not None]
    new = [i for i in new if calls[i].tokens not in {c.tokens for c in calls[:i]}]
    if not new or next(model.parameters()).is_meta:
        return {}
    with Survey(model, until=new[-1] + 1) as seen, suppress(EnoughSeen):
        model(probe_image(model, size))
    found: dict[int, set[int]] = {}
    before = 0
    for i in new:
        constant = _constant_rows(calls[i].rows, seen.calls[i].rows)
        joined = [row < before or same for row, same in enumerate(constant)]
        found[calls[i].tokens] = {_leading(constant), _leading(joined)}
        before = _leading(constant) if i == new[0] else before
    return found


def _constant_rows(one: torch.Tensor | None, other: torch.Tensor | None) -> list[bool]:
    if one is None or other is None or one.shape != other.shape:
        return []
    change = (one.float() - other.float()).abs().amax(-1)
    return (change <= 1e-4 * change.max()).tolist()


def _leading(rows: list[bool]) -> int:
    return next((i for i, row in enumerate(rows) if not row), len(rows))


def _site(
    call: Call,
    prefixes: set[int] | None,
    maps: list[tuple[nn.Module, Grid]],
    image: tuple[int, int],
) -> AttentionSite:
    """The site with its tokens split into prefix and grid, which a convolution has shown."""
    size = call.heads, call.tokens, call.width
    site = AttentionSite(call.name, call.module, *size, image=image)
    for patches, grid in reversed(maps):
        prefix = call.tokens - grid[0] * grid[1]
        if prefix in (range(_PREFIX + 1) if prefixes is None else prefixes):
            return replace(site, prefix=prefix, grid=grid, patches=patches)
    window = getattr(call.module, "window_size", None)
    window = (window, window) if isinstance(window, int) else window
    if isinstance(window, (tuple, list)) and len(window) == 2 and prod(window) == call.tokens:
        return replace(site, grid=(window[0], window[1]))
    return replace(site, prefix=call.tokens)


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


def _none_found(model: nn.Module, left_out: tuple[LeftOut, ...]) -> str:
    found = f" It has {describe(left_out)}." if left_out else ""
    return (
        f"no self-attention that can be prompted was found in {type(model).__name__}.{found} "
        f"Supported are {SUPPORTED}"
    )
