"""Encoders for medical images by short name: what their authors publish about them.

The facts stand in ``catalogue.json``, from model cards, papers and published code. A field is empty
where nothing certain was found, and ``unknown`` says what is missing.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, TypeAdapter

if TYPE_CHECKING:
    from medept.encoders.preprocessing import Preprocessing

Modality = Literal[
    "histology", "chest", "ct", "mri", "fundus", "skin", "ultrasound", "endoscopy", "blood",
    "general",
]  # fmt: skip
"""What the images show, or how they were taken; ``general`` suits all of them."""

MODALITIES: tuple[str, ...] = get_args(Modality)

Channels = tuple[float, float, float]


class Entry(BaseModel):
    """An encoder of the catalogue.

    Attributes:
        name: the short name that :func:`medept.load_encoder` takes.
        source: the long name that stands for it.
        modalities: images that it was trained on.
        architecture: a name of timm, a ``model_type`` of transformers, or ``open_clip``.
        arguments: what the architecture is built with.
        input_size: pixels a side.
        patch: pixels a side of a patch.
        prefix_tokens: tokens before those of the patches: class token and registers.
        depth: number of blocks.
        width: number of features of the class token, or of what the model gives.
        parameters: in millions, of the image tower.
        mean: of each channel, between 0 and 1; None where the processor of the weights is followed.
        std: of each channel.
        interpolation: how an image is resized.
        crop: the share of the resized image's side that is cut out of its centre.
        readout: the tokens that its authors read, as in ``--readout``.
        training_data: what it was trained on.
        licence: of the weights.
        gated: whether access has to be asked for.
        safetensors: whether the weights are published in that format.
        paper: its DOI or arXiv number.
        verified: how the entry was checked here.
        unknown: what could not be found out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    source: str
    modalities: tuple[Modality, ...]
    architecture: str
    arguments: dict[str, Any]
    input_size: int
    patch: int
    prefix_tokens: int
    depth: int
    width: int
    parameters: float
    mean: Channels | None
    std: Channels | None
    interpolation: str | None
    crop: float
    readout: str
    training_data: str | None
    licence: str | None
    gated: bool | None
    safetensors: bool | None
    paper: str | None
    verified: Literal["architecture built and compared", "card only"]
    unknown: str

    @property
    def repository(self) -> str | None:
        """``OWNER/NAME`` on the Hugging Face hub; None if timm says where the weights are."""
        return self.source.rpartition(":")[2] if ":" in self.source else None

    @property
    def preprocessing(self) -> Preprocessing | None:
        """How its authors prepare an image; None where a processor beside the weights says it."""
        from medept.encoders.preprocessing import Preprocessing  # which loads PyTorch

        if self.mean is None or self.std is None or self.interpolation is None:
            return None
        size, resized = self.input_size, int(self.input_size / self.crop)
        return Preprocessing(
            size=(size, size),
            mean=self.mean,
            std=self.std,
            interpolation=self.interpolation,
            resized=None if resized == size else (resized, resized),
        )


@cache
def catalogue() -> tuple[Entry, ...]:
    """All entries.

    >>> next(entry.width for entry in catalogue() if entry.name == "uni2-h")
    1536
    """
    text = (files("medept.encoders") / "catalogue.json").read_text(encoding="utf-8")
    return TypeAdapter(tuple[Entry, ...]).validate_json(text)


def find(name: str) -> Entry | None:
    """The entry of a short name, or of the source of one; None if there is none."""
    return next((entry for entry in catalogue() if name in (entry.name, entry.source)), None)


def suited_to(modality: str) -> list[Entry]:
    """The entries for images of a modality, those that were trained on it alone first.

    >>> [entry.name for entry in suited_to("fundus")][:2]
    ['retfound', 'medsiglip']
    """
    found = [entry for entry in catalogue() if {modality, "general"} & {*entry.modalities}]
    return sorted(found, key=lambda e: (modality not in e.modalities, len(e.modalities)))
