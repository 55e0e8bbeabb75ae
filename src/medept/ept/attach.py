"""Puts embedded prompts into any encoder's attention, and takes them out again.

Each self-attention that :mod:`medept.ept.sites` finds and the configuration chooses has its call
of ``scaled_dot_product_attention`` diverted into its layer's
:class:`~medept.ept.prompts.EmbeddedPrompt`.
Whatever else the attention does (fused or separate projections, query and key norms, rotary
embeddings, masks) stays its own code. A prompted attention keeps its class's behaviour through a
subclass made on the spot, as ``torch.nn.utils.parametrize`` does; :meth:`Handle.detach` gives the
class back.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any

from torch import Tensor, nn

from medept.ept.divert import Divert
from medept.ept.prompts import EmbeddedPrompt, EmbeddedPromptConfig
from medept.ept.sites import AttentionSite, find_attentions, use_sdpa
from medept.errors import EncoderError

DEFAULT = "default"
"""The name of the adapter that :func:`attach` makes."""


class Handle:
    """Prompts attached to a model.

    Several adapters may be held at once, of which one is in use: :meth:`add` and :meth:`use`.

    Attributes:
        sites: every self-attention found, in order of execution.
        adapters: prompts by adapter name and layer index, counted from 0.
        prompts: those in use.
    """

    def __init__(self, model: nn.Module, sites: tuple[AttentionSite, ...], undo: ExitStack) -> None:
        self.model, self.sites, self._undo = model, sites, undo
        self.adapters: dict[str, dict[int, EmbeddedPrompt]] = {}
        self.prompts: dict[int, EmbeddedPrompt] = {}

    def __repr__(self) -> str:
        numbers = sum(parameter.numel() for parameter in self.parameters())
        return (
            f"Handle({type(self.model).__name__}: {len(self.prompts)} of {len(self.sites)} "
            f"attentions prompted, {numbers:,} numbers; adapters: {', '.join(self.adapters)})"
        )

    def add(self, name: str, config: EmbeddedPromptConfig) -> None:
        """Hold one more adapter, with prompts of its own in layers of its own.

        Raises:
            InputError: if there is one of this name, or a layer that the model does not have.
        """
        if name in self.adapters:
            raise EncoderError(f"an adapter named {name!r} is held already")
        device = next(self.model.parameters()).device
        self.adapters[name] = {
            i: EmbeddedPrompt(
                config,
                heads=self.sites[i].heads,
                prefix=self.sites[i].prefix,
                grid=self.sites[i].grid,
            ).to(device)
            for i in config.chosen_layers(len(self.sites))
        }

    def use(self, name: str) -> None:
        """Switch to an adapter that is held: a pointer a layer.

        Nothing is computed, and nothing copied unless the model was moved to another device.

        Raises:
            InputError: if none of this name is held.
        """
        if name not in self.adapters:
            raise EncoderError(
                f"no adapter named {name!r} is held, only {', '.join(self.adapters)}"
            )
        self.prompts = self.adapters[name]
        device = next(self.model.parameters()).device
        for prompt in self.prompts.values():  # the model may have been moved since
            prompt.to(device)
        for i, site in enumerate(self.sites):
            if i in self.prompts and not hasattr(site.module, "embedded_prompt"):
                _embed(site.module, self._undo)
            if hasattr(site.module, "embedded_prompt"):
                site.module.embedded_prompt = self.prompts.get(i)  # type: ignore[assignment]

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
            raise EncoderError(
                "no gates were recorded: run the model inside `with handle.recording():` first"
            )
        return {i: p.recorded for i, p in self.prompts.items() if p.recorded is not None}

    def attention(self) -> dict[int, Tensor]:
        """Attention of the last recorded forward pass, before its gate: index -> (B, T, T).

        Mean over heads; the layers that hold prompts, as in :meth:`gates`.
        """
        self.gates()
        return {
            i: p.recorded_attention
            for i, p in self.prompts.items()
            if p.recorded_attention is not None
        }

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
            raise EncoderError(
                f"prompts of layers {sorted(state)} were given for a model that has "
                f"{sorted(expected)}"
            )
        for i, prompt in self.prompts.items():
            prompt.load(state[f"layer.{i}"])

    def detach(self) -> None:
        """Take all prompts out: the model is again exactly what it was before :func:`attach`."""
        self._undo.close()
        self.adapters, self.prompts = {}, {}


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
        InputError: if ``model`` is no module, has prompts already, or no self-attention that can
            be served.
    """
    config = config or EmbeddedPromptConfig()
    if not isinstance(model, nn.Module):
        raise EncoderError(f"{model!r}: give the model itself, such as timm.create_model(NAME)")
    _refuse_prompted(model)
    with ExitStack() as stack:
        use_sdpa(model, stack)
        sites = find_attentions(model, image_size)
    return attach_at(model, sites, config)


def attach_at(
    model: nn.Module, sites: tuple[AttentionSite, ...], config: EmbeddedPromptConfig
) -> Handle:
    """:func:`attach` where the self-attentions of ``model`` are known."""
    _refuse_prompted(model)
    with ExitStack() as stack:
        use_sdpa(model, stack)
        for parameter in model.parameters():
            stack.callback(parameter.requires_grad_, parameter.requires_grad)
            parameter.requires_grad_(False)
        handle = Handle(model, sites, stack)
        handle.add(DEFAULT, config)
        handle.use(DEFAULT)
        handle._undo = stack.pop_all()
    return handle


def _refuse_prompted(model: nn.Module) -> None:
    if any(isinstance(module, EmbeddedPrompt) for module in model.modules()):
        raise EncoderError("this model already holds prompts: detach them first")


# --- diverting them --------------------------------------------------------------------------


@cache
def _prompted(attention: type[nn.Module]) -> type[nn.Module]:
    """The subclass of an attention class that attends through its ``embedded_prompt``."""

    class Prompted(attention):  # type: ignore[misc, valid-type]
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            if self.embedded_prompt is None:
                return super().forward(*args, **kwargs)
            with Divert(self.embedded_prompt):
                return super().forward(*args, **kwargs)

        def __reduce_ex__(self, _: Any) -> tuple[Any, ...]:
            return _empty_prompted, (attention,), self.__dict__  # no module holds this class

    Prompted.__name__ = Prompted.__qualname__ = f"Prompted{attention.__name__}"
    return Prompted


def _empty_prompted(attention: type[nn.Module]) -> nn.Module:
    """A prompted attention to be filled by ``copy`` or ``pickle``."""
    kind = _prompted(attention)  # type: ignore[arg-type]
    return kind.__new__(kind)


def _embed(module: nn.Module, stack: ExitStack) -> None:
    """Give an attention a place for a prompt."""
    original = type(module)
    module.__class__ = _prompted(original)  # type: ignore[arg-type]
    module.embedded_prompt = None  # type: ignore[assignment]

    def undo() -> None:
        del module.embedded_prompt
        module.__class__ = original

    stack.callback(undo)
