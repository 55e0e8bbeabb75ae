"""How a case is best classified from its images: mean, max or attention pooling, or a vote.

On phantoms of which few images of a positive case show anything (``bags``, ``ct``), and on real
images put together into synthetic patients of eight images, one or more of which are of the class
of interest (``wbc``: eosinophils among other white blood cells; ``ham10000``: a melanoma among
other lesions). A vote is a ridge regression on single images, each with the label of its case,
whose probabilities are averaged over a case.

    python benchmarks/case_pooling.py bags ct --cases 5 10 20 --seeds 20
    python benchmarks/case_pooling.py ham10000=shared/data/ham10000 --shown 1 3
    python benchmarks/case_pooling.py wbc=shared/data/wbc --shown 1 3 --class monocyte

Features are those of the embedded encoder, of one view. Prints the mean AUROC over support sets,
drawn at random, with its 95 % interval (1.96 standard errors), and for the phantoms of ct how often
the image that decided most is one that shows the nodule.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from medept.data.cases import Case, images_of, sizes_of
from medept.data.labelled_images import LabelledImages
from medept.encoders.load import load_encoder
from medept.methods import adapt
from medept.methods.base import AdaptedEncoder
from medept.methods.pooling import pool_cases
from medept.phantoms.cases import draw_ct, make_bags
from medept.training.extractor import FeatureExtractor
from medept.training.inference import logits_of_features

POOLS = ("vote", "mean", "max", "attention")
INTEREST = {"wbc": "eosinophil", "ham10000": "mel"}
"""The class of which a synthetic patient has some images or none, unless told otherwise."""

IMAGES_PER_CASE = 8
"""Of a synthetic patient."""


def ct(patients: int, size: int, difficulty: float) -> tuple[LabelledImages, np.ndarray]:
    """Chests of which every second slice is an image, and which of them show a nodule."""
    cases, shown = [], []
    for number in range(patients):
        values, has = draw_ct(number, size=size, difficulty=difficulty)
        grey = np.clip((values[::-1, ::-1].transpose(2, 1, 0) + 1350.0) / 1500, 0, 1)
        images = tuple(np.uint8(grey[k] * 255) for k in range(0, values.shape[2], 2))
        cases.append(Case(images, tuple(f"{number}-{k}" for k in range(len(images)))))
        shown.append(has[::2])
    names = tuple(map(str, range(patients)))
    targets = 1 - np.arange(patients) % 2
    return LabelledImages(tuple(cases), names, targets, ("none", "nodule")), np.concatenate(shown)


def bagged(folder: Path, interest: str, count: int) -> tuple[LabelledImages, np.ndarray]:
    """Synthetic patients of real images, each of which is used once, and one of each lesion.

    Every second patient has ``count`` images of the class ``interest``; the others have none.
    """
    table = pd.read_csv(folder / "labels.csv", dtype=str)
    table = table.iloc[np.random.default_rng(0).permutation(len(table))]
    table = table.drop_duplicates("lesion" if "lesion" in table else "image")
    some = table[table["label"] == interest]["image"].tolist()
    rest = table[table["label"] != interest]["image"].tolist()
    cases, targets, shown = [], [], []
    while True:
        number = count * (len(cases) % 2)
        if len(some) < number or len(rest) < IMAGES_PER_CASE - number:
            break
        own = [rest.pop() for _ in range(IMAGES_PER_CASE - number)]
        own += [some.pop() for _ in range(number)]
        cases.append(Case(tuple(folder / image for image in own), tuple(own)))
        targets.append(len(targets) % 2)
        shown += [False] * (IMAGES_PER_CASE - number) + [True] * number
    names = tuple(map(str, range(len(cases))))
    data = LabelledImages(tuple(cases), names, np.array(targets), ("without", "with"))
    return data, np.array(shown)


def draws(targets: np.ndarray, shots: int, seeds: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Support sets of so many cases a class, and the other cases."""
    for seed in range(seeds):
        order = np.random.default_rng(seed).permutation(len(targets))
        support = np.concatenate([order[targets[order] == c][:shots] for c in (0, 1)])
        yield support, np.setdiff1d(order, support)


def fit_and_score(
    pool: str,
    each: list[np.ndarray],
    targets: np.ndarray,
    support: np.ndarray,
    test: np.ndarray,
    model: AdaptedEncoder,
) -> tuple[float, list[int]]:
    """The AUROC on the test cases, and for each the row of the image that decided most."""
    if pool == "vote":
        images = np.concatenate([each[i] for i in support])[:, None]
        owners = np.repeat(targets[support], [len(each[i]) for i in support])
        model.fit_views(images, owners, None)  # type: ignore[operator]
        margins = [_margin(model, each[i]) for i in test]
        scores = [float((1 / (1 + np.exp(-one))).mean()) for one in margins]
        return roc_auc_score(targets[test], scores), [int(one.argmax()) for one in margins]
    sizes = np.array([len(each[i]) for i in support])
    images = np.concatenate([each[i] for i in support])
    model.pool.fit(images, sizes, targets[support], 0)
    model.fit_views(pool_cases(model.pool, images[:, None], sizes), targets[support], None)  # type: ignore[operator]
    pooled = [pool_cases(model.pool, each[i][:, None], [len(each[i])])[0, 0] for i in test]
    score = roc_auc_score(targets[test], _margin(model, np.stack(pooled)))
    import torch

    if pool == "attention":
        return score, [int(model.pool.weights(torch.as_tensor(each[i])).argmax()) for i in test]
    return score, [int(_margin(model, each[i]).argmax()) for i in test]


def _margin(model: AdaptedEncoder, features: np.ndarray) -> np.ndarray:
    logits = logits_of_features(model, features)
    return logits[:, 1] - logits[:, 0]


def compare(
    name: str, data: LabelledImages, shown: np.ndarray, shots: list[int], seeds: int
) -> pd.DataFrame:
    """One row a pooling and number of cases."""
    extractor = FeatureExtractor.load(device="cpu", precision="float32", readout="auto")
    features = extractor.features(images_of(data.images))
    ends = np.cumsum(sizes_of(data.images))[:-1]
    each, has = np.split(features, ends), np.split(shown, ends)
    rows = []
    for count in shots:
        if np.bincount(data.targets).min() <= count:
            continue  # nothing is left to test on
        for pool in POOLS:
            encoder = load_encoder()
            encoder.read_as(extractor.encoder.readout)
            model = adapt(encoder, "ridge", 2, pool="mean" if pool == "vote" else pool)
            found, right = [], []
            for support, test in draws(data.targets, count, seeds):
                score, decided = fit_and_score(pool, each, data.targets, support, test, model)
                found.append(score)
                right += [has[i][d] for i, d in zip(test, decided, strict=True) if has[i].any()]
            half = 1.96 * np.std(found, ddof=1) / len(found) ** 0.5
            rows.append(
                {"data": name, "cases": count, "pool": pool, "auroc": np.mean(found),
                 "low": np.mean(found) - half, "high": np.mean(found) + half,
                 "right image": np.mean(right) if right else np.nan}
            )  # fmt: skip
    return pd.DataFrame(rows)


def main() -> None:
    """Compare the poolings on what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="+", help="bags, ct, wbc=FOLDER or ham10000=FOLDER")
    parser.add_argument("--cases", type=int, nargs="+", default=[5, 10, 20])
    parser.add_argument("--shown", type=int, nargs="+", default=[1])
    parser.add_argument("--class", dest="interest", help="of interest, in real images")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--patients", type=int, default=100)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--difficulty", type=float, default=0.35)
    given = parser.parse_args()
    for text in given.data:
        name, _, folder = text.partition("=")
        sets = {}
        if name == "bags":
            data = make_bags(patients=given.patients, size=given.size, difficulty=given.difficulty)
            sets[name] = data, np.zeros(sizes_of(data.images).sum(), dtype=bool)
        elif name == "ct":
            sets[name] = ct(given.patients, given.size, given.difficulty)
        else:
            for count in given.shown:
                interest = given.interest or INTEREST[name]
                title = f"{name}, {count} {interest} of {IMAGES_PER_CASE}"
                sets[title] = bagged(Path(folder), interest, count)
        for title, (data, shown) in sets.items():
            table = compare(title, data, shown, given.cases, given.seeds)
            print(table.round(3).to_string(index=False), flush=True)


if __name__ == "__main__":
    main()
