"""How an encoder is adapted: one file a method, and this registry."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from medept.encoders import Encoder
from medept.errors import InputError, problems
from medept.methods.adaptformer import AdaptFormer
from medept.methods.base import AdaptedEncoder, MethodSettings
from medept.methods.ept import EmbeddedPromptTuning
from medept.methods.features import Neighbours, Probe, Prototypes
from medept.methods.linear import Linear
from medept.methods.mlp import MLP
from medept.methods.tuned import Bias, Full, Partial
from medept.methods.tuners import IA3, DoRA, LoRA, NormTuning
from medept.methods.vpt import AddedPrompts, VisualPromptTuning

METHODS: dict[str, type[AdaptedEncoder]] = {
    method.name: method
    for method in (
        Linear, EmbeddedPromptTuning, VisualPromptTuning, AddedPrompts, LoRA, DoRA, IA3,
        AdaptFormer, Bias, NormTuning, Partial, MLP, Full, Probe, Neighbours, Prototypes,
    )
}  # fmt: skip


def find_method(name: str) -> type[AdaptedEncoder]:
    """The method of this name; ``partial-2`` and ``mlp-3`` name a method with its k.

    Raises:
        InputError: if there is none; the message lists those there are.
    """
    name = _split(name)[0]
    if name not in METHODS:
        raise InputError(f"no method is named {name!r}: use one of {', '.join(METHODS)}")
    return METHODS[name]


def read_settings(name: str, values: dict[str, Any] | None = None) -> MethodSettings:
    """Settings of the named method; what is left out has the method's default.

    Raises:
        InputError: if a setting is unknown or out of range.
    """
    method = find_method(name)
    try:
        return method.Settings(**(_split(name)[1] | (values or {})))
    except ValidationError as error:
        known = ", ".join(method.Settings.model_fields) or "none"
        raise InputError(
            f"method {name!r}: {problems(error)} (its settings are: {known})"
        ) from error


def _split(name: str) -> tuple[str, dict[str, Any]]:
    method, dash, k = name.rpartition("-")
    return (method, {"k": int(k)}) if dash and k.isdigit() else (name, {})


def adapt(
    encoder: Encoder, name: str, classes: int, settings: dict[str, Any] | None = None
) -> AdaptedEncoder:
    """``encoder`` adapted to ``classes`` classes by the named method, ready to be trained."""
    return find_method(name)(encoder, classes, read_settings(name, settings))


__all__ = ["METHODS", "AdaptedEncoder", "MethodSettings", "adapt", "find_method", "read_settings"]
