"""Embedded Prompt Tuning as a method of Hugging Face peft.

Import this module, and ``get_peft_model(model, EptConfig(...))``, ``save_pretrained`` and
``PeftModel.from_pretrained`` work for EPT as for peft's own methods, on any encoder that
:func:`medept.attach` serves.

peft registers methods through ``register_peft_method``, but wants the method's name to be a member
of its ``PeftType`` enumeration, and has no way to extend that. So this module adds the member
``EPT`` when it is imported. It patches nothing else; :func:`_register` does it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils import PeftType, register_peft_method
from torch import nn

from medept.ept.config import EmbeddedPromptConfig
from medept.ept.divert import divert_one_call
from medept.ept.grid import GridWatch
from medept.ept.prompts import EmbeddedPrompt
from medept.ept.proof import prove
from medept.ept.sites import AttentionSite, find_attentions, use_sdpa, watch_grids
from medept.ept.undo import Undo
from medept.errors import EncoderError, SettingsError


@dataclass
class EptConfig(PeftConfig):
    """EPT's configuration in peft: the fields of ``EmbeddedPromptConfig`` that are saved.

    Its ``frozen`` is peft's ``inference_mode``.

    >>> EptConfig(length=20, layers="9-12").prompt().chosen_layers(12)
    [8, 9, 10, 11]

    Args:
        length: as in :class:`medept.ept.config.EmbeddedPromptConfig`, like the next five.
        layers: which self-attentions, counted from 1.
        way: how the prompt enters the logits.
        init: initial values.
        per_head: one prompt for each head.
        collapsed: one number per token.
        image_size: pixels a side of the input that prompts are made for; by default what the model
            says of itself.
        target_modules: names of attentions, or their last parts, or a regular expression that
            their names match, to which ``layers`` is narrowed down; ``get_peft_model`` fills in
            the full names of those that it prompts.
        exclude_modules: the same, of attentions that are left out.
        modules_to_save: peft's: other modules that are trained and saved, such as the head.
    """

    length: int | str = field(default="auto")
    layers: str | list[int] = field(default="all")
    way: str = field(default="concat")
    init: str = field(default="normal")
    per_head: bool = field(default=False)
    collapsed: bool = field(default=False)
    image_size: int | None = field(default=None)
    target_modules: list[str] | str | None = field(default=None)
    exclude_modules: list[str] | str | None = field(default=None)
    modules_to_save: list[str] | None = field(default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType.EPT

    def prompt(self) -> EmbeddedPromptConfig:
        """The same as medept's own configuration.

        Raises:
            pydantic.ValidationError: as :class:`medept.ept.config.EmbeddedPromptConfig`.
        """
        return EmbeddedPromptConfig.model_validate(
            {
                "length": self.length,
                "layers": self.layers,
                "way": self.way,
                "init": self.init,
                "per_head": self.per_head,
                "collapsed": self.collapsed,
            }
        )


class EptLayer(nn.Module, BaseTunerLayer):
    """An attention, and each adapter's prompt for it."""

    adapter_layer_names = ("ept_prompts",)
    base_layer: nn.Module
    ept_prompts: nn.ModuleDict
    active_adapters: list[str]
    disable_adapters: bool
    _active_adapter: list[str] | str
    _disable_adapters: bool
    set_adapter: Callable[..., None]

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.ept_prompts = nn.ModuleDict()
        self.merged_adapters: list[str] = []

    def update_layer(
        self, name: str, config: EptConfig, site: AttentionSite, watch: GridWatch | None
    ) -> None:
        """Add the prompt of one more adapter."""
        prompt = EmbeddedPrompt(
            config.prompt(),
            heads=site.heads,
            width=site.width,
            prefix=site.prefix,
            grid=site.grid,
            watch=watch,
        )
        if not prompt.prompt.is_meta:  # low_cpu_mem_usage: its values are loaded afterwards
            like = next(self.base_layer.parameters())
            prompt.to(like.device, like.dtype if like.is_floating_point() else None)
        self.ept_prompts[name] = prompt
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        active = [name for name in self.active_adapters if name in self.ept_prompts]
        if self.disable_adapters or not active:
            return self.base_layer(*args, **kwargs)
        if len(active) > 1:
            raise SettingsError(f"prompts are used one at a time: set one adapter, not {active}")
        return divert_one_call(self.ept_prompts[active[0]], self.base_layer, *args, **kwargs)

    def merge(self, *_: Any, **__: Any) -> None:
        """Refuse: there is no weight that a prompt inside the softmax could be merged into."""
        raise SettingsError(
            "prompts act inside the softmax and cannot become a part of the weights: keep the "
            "adapter beside the model, or unload() it"
        )

    def unmerge(self) -> None:
        """Do nothing: no prompt is ever merged."""


class EptModel(BaseTuner):
    """peft's tuner: wraps each chosen attention in an :class:`EptLayer`."""

    prefix = "ept_"
    tuner_layer_cls = EptLayer
    _sites: dict[str, AttentionSite] | None = None

    def _prepare_adapter_config(self, config: EptConfig, model_config: Any) -> EptConfig:
        return config

    def inject_adapter(
        self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any
    ) -> None:
        config = self.peft_config[adapter_name]
        if self._sites is None and any(isinstance(m, EptLayer) for m in model.modules()):
            raise SettingsError(
                "this model holds adapters of EPT already: use add_adapter() of its PeftModel, or "
                "unload() it first"
            )
        if self._sites is None:  # the first adapter, which the base class injects
            self._undo = Undo()
            use_sdpa(model, self._undo)
            self._sites = {s.name: s for s in find_attentions(model, config.image_size)}
            self._watches = watch_grids(self._sites.values(), self._undo)
            self._image_size = config.image_size
        elif config.image_size != self._image_size:
            raise SettingsError(
                f"image_size={config.image_size}: the first adapter has {self._image_size}; give "
                "all adapters of a model one size"
            )
        config.target_modules = _targets(config, list(self._sites))
        trained = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
        first = not any(isinstance(m, EptLayer) for m in model.modules())
        super().inject_adapter(model, adapter_name, *args, **kwargs)
        try:
            self._prove(model, adapter_name)
        except EncoderError:
            if first:
                self.unload()
            else:
                self.delete_adapter(adapter_name)
            for parameter, before in trained:
                parameter.requires_grad_(before)
            raise

    def _prove(self, model: nn.Module, adapter_name: str) -> None:
        """Refuse an adapter of which a prompt changes nothing in the output, as ``attach`` does."""
        assert self._sites is not None, "inject_adapter has found them"
        prompts = {}
        with ExitStack() as stack:
            for name, layer in model.named_modules():
                if not isinstance(layer, EptLayer):
                    continue
                stack.callback(setattr, layer, "_active_adapter", layer._active_adapter)
                stack.callback(setattr, layer, "_disable_adapters", layer._disable_adapters)
                layer._active_adapter, layer._disable_adapters = [adapter_name], False
                if adapter_name in layer.ept_prompts:
                    prompt = layer.ept_prompts[adapter_name]
                    assert isinstance(prompt, EmbeddedPrompt)
                    prompts[self._sites[name]] = prompt
            prove(model, prompts)

    def _create_and_replace(
        self,
        config: EptConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        **_: Any,
    ) -> None:
        if not isinstance(target, EptLayer):
            layer = EptLayer(target)
            layer.set_adapter(adapter_name)
            setattr(parent, target_name, layer)
            target = layer
        assert self._sites is not None, "inject_adapter has found them"
        site = self._sites[current_key]
        target.update_layer(adapter_name, config, site, self._watches.get(site.patches))
        if adapter_name not in self.active_adapters:
            target.ept_prompts[adapter_name].requires_grad_(False)

    @contextmanager
    def _enable_peft_forward_hooks(self, *_: Any, **options: Any) -> Iterator[None]:
        if options.get("adapter_names") is not None:
            raise SettingsError(
                "adapter_names=: prompts of several adapters cannot act in one batch; split it, "
                "and set_adapter() for each part"
            )
        yield

    def add_weighted_adapter(self, *_: Any, **__: Any) -> None:
        """Refuse: a sum of prompts does not do what its parts do, as they act in an exponent."""
        raise SettingsError(
            "prompts act in an exponent, and cannot be added up: train an adapter of its own"
        )

    def unload(self) -> nn.Module:
        """Give the model back as it was, except for ``modules_to_save``, which stay trained."""
        model = super().unload()
        self._undo.close()
        return model

    def _replace_module(
        self, parent: nn.Module, name: str, module: nn.Module, _: nn.Module
    ) -> None:
        """Put the module itself back; peft's own method expects the weight of a linear layer."""
        setattr(parent, name, module)


def _targets(config: EptConfig, attentions: list[str]) -> list[str]:
    """Names of the attentions that a configuration chooses.

    Raises:
        SettingsError: if ``target_modules`` names none of its ``layers``.
    """
    chosen = [attentions[i] for i in config.prompt().chosen_layers(len(attentions))]
    if not config.target_modules:
        return chosen
    wanted = config.target_modules
    if isinstance(wanted, str):
        targets = [name for name in chosen if re.fullmatch(wanted, name)]
    else:
        targets = [name for name in chosen if f".{name}".endswith(tuple(f".{x}" for x in wanted))]
    if not targets:
        raise SettingsError(
            f"target_modules={config.target_modules}: none of them is an attention that can be "
            f"prompted, in the chosen layers. Those are {', '.join(chosen)}"
        )
    return targets


def _register() -> None:
    if "EPT" in PeftType._member_map_:
        return
    member = str.__new__(PeftType, "EPT")
    member._name_ = member._value_ = "EPT"
    type.__setattr__(PeftType, "EPT", member)
    PeftType._member_map_["EPT"] = PeftType._value2member_map_["EPT"] = member
    PeftType._member_names_.append("EPT")
    register_peft_method(name="ept", config_cls=EptConfig, model_cls=EptModel)


_register()
