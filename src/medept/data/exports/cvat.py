"""CVAT's export 'CVAT for images 1.1': tags of images in XML."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pandas as pd

from medept.data.exports.label_cells import label_table
from medept.errors import DataError


def read(path: Path) -> pd.DataFrame:
    """Columns ``image`` and ``label``, from the tags of each image.

    Raises:
        DataError: if the file has another form, or holds shapes and no tags.
    """
    try:
        root = ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise DataError(f"{path}: damaged XML ({error}); export it again") from error
    images = root.findall("image")
    if root.tag != "annotations" or not all(image.get("name") for image in images):
        raise DataError(
            f"{path}: not CVAT's export 'CVAT for images 1.1'; export that, or give a table"
        )
    tags = [
        (image.get("name", ""), [tag.get("label", "") for tag in image.findall("tag")])
        for image in images
    ]
    if not any(labels for _, labels in tags) and any(len(image) for image in images):
        raise DataError(
            f"{path}: CVAT's export holds shapes and no tags; medept classifies whole images: give "
            "each a tag"
        )
    if len({name for name, _ in tags}) < len(tags):
        raise DataError(f"{path}: two images have the same name; export one task at a time")
    return label_table(path, tags, "tag")
