"""The support set as a fit needs it: checked, and with what fits to its parts share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from medept.classifier.fitted import Fitted, Task
from medept.classifier.specification import Specification
from medept.data.cases import Case, Item, gather, images_of, one_a_case
from medept.data.image_hashes import image_key
from medept.data.images import ImageLike
from medept.data.labels import encode_labels
from medept.data.spelling import clean_ids
from medept.data.volumes import slicing_of
from medept.encoders.encoder import Encoder
from medept.errors import DataError
from medept.training.cache import TensorCache
from medept.training.views import Views


@dataclass
class SupportSet:
    """Labelled images, and what fits to parts of them share: the encoder, views, cached tensors.

    Attributes:
        items: n images or cases.
        targets: (n,) class indices, or (n, C) of 0 and 1.
        classes: (C,) names.
        groups: (n,) ids that cross-validation keeps together.
        cache: tensors that are computed once for all fits.
    """

    items: Sequence[Item]
    targets: np.ndarray
    classes: np.ndarray
    groups: np.ndarray
    cache: TensorCache
    _views: Views | None = None
    _encoder: Encoder | None = None

    @classmethod
    def read(
        cls,
        X: Sequence[Item],
        y: Any,
        groups: np.ndarray | None,
        classes: Sequence[str] | None,
        cache: TensorCache,
        cases: Sequence[Any] | np.ndarray | None = None,
    ) -> SupportSet:
        """Check what :meth:`medept.FewShotClassifier.fit` was given.

        Raises:
            DataError: if images, labels and groups do not go together.
        """
        items = as_items(X, cases)
        targets, names = encode_labels(y, classes)
        given = None if groups is None else clean_ids(groups)
        if cases is not None:
            targets = one_a_case(targets, cases, "labels")
            given = None if given is None else one_a_case(given, cases, "groups")
        if len(items) != len(targets):
            raise DataError(f"{len(items)} images but {len(targets)} labels were given")
        groups = _one_group_an_item(items) if given is None else given
        if groups.shape != (len(items),):
            raise DataError(f"groups of shape {groups.shape} for {len(items)} images")
        return cls(items, targets, names, groups, cache)

    @property
    def volumes(self) -> str | None:
        """How volumes among its items were cut; None where there are none."""
        slicing = slicing_of(self.items)
        return None if slicing is None else str(slicing)

    @property
    def has_cases(self) -> bool:
        """Whether any of its items is a case."""
        return any(isinstance(item, Case) for item in self.items)

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def task(self) -> Task:
        """Whether an image has one class, or any number of labels."""
        return "multiclass" if self.targets.ndim == 1 else "multilabel"

    def views(self, fitted: Fitted) -> Views:
        """Views of all images, which all fits share."""
        if self._views is None:
            self._views = Views(
                self.items,
                fitted.model.encoder.preprocessing,
                crop_scale=fitted.recipe.crop_scale,
                symmetry=fitted.symmetry,
                seed=fitted.views_seed,
            )
        return self._views

    def encoder(self, spec: Specification) -> Encoder:
        """A copy of the frozen encoder on shared memory; it is loaded, hashed and tried once."""
        if self._encoder is None:
            self._encoder = spec.load_frozen_encoder()
            self._encoder.identity()
            _ = self._encoder.width
        return self._encoder.copy_with_shared_weights()


def as_items(X: Sequence[Item], cases: Sequence[Any] | np.ndarray | None = None) -> Sequence[Item]:
    """Images as a list; with the case of each, as cases in the order of their first images.

    Raises:
        DataError: if it is one image, empty, or cases are not given one an image.
    """
    items = as_list(X)
    return items if cases is None else gather(items, cases)


def as_list(X: Sequence[Item]) -> list[Item]:
    """Images or cases as a list, from a sequence, an array of objects, or a table's one column.

    Raises:
        DataError: if it is one image, a table of several columns, or empty.

    >>> as_list(("a.png", "b.png"))
    ['a.png', 'b.png']
    """
    if isinstance(X, str | PathLike | Image.Image | Case):
        raise DataError("one image was given: give a list of images, [image]")
    if isinstance(X, pd.DataFrame):
        if X.shape[1] != 1:
            raise DataError("a table was given: give its column of images alone")
        X = X.iloc[:, 0]
    if isinstance(X, np.ndarray) and X.dtype == object and X.ndim == 2 and X.shape[1] == 1:
        X = X[:, 0]  # as scikit-learn's ensembles hand on what they check
    images = list(X)
    if not images:
        raise DataError("no images were given: give one at least")
    return images


def _one_group_an_item(items: Sequence[Item]) -> np.ndarray:
    """(n,) numbers, the same for an image or case given twice, as some official lists do."""
    keys = [" ".join(map(_key, images_of([item]))) for item in items]
    return pd.factorize(np.array(keys, dtype=object))[0]


def _key(image: ImageLike) -> str:
    return str(image) if isinstance(image, str | PathLike) else image_key(image)
