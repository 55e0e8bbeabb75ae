"""What every method is: a frozen encoder, something small that is trained, and a head.

A method is one file with three parts: its ``Settings``; its class, which puts something into the
encoder (:meth:`AdaptedEncoder.insert`); and, where that is not simply what it trains, what the
adapter file keeps of it (:meth:`AdaptedEncoder.inserted_state`). It knows the encoder as a
:class:`medept.encoders.encoder.Encoder`, and so no library by name.
"""

from __future__ import annotations

import re
from contextlib import ExitStack
from typing import Any, ClassVar

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor, nn

from medept.encoders.encoder import Encoder
from medept.ept.attach import Handle
from medept.ept.prompts import EmbeddedPrompt
from medept.errors import EncoderError, SettingsError, problems
from medept.methods.heads import Head, LinearHead, copy_into
from medept.methods.pooling import MeanPool, Pool


class MethodSettings(BaseModel):
    """The settings of a method, with its paper's defaults. Users are shown their docstrings."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


METHODS: dict[str, type[AdaptedEncoder]] = {}
"""The registry: every method by its name."""


def _register(method: type[AdaptedEncoder]) -> None:
    """Register a method by its name; it replaces none but an earlier one of its own module."""
    name = method.name
    if name == "auto" or re.search("-[0-9]+$", name):
        raise SettingsError(
            f"a method cannot be named {name!r}: auto is a choice among methods, and a number at "
            "the end is the setting k; give it another name"
        )
    if not isinstance(getattr(method, "summary", None), str):
        raise SettingsError(
            f"the method {name!r} has no summary: say in a few words what it trains"
        )
    try:
        method.Settings()
    except ValidationError as error:
        raise SettingsError(
            f"the method {name!r} has a setting without a usable default ({problems(error)}): give "
            "it one"
        ) from error
    there = METHODS.get(name)
    if there is not None and there.__module__ != method.__module__:
        raise SettingsError(
            f"the name {name!r} is taken by the method of {there.__module__}: give the method "
            "another name"
        )
    METHODS[name] = method


class AdaptedEncoder(nn.Module):
    """An encoder adapted to a task: pixels (B, 3, H, W) -> logits (B, C).

    Use :func:`medept.methods.adapt` to make one.

    Args:
        encoder: what is adapted, in place; frozen, except for what the method trains.
            :meth:`remove` gives it back as it was.
        classes: the number C of classes or labels.
        settings: of the method's own ``Settings``.

    Raises:
        InputError: if the method cannot adapt this encoder, or trains weights that the encoder
            holds in bfloat16.

    Attributes:
        encoder_identity: the encoder's identity before anything was put into it.
        head: what turns features into logits.
        pool: what turns the features of images into those of a case of several.
        handle: the prompts inside the softmax, for methods that put some there.
        on_remove: what :meth:`insert` asks to be undone by :meth:`remove`, last first.
        name: what users call the method. A class with a name of its own is registered by it.
        summary: what is trained, in a few words.
        recipe: what the method changes in the default recipe: its paper's optimiser and rates.
        rates: which learning rates matter to it.
        reads_every_block: whether it reads every block of the encoder, in every view, by default:
            measured for each method, as it costs time (docs/accuracy.md).
        search: the values of its settings that a search chooses from, including the defaults.
        alters_features: whether the method may change features, be it by prompts that stay as they
            were drawn. If not, they are the plain encoder's, and all such methods can share them.
        Settings: the class of its settings.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    recipe: ClassVar[dict[str, Any]] = {}
    rates: ClassVar[tuple[str, ...]] = ("lr", "encoder_lr")
    reads_every_block: ClassVar[bool] = False
    search: ClassVar[dict[str, tuple[Any, ...]]] = {}
    alters_features: ClassVar[bool] = True
    Settings: ClassVar[type[MethodSettings]] = MethodSettings
    settings: MethodSettings
    head: Head
    handle: Handle | None = None

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "name" in vars(cls):
            _register(cls)

    def __init__(self, encoder: Encoder, classes: int, settings: MethodSettings) -> None:
        super().__init__()
        self.encoder, self.classes, self.settings = encoder, classes, settings
        self.encoder_identity = encoder.identity()
        encoder.requires_grad_(False)
        self.head = self.make_head(encoder.width, classes)
        self.pool: Pool = MeanPool()
        self.on_remove = ExitStack()
        try:
            self.insert()
            self._refuse_bfloat16()
        except BaseException:
            self.remove()
            raise

    def _refuse_bfloat16(self) -> None:
        if any(p.requires_grad and p.dtype == torch.bfloat16 for p in self.encoder.parameters()):
            raise EncoderError(
                f"the method {self.name!r} trains weights that are in bfloat16: name them "
                "in its `own`, and keep them out of cast_to_bfloat16"
            )

    # --- what a method is made of -------------------------------------------------------------

    def make_head(self, width: int, classes: int) -> Head:
        """The head for D features and C classes; by default one linear layer."""
        return LinearHead(width, classes)

    @classmethod
    def own(cls, encoder: Encoder, settings: Any) -> list[nn.Parameter]:
        """The encoder's own parameters that are trained with these settings; by default none."""
        return []

    def insert(self) -> None:
        """Put what is trained into the encoder, and how to undo it onto ``on_remove``.

        By default nothing.
        """

    def first_changed_block(self) -> int:
        """The first block that training changes, counted from 0.

        By default 0, which also holds if something before the blocks changes.
        """
        return 0

    def first_changed_prompt(self) -> EmbeddedPrompt | None:
        """The prompt whose gate is all that training changes inside that block's attention.

        None if training changes more there than a gate.
        """
        return None

    def inserted_state(self) -> dict[str, Tensor]:
        """What the adapter file keeps besides the head; by default all that is trained, by name."""
        return {
            name: parameter.detach()
            for name, parameter in self.named_parameters()
            if parameter.requires_grad and not name.startswith("head.")
        }

    def load_inserted_state(self, state: dict[str, Tensor]) -> None:
        """Put a saved :meth:`inserted_state` back.

        Raises:
            InputError: if it does not fit.
        """
        copy_into(self.inserted_state(), state, f"the method {self.name!r} on this encoder")

    # --- what it does with that ---------------------------------------------------------------

    def remove(self) -> None:
        """Give the encoder back as it was before."""
        self.on_remove.close()

    @property
    def trains_encoder(self) -> bool:
        """Whether the features of an image change during training."""
        return bool(self.parameter_groups()["encoder"])

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """What is trained: ``head``, and ``encoder`` for everything in and around the encoder."""
        head = [p for p in self.head.parameters() if p.requires_grad]
        heads = {id(p) for p in head}
        rest = [p for p in self.parameters() if p.requires_grad and id(p) not in heads]
        return {"head": head, "encoder": rest}

    def trainable_count(self) -> int:
        """The number of trained parameters, including those of the head and of pooling."""
        trained = [p for group in self.parameter_groups().values() for p in group]
        return sum(p.numel() for p in [*trained, *self.pool.trained_state().values()])

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) -> logits (B, C)."""
        return self.logits(self.features(pixels))

    def features(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) -> features (B, D)."""
        return self.encoder(pixels)

    def logits(self, features: Tensor) -> Tensor:
        """Features (B, D) -> logits (B, C), in float32 whatever the encoder computes in."""
        with torch.autocast(features.device.type, enabled=False):
            return self.head(features.float())

    def trained_state(self) -> dict[str, Tensor]:
        """What the adapter file keeps: what was trained, and nothing else."""
        head = {f"head.{name}": tensor for name, tensor in self.head.folded().items()}
        pool = {f"pool.{name}": tensor for name, tensor in self.pool.trained_state().items()}
        return head | pool | self.inserted_state()

    def load_trained_state(self, state: dict[str, Tensor]) -> None:
        """Put a saved :meth:`trained_state` back.

        Raises:
            InputError: if it belongs to another method, encoder or number of classes.
        """
        head, pool, inserted = {}, {}, {}
        for name, tensor in state.items():
            if name.startswith("head."):
                head[name.removeprefix("head.")] = tensor
            elif name.startswith("pool."):
                pool[name.removeprefix("pool.")] = tensor
            else:
                inserted[name] = tensor
        self.head.load_folded(head)
        self.pool.load_trained_state(pool)
        self.load_inserted_state(inserted)
