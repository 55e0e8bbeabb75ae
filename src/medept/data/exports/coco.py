"""COCO's JSON: images, categories, and annotations that give an image a category."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pandas as pd

from medept.data.exports.label_cells import label_table
from medept.errors import DataError


def is_form(content: Any) -> bool:
    """Whether JSON has COCO's three lists."""
    return isinstance(content, dict) and {"images", "annotations", "categories"} <= content.keys()


def convert(path: Path, content: dict[str, Any]) -> pd.DataFrame:
    """Columns ``image`` and ``label``, with the categories of each image's annotations.

    Raises:
        DataError: if it has another form, or an annotation names an image or a category that is
            not there.

    Warns:
        UserWarning: if annotations are of objects (boxes or outlines), whose categories are taken
            as labels of the whole image.
    """
    try:
        categories = {one["id"]: str(one["name"]) for one in content["categories"]}
        images = {one["id"]: str(one["file_name"]) for one in content["images"]}
        labels: dict[Any, list[str]] = {number: [] for number in images}
        objects = 0
        for one in content["annotations"]:
            labels[one["image_id"]].append(categories[one["category_id"]])
            objects += bool(one.get("bbox") or one.get("segmentation"))
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: not COCO's JSON, or damaged ({type(error).__name__}: {error}); export it "
            "again, or give a table"
        ) from error
    if len(set(images.values())) < len(images):
        raise DataError(f"{path}: two images have the same file name; export one set at a time")
    if objects:
        warnings.warn(
            f"{path}: {objects} annotations are of objects; their categories are taken as labels "
            "of the whole image",
            stacklevel=6,
        )
    named = [(images[number], sorted(names)) for number, names in labels.items()]
    return label_table(path, named, "annotation")
