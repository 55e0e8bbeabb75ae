"""medept adapts frozen vision foundation models to medical images from a few labelled examples."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medept.classifier.classifier import FewShotClassifier
    from medept.encoders.encoder import Encoder
    from medept.encoders.load import load_encoder
    from medept.ept.attach import Handle, attach
    from medept.ept.config import EmbeddedPromptConfig
    from medept.errors import InputError
    from medept.methods.plugins import load_plugin

__version__ = version("medept")

_HOME = {
    "attach": "medept.ept.attach",
    "Handle": "medept.ept.attach",
    "FewShotClassifier": "medept.classifier.classifier",
    "Encoder": "medept.encoders.encoder",
    "load_encoder": "medept.encoders.load",
    "load_plugin": "medept.methods.plugins",
    "InputError": "medept.errors",
    "EmbeddedPromptConfig": "medept.ept.config",
}
"""Public names load their module on first use, so that ``import medept`` is fast."""

__all__ = [
    "EmbeddedPromptConfig",
    "Encoder",
    "FewShotClassifier",
    "Handle",
    "InputError",
    "attach",
    "load_encoder",
    "load_plugin",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'medept' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
