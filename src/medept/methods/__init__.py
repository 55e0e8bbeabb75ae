"""How an encoder is adapted: one file per method, and this registry.

Every module here is imported, which registers its method by its class. ``base``, ``heads``,
``features``, ``own_parameters``, ``peft_tuners``, ``pooling``, ``attention_pooling`` and
``token_prompts`` are shared by several. Methods from outside are registered by ``plugins``.

>>> from medept.encoders.load import load_encoder
>>> model = adapt(load_encoder("test_vit", weights="random"), "ept", classes=3)
>>> model.trainable_count()
6255
>>> model.remove()  # gives the encoder back as it was
"""

from __future__ import annotations

import re
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from torch import nn

from medept.encoders.encoder import Encoder
from medept.errors import SettingsError, problems
from medept.methods.base import METHODS, AdaptedEncoder, MethodSettings
from medept.methods.features import FeatureMethod
from medept.methods.plugins import Plugin, load_packaged, load_plugin, packaged, plugin_of
from medept.methods.pooling import POOLS, Pool

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")


def find_method(name: str) -> type[AdaptedEncoder]:
    """The class of the method with this name. ``partial-2`` and ``mlp-3`` name a method and its k.

    >>> find_method("partial-2").summary
    'the last k blocks'

    A method that is not registered is looked for among those that installed packages offer.

    Raises:
        InputError: if there is no such method; the message lists those there are.
    """
    name = _split(name)[0]
    if name not in METHODS:
        load_packaged(name)
    if name not in METHODS:
        there = ", ".join(sorted({*METHODS, *packaged()}))
        raise SettingsError(
            f"no method is named {name!r}: use one of {there}, or load your own from its file with "
            "medept.load_plugin (plugin= of a command)"
        )
    return METHODS[name]


def is_known(name: str) -> bool:
    """Whether there is a method of this name, be it in a package that cannot be imported.

    >>> is_known("partial-2"), is_known("nothing")
    (True, False)
    """
    return _split(name)[0] in {*METHODS, *packaged()}


def read_settings(name: str, values: dict[str, Any] | None = None) -> MethodSettings:
    """Settings of the named method; those left out have the method's defaults.

    >>> read_settings("lora", {"rank": 4})
    Settings(rank=4, alpha=None, init='kaiming')
    >>> read_settings("partial-2")
    Settings(k=2)

    Raises:
        InputError: if a setting is unknown, out of range, or contradicts the name.
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
    """A method's settings by name, without those that change no result (such as ``kernel``)."""
    fields = method.Settings.model_fields
    return {name: field for name, field in fields.items() if not field.exclude}


def _others(setting: str) -> str:
    """The end of a message about a setting that belongs to other methods: which ones."""
    owners = sorted(name for name, m in METHODS.items() if setting in m.Settings.model_fields)
    return f"; {setting} is one of {', '.join(owners)}" if owners else ""


def named_settings(name: str) -> dict[str, Any]:
    """The settings that a method's name gives.

    >>> named_settings("partial-2")
    {'k': 2}
    """
    return _split(name)[1]


def _split(name: str) -> tuple[str, dict[str, Any]]:
    found = re.fullmatch("(.*)-([0-9]{1,9})", name)
    return (found[1], {"k": int(found[2])}) if found else (name, {})


def adapt(
    encoder: Encoder,
    name: str,
    classes: int,
    settings: dict[str, Any] | None = None,
    pool: str = "mean",
) -> AdaptedEncoder:
    """Adapt an encoder, in place, by the named method, ready to be trained.

    Args:
        encoder: from :func:`medept.encoders.load.load_encoder`.
        name: of the method, such as ``ept`` or ``partial-2``.
        classes: the number of classes or labels.
        settings: of the method, by name; those left out have its defaults.
        pool: how the features of a case come from those of its images: ``mean``, ``max`` or
            ``attention`` (:mod:`medept.methods.pooling`).

    Raises:
        InputError: if there is no such method, a setting is wrong, or the method cannot adapt this
            encoder or does not go with the pooling.
    """
    pooling = find_pool(pool, name)
    model = find_method(name)(encoder, classes, read_settings(name, settings))
    model.pool = pooling()
    return model


def find_pool(pool: str, method: str) -> type[Pool]:
    """The class of the pooling of this name.

    Raises:
        SettingsError: if there is none, or the method does not go with it.

    >>> find_pool("max", "ept").name
    'max'
    """
    if pool not in POOLS:
        raise SettingsError(f"pool={pool!r}: use one of {', '.join(POOLS)}")
    if POOLS[pool].learns and not issubclass(find_method(method), FeatureMethod):
        fitted = [name for name, kind in METHODS.items() if issubclass(kind, FeatureMethod)]
        raise SettingsError(
            f"pool={pool!r} is learnt from frozen features, and goes with the methods "
            f"{', '.join(sorted(fitted))}; use mean or max with {method}"
        )
    return POOLS[pool]


def trained_of(
    encoder: Encoder, name: str, settings: dict[str, Any] | None = None
) -> list[nn.Parameter]:
    """The encoder's own parameters that the named method trains: none for most."""
    return find_method(name).own(encoder, read_settings(name, settings))


__all__ = [
    "METHODS",
    "AdaptedEncoder",
    "MethodSettings",
    "Plugin",
    "adapt",
    "find_method",
    "find_pool",
    "is_known",
    "load_packaged",
    "load_plugin",
    "named_settings",
    "packaged",
    "plugin_of",
    "read_settings",
    "shown_settings",
    "trained_of",
]
