"""How an encoder is adapted: one file a method, and this registry.

Every module here is imported, and a method is registered by its class. ``base``, ``features``,
``own_parameters``, ``peft_tuners`` and ``token_prompts`` hold what several methods share.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from torch import nn

from medept.encoders.encoder import Encoder
from medept.errors import SettingsError, problems
from medept.methods.base import METHODS, AdaptedEncoder, MethodSettings

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")


def find_method(name: str) -> type[AdaptedEncoder]:
    """The method of this name; ``partial-2`` and ``mlp-3`` name a method with its k.

    Raises:
        InputError: if there is none; the message lists those there are.
    """
    name = _split(name)[0]
    if name not in METHODS:
        raise SettingsError(f"no method is named {name!r}: use one of {', '.join(sorted(METHODS))}")
    return METHODS[name]


def read_settings(name: str, values: dict[str, Any] | None = None) -> MethodSettings:
    """Settings of the named method; what is left out has the method's default.

    Raises:
        InputError: if a setting is unknown or out of range.
    """
    method = find_method(name)
    named, values = named_settings(name), values or {}
    for key in named.keys() & values.keys():
        if values[key] != named[key]:
            raise SettingsError(
                f"{key}={values[key]} for {name!r}: its name says {key}={named[key]}"
            )
    given = named | values
    known = ", ".join(shown_settings(method)) or "none"
    if unknown := [key for key in given if key not in method.Settings.model_fields]:
        raise SettingsError(
            f"the method {name!r} has no setting {', '.join(unknown)} (its settings are: {known})"
            + _others(unknown[0])
        )
    try:
        return method.Settings(**given)
    except ValidationError as error:
        raise SettingsError(
            f"method {name!r}: {problems(error)} (its settings are: {known})"
        ) from error


def shown_settings(method: type[AdaptedEncoder]) -> dict[str, FieldInfo]:
    """A method's settings by name, without those that are no part of what it is (a kernel)."""
    fields = method.Settings.model_fields
    return {name: field for name, field in fields.items() if not field.exclude}


def _others(setting: str) -> str:
    """Which methods do have a setting, for the message to who gave it to another."""
    owners = sorted(name for name, m in METHODS.items() if setting in m.Settings.model_fields)
    return f"; {setting} is one of {', '.join(owners)}" if owners else ""


def named_settings(name: str) -> dict[str, Any]:
    """What a method's name says of its settings: the k of ``partial-2``."""
    return _split(name)[1]


def _split(name: str) -> tuple[str, dict[str, Any]]:
    method, dash, k = name.rpartition("-")
    return (method, {"k": int(k)}) if dash and k.isdigit() else (name, {})


def adapt(
    encoder: Encoder, name: str, classes: int, settings: dict[str, Any] | None = None
) -> AdaptedEncoder:
    """``encoder`` adapted to ``classes`` classes by the named method, ready to be trained."""
    return find_method(name)(encoder, classes, read_settings(name, settings))


def trained_of(
    encoder: Encoder, name: str, settings: dict[str, Any] | None = None
) -> list[nn.Parameter]:
    """The encoder's own parameters that the named method trains."""
    return find_method(name).own(encoder, read_settings(name, settings))


__all__ = [
    "METHODS",
    "AdaptedEncoder",
    "MethodSettings",
    "adapt",
    "find_method",
    "named_settings",
    "read_settings",
    "shown_settings",
    "trained_of",
]
