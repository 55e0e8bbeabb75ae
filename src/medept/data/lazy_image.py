"""Images that are not a file of their own, such as a slice of a volume."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

from PIL import Image


class LazyImage(ABC):
    """An image that is made from a part of a file when it is read."""

    @property
    @abstractmethod
    def path(self) -> Path:
        """The file, or the folder of files, that it is made from."""

    @property
    @abstractmethod
    def key(self) -> str:
        """A text that says which part of it, and how it is shown."""

    @abstractmethod
    def read(self) -> Image.Image:
        """The image, in mode RGB or L."""

    def __str__(self) -> str:
        return f"{self.path}#{self.key}"
