"""HTML pages of one file, which holds styles, thumbnails and figures and loads nothing."""

from __future__ import annotations

import base64
from io import BytesIO
from typing import TYPE_CHECKING, Any

from medept.data.images import ImageLike, read_image
from medept.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PIXELS = 112
"""Length of the longer side of a thumbnail."""


def render(template: str, **values: Any) -> str:
    """Fill in a template of this package. All values are escaped."""
    from jinja2 import Environment, PackageLoader

    environment = Environment(
        loader=PackageLoader("medept.report"), autoescape=True, trim_blocks=True
    )
    return environment.get_template(template).render(**values)


def shown(text: str) -> str:
    """Text that can be printed anywhere: unprintable characters become escape sequences.

    >>> shown("a\x07b")
    'a\\\\x07b'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def thumbnail(source: ImageLike) -> str:
    """A small JPEG as a data URI; an empty text if the image cannot be read."""
    try:
        image = read_image(source)
    except InputError:
        return ""
    image.thumbnail((PIXELS, PIXELS))
    file = BytesIO()
    image.save(file, "JPEG", quality=80)
    return data_uri(file.getvalue(), "image/jpeg")


def picture(figure: Figure) -> str:
    """A figure as an SVG data URI, in which text remains text."""
    import matplotlib

    file = BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "font.family": "sans-serif"}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    return data_uri(file.getvalue(), "image/svg+xml")


def data_uri(content: bytes, kind: str) -> str:
    """``data:KIND;base64,...``"""
    return f"data:{kind};base64," + base64.b64encode(content).decode()
