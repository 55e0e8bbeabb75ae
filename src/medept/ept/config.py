"""What prompts to put into an encoder, and into which of its layers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from medept.ept.attention import Kernel, Way
from medept.errors import SettingsError

MOST_PROMPTS = 10_000
"""The greatest prompt length: each token has as many numbers in each layer."""

Init = Literal["normal", "uniform", "zeros", "kaiming", "identity"]

MOST_LAYERS = 10_000
"""More than any encoder has: a range over more of them is not written out."""

Layers = Annotated[
    str | tuple[int, ...],
    BeforeValidator(lambda value: (value,) if isinstance(value, int) else value),
]
"""A choice of layers, as :func:`parse_layers` reads it; a single number is that layer alone."""


class EmbeddedPromptConfig(BaseModel):
    """What prompts to put into an encoder, and where.

    >>> config = EmbeddedPromptConfig(length=20, layers="9-12")
    >>> config.chosen_layers(depth=12)
    [8, 9, 10, 11]

    Raises:
        pydantic.ValidationError: if a value is unknown, out of range, or does not go with another.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    length: int | Literal["auto"] = "auto"
    """Prompt length L, of the way ``keys`` the number of keys; ``auto`` is a tenth of the number of
    tokens T. Prompts that start near 0 start with a gate of about T / (T + L), so the length sets
    how far from the plain encoder training starts. The ways ``add`` and ``multiply`` ignore it:
    there L is T."""

    layers: Layers = "all"
    """``all`` (EPT-deep), ``first`` (EPT-shallow), or layer numbers counted from 1: ``9-12``,
    ``1,2,12`` or a list such as ``[9, 10, 11, 12]``."""

    way: Way = "concat"
    """How the prompt enters the logits: ``concat``, ``multiply_concat``, ``add`` or ``multiply``
    (the paper's Figure 5), or ``keys``, learnt keys whose values are zero, so that the gate depends
    on what a token shows and not on where it stands."""

    init: Init = "normal"
    """Initial values. ``normal``: standard deviation 0.02 (the paper's), of keys 0.5, so that they
    do not all learn the same; ``uniform``: from -0.08 to 0.08; ``zeros``; ``kaiming``: uniform with
    fan-in L; ``identity``: the encoder starts almost unchanged, whatever the length. With the way
    ``multiply`` one is added to them, so that each starts near the identity."""

    per_head: bool = False
    """One prompt for each head, instead of the paper's one that all heads share. The way ``keys``
    always has one for each head."""

    collapsed: bool = False
    """Learn the logsumexp of each token's L prompts, one number, in place of the prompts
    (``concat`` only). It starts where prompts of this length would start."""

    frozen: bool = False
    """Keep the prompts at their initial values (the experiment of the paper's Table 3)."""

    kernel: Kernel = Field(default="auto", exclude=True)
    """Which attention kernel runs; ``auto`` chooses (see :mod:`medept.ept.kernels`). The ways
    ``add`` and ``multiply`` have only one."""

    @field_validator("length")
    @classmethod
    def _positive(cls, length: int | str) -> int | str:
        if isinstance(length, int) and not 1 <= length <= MOST_PROMPTS:
            raise ValueError(f"the prompt length must be at least 1, and at most {MOST_PROMPTS:,}")
        return length

    @model_validator(mode="after")
    def _consistent(self) -> EmbeddedPromptConfig:
        if self.collapsed and self.way != "concat":
            raise ValueError(f"only the way 'concat' can be collapsed, not {self.way!r}")
        if self.init == "identity" and self.way in ("multiply_concat", "keys"):
            raise ValueError(
                "init 'identity' needs a prompt that is not scaled by the logits or queries: "
                f"use another init with the way {self.way!r}"
            )
        return self

    def chosen_layers(self, depth: int) -> list[int]:
        """Indices, counted from 0, of the chosen layers of an encoder with ``depth`` layers.

        Raises:
            InputError: as :func:`parse_layers`.
        """
        return parse_layers(self.layers, depth)


def parse_layers(layers: Layers, depth: int) -> list[int]:
    """Indices, counted from 0, of layers that are named by numbers counted from 1.

    >>> parse_layers("2-4,12", depth=12)
    [1, 2, 3, 11]
    >>> parse_layers("first", depth=12)
    [0]

    Args:
        layers: ``all``, ``first``, numbers and ranges (``9-12``, ``1,3``), or a list of numbers.
        depth: how many layers there are.

    Raises:
        InputError: if the text cannot be read, or names a layer that does not exist.
    """
    if layers == "all":
        return list(range(depth))
    if layers == "first":
        return [0]
    try:
        numbers = list(layers) if not isinstance(layers, str) else _parse_ranges(layers)
    except ValueError:
        raise SettingsError(
            f"layers {layers!r} cannot be read: use 'all', 'first', a range such as '9-12' "
            "or a list such as '1,2,12'"
        ) from None
    outside = [n for n in numbers if not 1 <= n <= depth]
    if outside or not numbers:
        raise SettingsError(
            f"layers {layers!r} name {outside or 'nothing'}: this encoder has layers 1 to {depth}"
        )
    return sorted({n - 1 for n in numbers})


def _parse_ranges(text: str) -> list[int]:
    numbers: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        ends = int(first), int(last if dash else first)
        numbers += ends if ends[1] - ends[0] > MOST_LAYERS else range(ends[0], ends[1] + 1)
    return numbers
