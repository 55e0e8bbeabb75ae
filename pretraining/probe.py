"""The medical probe: cross-validated logistic regression on frozen features, and on simpler ones.

    python pretraining/probe.py wbc=DATA/wbc/labels.csv brain-mri=DATA/brain-mri/labels.csv

It uses all data, five folds (stratified, and by group where there are groups) and balanced
accuracy; C is chosen within each training fold. The embedded encoder is compared with raw pixels,
an encoder of the same shape with random weights, and colour histograms with HOG.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from PIL import Image
from skimage.feature import hog
from sklearn.linear_model import LogisticRegressionCV
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from medept import FewShotClassifier, load_encoder
from medept.data.dataset import read_dataset
from medept.data.images import read_image
from medept.data.labelled_images import LabelledImages
from medept.encoders import embedded
from medept.encoders.encoder import Encoder
from medept.training.device import make_accelerator
from medept.training.inference import encode_images


def raw_pixels(data: LabelledImages) -> np.ndarray:
    """32 x 32 RGB values."""
    images = [read_image(image).resize((32, 32), Image.Resampling.BOX) for image in data.images]
    return np.stack([np.asarray(image).ravel() / 255 for image in images])


def histograms_and_hog(data: LabelledImages) -> np.ndarray:
    """16 bins of each colour, and histograms of oriented gradients at 64 x 64 pixels."""
    rows = []
    for image in data.images:
        small = np.asarray(read_image(image).resize((64, 64), Image.Resampling.BILINEAR))
        colours = [np.histogram(small[..., c], 16, (0, 256), density=True)[0] for c in range(3)]
        gradients = hog(small, pixels_per_cell=(16, 16), cells_per_block=(2, 2), channel_axis=-1)
        rows.append(np.concatenate([*colours, gradients]))
    return np.stack(rows)


def random_encoder(data: LabelledImages) -> np.ndarray:
    """Features of an untrained encoder of the same shape."""
    trained = load_encoder()
    torch.manual_seed(0)
    model = embedded.build(embedded.load()[1]["architecture"])
    encoder = Encoder(model, "random", trained.preprocessing)
    return encode_images(encoder, data.images, make_accelerator())


def encoder_features(
    data: LabelledImages, size: int | None, name: str = "embedded", weights: str | None = None
) -> np.ndarray:
    """Frozen features of an encoder at ``size`` pixels."""
    classifier = FewShotClassifier(name, encoder_weights=weights, image_size=size)
    return classifier.embed(data.images)


def probe(features: np.ndarray, data: LabelledImages) -> np.ndarray:
    """Balanced accuracy of each fold."""
    common = np.bincount(data.targets)[data.targets] >= 5  # a class of one image has no folds
    if data.groups is None:
        folds = StratifiedKFold(5, shuffle=True, random_state=0)
    else:
        folds = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    model = make_pipeline(
        StandardScaler(), LogisticRegressionCV(Cs=np.logspace(-4, 1, 6), cv=3, max_iter=500)
    )
    return cross_val_score(
        model, features[common], data.targets[common], cv=folds, scoring="balanced_accuracy",
        groups=None if data.groups is None else data.groups[common],
    )  # fmt: skip


def main() -> None:
    """Read the command line, print a markdown table and one JSON line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("data", nargs="+", help="NAME=TABLE")
    parser.add_argument(
        "--sizes", nargs="+", type=int, default=[], help="also at these input sizes, in pixels"
    )
    parser.add_argument("--other", help="a timm encoder to compare with")
    parser.add_argument("--other-weights")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    rows: dict[str, Callable[[LabelledImages], np.ndarray]] = {
        "raw pixels, 32 x 32": raw_pixels,
        "colour histograms + HOG": histograms_and_hog,
        "random weights, same shape": random_encoder,
        "embedded": partial(encoder_features, size=None),
    }
    rows |= {f"embedded at {s}": partial(encoder_features, size=s) for s in arguments.sizes}
    if arguments.other:
        rows[arguments.other] = partial(
            encoder_features, size=None, name=arguments.other, weights=arguments.other_weights
        )
    sets = dict(text.split("=", 1) for text in arguments.data)
    found: dict[str, dict[str, list[float]]] = {}
    print("| features | " + " | ".join(sets) + " |\n| --- |" + " --- |" * len(sets))
    for title, features in rows.items():
        found[title] = {n: probe(features(d), d).tolist()
                        for n, d in ((n, read_dataset(t)) for n, t in sets.items())}  # fmt: skip
        cells = [f"{np.mean(v):.3f} ± {np.std(v):.3f}" for v in found[title].values()]
        print(f"| {title} | " + " | ".join(cells) + " |", flush=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
