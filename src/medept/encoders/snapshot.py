"""The files of a model: a local folder, or a repository on the Hugging Face hub."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medept.encoders.weights import download
from medept.errors import EncoderError

HUB = "hf-hub:"

TIMM, OPEN_CLIP, TRANSFORMERS = "timm", "open_clip", "transformers"

OPEN_CLIP_CONFIG = "open_clip_config.json"


@dataclass(frozen=True)
class Snapshot:
    """The files of a model.

    Attributes:
        name: ``hf-hub:OWNER/NAME``, or the path of a folder.
    """

    name: str

    @property
    def repository(self) -> str | None:
        """``OWNER/NAME`` on the hub; None for a local folder."""
        return self.name.removeprefix(HUB) if self.name.startswith(HUB) else None

    def file(self, *names: str) -> Path:
        """The first of these files that there is.

        Raises:
            EncoderError: if there is none, or it cannot be downloaded.
        """
        if self.repository is not None:
            return Path(download(self.name, self.repository, names[0]))
        for name in names:
            if (Path(self.name) / name).is_file():
                return Path(self.name) / name
        raise EncoderError(
            f"{self.name}: no {' or '.join(names)} in it; medept reads a model's configuration and "
            "its weights as safetensors, and nothing else of a folder"
        )

    def config(self, name: str = "config.json") -> dict[str, Any]:
        """The model's configuration.

        Raises:
            EncoderError: if it is missing or no JSON object.
        """
        file = self.file(name)
        try:
            config = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise EncoderError(f"{file}: not readable as JSON ({error})") from error
        if not isinstance(config, dict):
            raise EncoderError(f"{file}: not a JSON object")
        return config


def library_of(folder: Path) -> str | None:
    """The library that a folder's model belongs to, by its configuration; None if it is no model.

    Raises:
        EncoderError: if its configuration names none of the three libraries.
    """
    if (folder / OPEN_CLIP_CONFIG).is_file():
        return OPEN_CLIP
    if not (folder / "config.json").is_file():
        return None
    config = Snapshot(str(folder)).config()
    if "architecture" in config:
        return TIMM
    if "model_type" in config:
        return TRANSFORMERS
    raise EncoderError(
        f"{folder / 'config.json'}: it has neither the `architecture` of timm nor the `model_type` "
        "of transformers"
    )
