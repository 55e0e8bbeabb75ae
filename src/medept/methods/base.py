"""What every method is: a frozen encoder, something small that is trained, and a head.

A method is one file with three parts: its ``Settings``, its class, which says what it puts into
the encoder (:meth:`AdaptedEncoder.insert`) and takes out again (:meth:`AdaptedEncoder.remove`),
and what of it is kept in the adapter file (:meth:`AdaptedEncoder.trained_state`). It sees the
encoder as :class:`medept.encoders.encoder.Encoder` shows it, and no library's names.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from medept.encoders.encoder import Encoder
from medept.ept.prompts import EmbeddedPrompt
from medept.errors import EncoderError


class MethodSettings(BaseModel):
    """Settings of a method, each with its paper's default and a docstring that users are shown."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Head(nn.Linear):
    """Features (B, D) -> logits (B, C); weights N(0, 0.01), bias 0.

    Features are standardised by fixed statistics, so that one learning rate serves encoders whose
    features differ in scale. Saved, the statistics are folded into weight and bias.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, width: int, classes: int) -> None:
        super().__init__(width, classes)
        nn.init.normal_(self.weight, std=0.01)
        nn.init.zeros_(self.bias)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))

    @torch.no_grad()
    def standardise(self, features: Tensor) -> None:
        """Take the statistics of ``features`` (n, D)."""
        self.mean.copy_(features.mean(dim=0))
        self.scale.copy_(features.std(dim=0, correction=0) + 1e-3)

    def forward(self, features: Tensor) -> Tensor:
        return super().forward((features - self.mean) / self.scale)

    @torch.no_grad()
    def folded(self) -> dict[str, Tensor]:
        """``weight`` and ``bias`` of the plain linear layer that does the same."""
        weight = self.weight / self.scale
        return {"weight": weight, "bias": self.bias - weight @ self.mean}

    @torch.no_grad()
    def load_folded(self, state: dict[str, Tensor]) -> None:
        """Become the plain linear layer of :meth:`folded`."""
        what = f"a head for {self.in_features} features and {self.out_features} classes"
        copy_into({"weight": self.weight, "bias": self.bias}, state, what)
        self.mean.zero_()
        self.scale.fill_(1)


@torch.no_grad()
def copy_into(own: dict[str, Tensor], saved: dict[str, Tensor], what: str) -> None:
    """Copy saved tensors into one's own of the same names.

    Raises:
        InputError: if they are not those of ``what``, by name and shape.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in saved.items()}
    if shapes != {name: tuple(tensor.shape) for name, tensor in own.items()}:
        raise EncoderError(f"what was saved does not fit: {shapes} are not those of {what}")
    for name, tensor in saved.items():
        own[name].copy_(tensor)


METHODS: dict[str, type[AdaptedEncoder]] = {}
"""The registry: every method by its name."""


class AdaptedEncoder(nn.Module):
    """An encoder adapted to a task: pixels (B, 3, H, W) -> logits (B, C).

    Args:
        encoder: frozen here; :meth:`remove` gives it back as it was.
        classes: the number C of classes or labels.
        settings: of the method's own ``Settings``.

    Raises:
        InputError: if it trains weights that the encoder holds in bfloat16.

    Attributes:
        encoder_identity: of the encoder as it came, before anything was put into it.
        name: by which it is asked for. A class that states one is registered in ``METHODS``.
        summary: what is trained, in a few words.
        recipe: what it changes of the default recipe: its paper's optimiser, its rates.
        rates: which learning rates matter to it.
        search: values of its settings among which ``--tune`` searches, the default among them.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    recipe: ClassVar[dict[str, Any]] = {}
    rates: ClassVar[tuple[str, ...]] = ("lr", "encoder_lr")
    search: ClassVar[dict[str, tuple[Any, ...]]] = {}
    Settings: ClassVar[type[MethodSettings]] = MethodSettings
    settings: MethodSettings

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "name" in vars(cls):
            METHODS[cls.name] = cls

    def __init__(self, encoder: Encoder, classes: int, settings: MethodSettings) -> None:
        super().__init__()
        self.encoder, self.classes, self.settings = encoder, classes, settings
        self.encoder_identity = encoder.identity()
        encoder.requires_grad_(False)
        self.head = self.make_head(encoder.width, classes)
        self.insert()
        if any(p.requires_grad and p.dtype == torch.bfloat16 for p in encoder.parameters()):
            self.remove()
            raise EncoderError(
                f"the method {self.name!r} trains weights that are in bfloat16: name them "
                "in its `own`, and keep them out of cast_to_bfloat16"
            )

    def make_head(self, width: int, classes: int) -> Any:
        """What turns features (B, D) into logits (B, C): one linear layer."""
        return Head(width, classes)

    @classmethod
    def own(cls, encoder: Encoder, settings: Any) -> list[nn.Parameter]:
        """The encoder's own parameters that are trained, with these settings; none, by default."""
        return []

    def insert(self) -> None:
        """Put what is trained into the encoder; nothing, by default."""

    def remove(self) -> None:
        """Take it out again."""

    @property
    def trains_encoder(self) -> bool:
        """Whether features of one image change while this method trains."""
        return bool(self.parameter_groups()["encoder"])

    @property
    def alters_features(self) -> bool:
        """Whether they are not the encoder's own, if only by prompts that stay as they are."""
        return type(self).insert is not AdaptedEncoder.insert

    def first_changed_block(self) -> int:
        """The first block that training changes; 0, by default, where something below it is."""
        return 0

    def first_changed_prompt(self) -> EmbeddedPrompt | None:
        """Where a prompt's gate is all that training changes of that block: the prompt."""
        return None

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """What is trained: ``head``, and ``encoder`` for all that is in or around the encoder."""
        head = [p for p in self.head.parameters() if p.requires_grad]
        heads = {id(p) for p in head}
        rest = [p for p in self.parameters() if p.requires_grad and id(p) not in heads]
        return {"head": head, "encoder": rest}

    def trainable_count(self) -> int:
        """The number of trained parameters, head included."""
        return sum(p.numel() for group in self.parameter_groups().values() for p in group)

    def logits(self, features: Tensor) -> Tensor:
        """Features (B, D) -> logits (B, C), in float32 whatever the encoder computes in."""
        with torch.autocast(features.device.type, enabled=False):
            return self.head(features.float())

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) -> logits (B, C)."""
        return self.logits(self.features(pixels))

    def features(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) -> features (B, D)."""
        return self.encoder(pixels)

    def trained_state(self) -> dict[str, Tensor]:
        """What the adapter file holds: what was trained, and nothing else."""
        head = {f"head.{name}": tensor for name, tensor in self.head.folded().items()}
        return head | self.inserted_state()

    def inserted_state(self) -> dict[str, Tensor]:
        """The part of it that is in or around the encoder, by name."""
        return {
            name: parameter.detach()
            for name, parameter in self.named_parameters()
            if parameter.requires_grad and not name.startswith("head.")
        }

    def load_trained_state(self, state: dict[str, Tensor]) -> None:
        """Put a saved :meth:`trained_state` back.

        Raises:
            InputError: if it belongs to another method, encoder or number of classes.
        """
        parts: dict[bool, dict[str, Tensor]] = {True: {}, False: {}}
        for name, tensor in state.items():
            parts[name.startswith("head.")][name] = tensor
        self.head.load_folded({k.removeprefix("head."): v for k, v in parts[True].items()})
        self.load_inserted_state(parts[False])

    def load_inserted_state(self, state: dict[str, Tensor]) -> None:
        """Put a saved :meth:`inserted_state` back."""
        copy_into(self.inserted_state(), state, f"the method {self.name!r} on this encoder")
