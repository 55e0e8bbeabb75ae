"""Pages that hold all they need: styles, small pictures and figures inside one HTML file."""

from __future__ import annotations

import base64
from io import BytesIO
from typing import TYPE_CHECKING, Any

from medept.data.images import ImageLike, read_image
from medept.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PIXELS = 112
"""Of the longer side of a small picture."""


def render(template: str, **values: Any) -> str:
    """A page by a template of this package; all values are escaped."""
    from jinja2 import Environment, PackageLoader

    environment = Environment(
        loader=PackageLoader("medept.report"), autoescape=True, trim_blocks=True
    )
    return environment.get_template(template).render(**values)


def shown(text: str) -> str:
    """Text that can be printed anywhere: control characters and lone surrogates as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def thumbnail(source: ImageLike) -> str:
    """A small JPEG as a data URI; nothing where the image cannot be read."""
    try:
        image = read_image(source)
    except InputError:
        return ""
    image.thumbnail((PIXELS, PIXELS))
    file = BytesIO()
    image.save(file, "JPEG", quality=80)
    return data_uri(file.getvalue(), "image/jpeg")


def picture(figure: Figure) -> str:
    """A figure as an SVG data URI, with text as text."""
    import matplotlib

    file = BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "font.family": "sans-serif"}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    return data_uri(file.getvalue(), "image/svg+xml")


def data_uri(content: bytes, kind: str) -> str:
    """``data:KIND;base64,...``"""
    return f"data:{kind};base64," + base64.b64encode(content).decode()
