"""Small pictures of the pool, made when they are first shown and kept on the disk."""

from __future__ import annotations

import hashlib
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageDraw

from medept.data.cases import images_of
from medept.data.images import ImageLike, read_image
from medept.errors import InputError
from medept.files import whole_file
from medept.labelling.pool import Pool

SMALL, LARGE = 192, 1600
"""Pixels along the longer side of a thumbnail, and of the picture to label."""


class Thumbnails:
    """Pictures of the rows of a pool, as JPEG.

    Args:
        pool: of which they are.
        folder: where small ones are kept.
    """

    def __init__(self, pool: Pool, folder: Path) -> None:
        self._pool, self._folder = pool, folder

    def small(self, row: int) -> bytes:
        """A thumbnail; of a case, of its middle image."""
        images = images_of([self._pool.items[row]])
        image = images[len(images) // 2]
        file = self._folder / f"{_key(image)}.jpg"
        try:
            return file.read_bytes()
        except OSError:
            content = jpeg(image, SMALL)
        try:
            with whole_file(file) as partial:
                partial.write_bytes(content)
        except OSError:
            pass  # a full disk: it is made again when it is shown again
        return content

    def large(self, row: int, number: int = 0) -> bytes:
        """The picture of an image, or of one of a case."""
        return jpeg(images_of([self._pool.items[row]])[number], LARGE)

    def count(self, row: int) -> int:
        """How many images a row has."""
        return len(images_of([self._pool.items[row]]))


def jpeg(image: ImageLike, pixels: int) -> bytes:
    """An image as JPEG; where it cannot be read, a grey picture that says so."""
    try:
        picture = read_image(image)
    except (InputError, OSError):
        picture = Image.new("RGB", (192, 192), "#e7e9ec")
        ImageDraw.Draw(picture).text((32, 88), "This image cannot\nbe read.", fill="#444a52")
    picture.thumbnail((pixels, pixels))
    if pixels == LARGE and max(picture.size) < 480:  # small images are shown larger, not blurred
        scale = 480 // max(picture.size) + 1
        picture = picture.resize(
            (picture.width * scale, picture.height * scale), Image.Resampling.LANCZOS
        )
    file = BytesIO()
    picture.convert("RGB").save(file, "JPEG", quality=90 if pixels == LARGE else 82)
    return file.getvalue()


def _key(image: ImageLike) -> str:
    """What a thumbnail is kept under: the path, and the size and time of the file."""
    mark = str(image)
    try:
        stat = Path(mark.split("#")[0]).stat()
        mark += f" {stat.st_size} {stat.st_mtime_ns}"
    except OSError:
        pass
    return hashlib.sha256(mark.encode("utf-8", "surrogatepass")).hexdigest()[:24]
