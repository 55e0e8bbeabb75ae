"""Puts embedded prompts into a model's attentions, and takes them out again.

:func:`attach` finds the model's self-attentions (:mod:`medept.ept.sites`) and sends their calls of
``scaled_dot_product_attention`` to their :class:`~medept.ept.prompts.EmbeddedPrompt`. Whatever else
an attention does (fused or separate projections, query and key norms, rotary embeddings, masks)
stays its own code. The module stays the same object too: its class becomes a subclass made on the
spot, as in ``torch.nn.utils.parametrize``, until :meth:`Handle.detach` gives its class back.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from medept.ept.config import EmbeddedPromptConfig
from medept.ept.divert import divert_one_call, keep_off_the_fast_path
from medept.ept.prompts import EmbeddedPrompt
from medept.ept.proof import prove
from medept.ept.sites import (
    AttentionSite,
    LeftOut,
    describe,
    find_all_attentions,
    use_sdpa,
    watch_grids,
)
from medept.ept.survey import POOLING
from medept.ept.undo import Undo
from medept.errors import EncoderError

DEFAULT = "default"
"""The name of the adapter that :func:`attach` makes."""


def attach(
    model: nn.Module,
    config: EmbeddedPromptConfig | None = None,
    *,
    image_size: int | tuple[int, int] | None = None,
) -> Handle:
    """Freeze ``model`` and put one learnable prompt into each chosen self-attention.

    >>> import timm
    >>> model = timm.create_model("test_vit")  # a tiny ViT that ships with timm
    >>> handle = attach(model, EmbeddedPromptConfig(length=20, layers="5-6"))
    >>> handle
    Handle(VisionTransformer: 2 of 6 attentions prompted, 4,040 numbers; adapters: default)
    >>> [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    ['blocks.4.attn.embedded_prompt.prompt', 'blocks.5.attn.embedded_prompt.prompt']
    >>> handle.detach()

    Args:
        model: a vision encoder of timm, transformers or open_clip, or any module whose attention
            calls ``scaled_dot_product_attention``. It is changed in place, its weights are not.
        config: what prompts, and where; by default EPT-deep with the way ``concat``.
        image_size: pixels a side, or (height, width), of the input that prompts are made for; by
            default what the model says of itself. Images of other sizes work too: prompts are then
            interpolated over the token grid.

    It ends with one pass of a test image, forward and backward, which proves that each prompt
    changes the output. If one does not, the model is refused, and left as it was.

    Raises:
        InputError: if ``model`` is no module, holds prompts already, is compiled or wrapped for
            several processes, has no self-attention that can be prompted, or one whose prompt
            would not act.
    """
    if not isinstance(model, nn.Module):
        raise EncoderError(f"{model!r}: give the model itself, such as timm.create_model(NAME)")
    _refuse_wrapped(model)
    sites, left_out = find_all_attentions(model, image_size)
    return attach_at(model, sites, config or EmbeddedPromptConfig(), left_out)


def attach_at(
    model: nn.Module,
    sites: tuple[AttentionSite, ...],
    config: EmbeddedPromptConfig,
    left_out: tuple[LeftOut, ...] = (),
) -> Handle:
    """:func:`attach` for a model whose self-attentions are known."""
    _refuse_wrapped(model)
    handle = Handle(model, sites, left_out)
    try:
        handle.add(DEFAULT, config)
        handle.use(DEFAULT)
        prove(model, {sites[i]: prompt for i, prompt in handle.prompts.items()})
    except BaseException:
        handle.detach()
        raise
    return handle


def _refuse_wrapped(model: nn.Module) -> None:
    if any(isinstance(module, EmbeddedPrompt) for module in model.modules()):
        raise EncoderError("this model already holds prompts: detach them first")
    if hasattr(model, "_orig_mod"):  # torch.compile's wrapper, whose import takes a second
        raise EncoderError("this model is compiled: attach to the model first, then compile it")
    if isinstance(model, DistributedDataParallel):
        raise EncoderError(
            "this model is wrapped by DistributedDataParallel, which would not see the prompts: "
            "attach to the model first, then wrap it"
        )


class Handle:
    """The prompts attached to a model: what :func:`attach` returns.

    A model can hold several adapters, of which one is in use (:meth:`add`, :meth:`use`).

    >>> import timm, torch
    >>> model = timm.create_model("test_vit")
    >>> handle = attach(model, EmbeddedPromptConfig(length=10))
    >>> with torch.no_grad(), handle.recording():
    ...     logits = model(torch.zeros(1, 3, 160, 160))
    >>> handle.gates()[0].shape  # of the first layer: 2 heads, 1 class token and 10 x 10 patches
    torch.Size([1, 2, 101])
    >>> handle.merge()[0].shape  # one number per token, with the same output
    torch.Size([101])
    >>> handle.detach()

    Attributes:
        model: the model.
        sites: every self-attention that can be prompted, in order of execution.
        left_out: the attentions that cannot be, and why.
        adapters: prompts by adapter name and layer index, counted from 0.
        prompts: those of the adapter in use.
    """

    def __init__(
        self,
        model: nn.Module,
        sites: tuple[AttentionSite, ...],
        left_out: tuple[LeftOut, ...] = (),
    ) -> None:
        self.model, self.sites, self.left_out = model, sites, left_out
        self.adapters: dict[str, dict[int, EmbeddedPrompt]] = {}
        self.prompts: dict[int, EmbeddedPrompt] = {}
        self._undo = Undo()
        self._watches = watch_grids(sites, self._undo)
        use_sdpa(model, self._undo)
        for parameter in model.parameters():
            self._undo.callback(parameter.requires_grad_, parameter.requires_grad)
            parameter.requires_grad_(False)

    def __repr__(self) -> str:
        numbers = sum(parameter.numel() for parameter in self.parameters())
        found = len(self.sites) + sum(each.why != POOLING for each in self.left_out)
        return (
            f"Handle({type(self.model).__name__}: {len(self.prompts)} of {found} "
            f"attentions prompted, {numbers:,} numbers; adapters: {', '.join(self.adapters)}"
            f"{self._one_size()}{'; left out: ' if self.left_out else ''}"
            f"{describe(self.left_out)})"
        )

    def _one_size(self) -> str:
        """That prompts serve no other size of image; empty if they serve others."""
        fixed = [i for i, p in self.prompts.items() if p.way != "keys" and not all(p.grid)]
        if not fixed:
            return ""
        height, width = self.sites[fixed[0]].image
        return f"; images of {height} x {width} pixels alone, as its tokens form no grid"

    def add(self, name: str, config: EmbeddedPromptConfig) -> None:
        """Hold one more adapter, with its own prompts in its own layers.

        Raises:
            InputError: if the name is taken, or the configuration names a layer that the model
                does not have.
        """
        if name in self.adapters:
            raise EncoderError(f"an adapter named {name!r} is held already")
        device = next(self.model.parameters()).device
        self.adapters[name] = {
            i: EmbeddedPrompt(
                config,
                heads=self.sites[i].heads,
                width=self.sites[i].width,
                prefix=self.sites[i].prefix,
                grid=self.sites[i].grid,
                watch=self._watches.get(self.sites[i].patches),
            ).to(device)
            for i in config.chosen_layers(len(self.sites))
        }

    def use(self, name: str) -> None:
        """Switch to another adapter, which sets one pointer per layer.

        Nothing is copied, unless the model was moved to another device in the meantime.

        Raises:
            InputError: if there is no adapter of this name.
        """
        if name not in self.adapters:
            raise EncoderError(
                f"no adapter named {name!r} is held, only {', '.join(self.adapters)}"
            )
        self.prompts = self.adapters[name]
        device = next(self.model.parameters()).device
        for prompt in self.prompts.values():
            prompt.to(device)
        for i, site in enumerate(self.sites):
            if i in self.prompts and not isinstance(site.module, PromptedAttention):
                _make_prompted(site.module, self._undo)
            if isinstance(site.module, PromptedAttention):
                site.module.embedded_prompt = self.prompts.get(i)

    def parameters(self) -> Iterator[nn.Parameter]:
        """The prompts in use, first layer first."""
        return (prompt.prompt for prompt in self.prompts.values())

    @contextmanager
    def recording(self) -> Iterator[None]:
        """While it is open, each forward pass keeps what :meth:`gates` and :meth:`attention` give.

        Only the ways ``concat`` and ``keys`` have gates: a forward pass with prompts of another
        raises InputError.
        """
        for prompt in self.prompts.values():
            prompt.recording = True
        try:
            yield
        finally:
            for prompt in self.prompts.values():
                prompt.recording = False

    def gates(self) -> dict[int, Tensor]:
        """Gates of the last recorded forward pass: layer index -> (B, H, T), from 0 to 1.

        A gate is the factor sigmoid(z - s) by which a prompt scales the attention output of one
        head and token.

        Raises:
            InputError: if no forward pass ran inside :meth:`recording`.
        """
        if any(prompt.recorded is None for prompt in self.prompts.values()):
            raise EncoderError(
                "no gates were recorded: run the model inside `with handle.recording():` first"
            )
        return {i: p.recorded for i, p in self.prompts.items() if p.recorded is not None}

    def attention(self) -> dict[int, Tensor]:
        """Attention of the last recorded forward pass, without its gates: index -> (B, T, T).

        Mean over heads, for the layers that have prompts.

        Raises:
            InputError: as :meth:`gates`.
        """
        self.gates()
        return {
            i: p.recorded_attention
            for i, p in self.prompts.items()
            if p.recorded_attention is not None
        }

    def merge(self) -> dict[int, Tensor]:
        """Replace every prompt in use by one logit per token, with the same output.

        Keys stay what they are: they are as small as they get.

        Merge after training: the optimiser holds the parameters that are replaced.

        Returns:
            The logits by layer index: (T,), or (H, T) with one prompt per head. Of the way ``keys``
            the keys, (H, L, d).

        Raises:
            InputError: for a way other than ``concat`` and ``keys``.
        """
        for prompt in self.prompts.values():
            prompt.merge()
        return {i: prompt.prompt.detach() for i, prompt in self.prompts.items()}

    def state_dict(self, *, all: bool = False) -> dict[str, Tensor]:
        """The prompts in use by name, ``layer.<index>``: detached, not copied.

        The model's own ``state_dict()`` holds those in use too, and no others.

        Args:
            all: the prompts of every adapter, ``<adapter>.layer.<index>``.
        """
        return {
            key: prompt.prompt.detach() for key, prompt in (self._all if all else self._own).items()
        }

    @property
    def _own(self) -> dict[str, EmbeddedPrompt]:
        return {f"layer.{i}": prompt for i, prompt in self.prompts.items()}

    @property
    def _all(self) -> dict[str, EmbeddedPrompt]:
        return {
            f"{name}.layer.{i}": prompt
            for name, prompts in self.adapters.items()
            for i, prompt in prompts.items()
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Load saved prompts, full or merged, into the adapter in use.

        What ``state_dict(all=True)`` gave goes into the adapters of the same names.

        Raises:
            InputError: if they are of other layers or adapters, or their shapes do not fit.
        """
        prompts = next((p for p in (self._own, self._all) if p.keys() == state.keys()), None)
        if prompts is None:
            raise EncoderError(
                f"prompts of layers {sorted(state)} were given for a model that has "
                f"{sorted(self._own)}, or with all adapters {sorted(self._all)}"
            )
        for key, prompt in prompts.items():
            prompt.load(state[key])

    def detach(self) -> None:
        """Take all prompts out: the model is again exactly what it was before :func:`attach`."""
        self._undo.close()
        self.adapters, self.prompts = {}, {}


class PromptedAttention(nn.Module):
    """What an attention becomes while a :class:`Handle` is attached: its own class beneath this.

    Attributes:
        embedded_prompt: the prompt in use; None where the adapter in use has none.
    """

    embedded_prompt: EmbeddedPrompt | None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self.embedded_prompt is None:
            return super().forward(*args, **kwargs)
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            _refuse_unsynchronised(self.embedded_prompt.prompt)
        return divert_one_call(self.embedded_prompt, super().forward, *args, **kwargs)

    def __reduce_ex__(self, _: Any) -> tuple[Any, ...]:
        return _empty_prompted, (type(self).__bases__[1],), self.__dict__


@cache
def _prompted(attention: type) -> type[PromptedAttention]:
    """The subclass of an attention class that attends through its ``embedded_prompt``."""
    return type(f"Prompted{attention.__name__}", (PromptedAttention, attention), {})


def _empty_prompted(attention: type) -> nn.Module:
    """A prompted attention for ``copy`` and ``pickle`` to fill: its class has no name to find."""
    kind = _prompted(attention)
    return kind.__new__(kind)


def _make_prompted(module: nn.Module, undo: ExitStack) -> None:
    """Give an attention a place for a prompt."""
    original: type = type(module)
    module.__class__ = _prompted(original)
    module.embedded_prompt = None  # type: ignore[assignment]
    keep_off_the_fast_path(module, undo)
    undo.callback(_restore, module, original)


def _restore(module: nn.Module, original: type) -> None:
    del module.embedded_prompt
    module.__class__ = original


def _refuse_unsynchronised(prompt: nn.Parameter) -> None:
    """Refuse to train a prompt that the DistributedDataParallel around the model does not see."""
    wrapper = DistributedDataParallel._active_ddp_module
    if wrapper is None or not prompt.requires_grad:
        return
    if not any(prompt is seen for seen in wrapper._module_parameters):
        raise EncoderError(
            "DistributedDataParallel does not average the gradients of an adapter that came into "
            "use after it wrapped the model: choose the adapter first, then wrap the model"
        )
