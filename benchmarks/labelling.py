"""How good a classifier is after so many labels, by the strategy that chose which images to label.

    python benchmarks/labelling.py OUT.csv --data shared/data --weights vit_tiny.safetensors
    python benchmarks/labelling.py OUT.csv --summary

Data sets are wbc, ham10000 and brain-mri below DATA, and phantoms of tissue. In each repeat a
random 60 % of the groups (lesions, patients, or single images) are the pool, and the others the
test set. A strategy chooses 10 images of the pool, is told their labels, chooses 10 more, 30 more
and 50 more. Ridge regression on frozen features learns from what is labelled, and is tested.
Of an imbalanced pool the first class is kept and the last is thinned to a tenth, with those between
them in even ratios. ``typical>margin`` is ``typical`` for the first 20 labels and then ``margin``.

A run that was stopped goes on where it was. Features are computed once (OUT-features/).
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import balanced_accuracy_score

from medept.data.dataset import read_dataset
from medept.data.labelled_images import LabelledImages
from medept.labelling.suggest import UNLABELLED, suggest
from medept.phantoms import make_phantoms
from medept.training.extractor import FeatureExtractor
from medept.workflows.label import quick_classifier

BUDGETS = (10, 20, 50, 100)
RANDOM_BUDGETS = (10, 14, 20, 28, 40, 50, 58, 70, 100)
STRATEGIES = (
    "random", "typical", "centres", "herding", "cover", "typical>margin", "typical>badge",
    "centres>margin", "herding>margin",
)  # fmt: skip
ENCODERS = ("embedded", "vit_tiny_patch16_224")
COLUMNS = ("data", "encoder", "pool", "repeat", "strategy", "labels", "balanced_accuracy")


def read(name: str, folder: Path) -> LabelledImages:
    """A data set by its name."""
    if name == "phantoms":
        return make_phantoms("colon", patients=120, images_per_patient=2, difficulty=0.6)
    options = {"group_column": "lesion"} if name == "ham10000" else {}
    table = folder / name / "labels.csv"
    return read_dataset(table, image_column="image", label_column="label", **options)


def extractor_of(encoder: str, weights: Path | None) -> FeatureExtractor:
    """An encoder, of whose features the mean over flips is taken."""
    own: dict[str, Any] = {} if encoder == "embedded" else {"weights": weights, "image_size": 112}
    return FeatureExtractor.load(
        encoder, readout="auto", symmetry="flips", device="cpu", precision="float32", **own
    )


def features_of(data: LabelledImages, extractor: FeatureExtractor, file: Path) -> np.ndarray:
    """Features (n, D) from the file, or put there."""
    if not file.exists():
        file.parent.mkdir(exist_ok=True, parents=True)
        np.save(file, extractor.features(data.images).astype(np.float16))
    return np.load(file).astype(np.float32)


def split(data: LabelledImages, pool: str, repeat: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the pool, and of the test set."""
    rng = np.random.default_rng(repeat)
    groups = np.arange(len(data)) if data.groups is None else data.groups
    names = np.unique(groups)
    inside = np.isin(groups, rng.permutation(names)[: round(0.6 * len(names))])
    rows, test = rng.permutation(np.flatnonzero(inside)), np.flatnonzero(~inside)
    if pool == "imbalanced":
        classes = len(data.classes)
        kept = []
        for c in range(classes):
            own = rows[data.targets[rows] == c]
            ratio = 10 ** (-c / max(classes - 1, 1))
            kept.append(own[: max(2, round(ratio * len(own)))])
        rows = rng.permutation(np.concatenate(kept))
    return rows, test


def chosen(
    strategy: str, features: np.ndarray, targets: np.ndarray, seed: int
) -> Iterator[np.ndarray]:
    """The rows that are labelled, at each budget that the pool is large enough for."""
    first, _, later = strategy.partition(">")
    labels = np.full(len(features), UNLABELLED)
    for budget in RANDOM_BUDGETS if strategy == "random" else BUDGETS:
        if budget > 0.8 * len(features):
            return
        have = int((labels != UNLABELLED).sum())
        now = later if later and have >= 20 else first
        if len(set(labels[labels >= 0].tolist())) < 2 and now == later:
            now = first
        rows = suggest(features, labels, budget - have, strategy=now, seed=seed + have)
        labels[rows] = targets[rows]
        yield np.flatnonzero(labels >= 0)


def summary(table: pd.DataFrame) -> None:
    """Print means over data sets, and how many random labels are as good."""
    for keys, part in table.groupby(["encoder", "pool"], sort=False):
        print(f"\n{' '.join(keys)}: {part['repeat'].nunique()} repeats")
        complete = part.groupby(["data", "strategy", "labels"])["balanced_accuracy"].mean()
        means = complete.groupby(["strategy", "labels"]).mean().unstack()
        print(means.round(3).to_string(na_rep=""))
    print("\nbalanced accuracy above random, with its 95 % interval over all pools and repeats")
    keys = ["data", "encoder", "pool", "repeat", "labels"]
    wide = table.set_index([*keys, "strategy"])["balanced_accuracy"].unstack()
    for budget in BUDGETS:
        rows = wide.xs(budget, level="labels")
        for name in wide.columns.drop("random"):
            gain = (rows[name] - rows["random"]).dropna()
            if not len(gain):
                continue
            error = 1.96 * gain.std() / len(gain) ** 0.5
            print(f"{budget:4} {name:16} {gain.mean():+.3f} ± {error:.3f} ({len(gain)})")
    print("\nchosen labels against random ones that cost more")
    for budget, others in ((20, 28), (50, 58)):
        few, many = wide.xs(budget, level="labels"), wide.xs(others, level="labels")["random"]
        for name in wide.columns.drop("random"):
            gain = (few[name] - many).dropna()
            if not len(gain):
                continue
            error = 1.96 * gain.std() / len(gain) ** 0.5
            print(f"{budget} of {name:16} - {others} random: {gain.mean():+.3f} ± {error:.3f}")


def run(out: Path, options: argparse.Namespace) -> None:
    """Append what is not there yet."""
    done = set()
    if out.exists():
        done = set(pd.read_csv(out)[list(COLUMNS[:5])].itertuples(index=False, name=None))
    else:
        out.write_text(",".join(COLUMNS) + "\n", encoding="utf-8")
    store = out.with_name(f"{out.stem}-features")
    sets = {name: read(name, options.data) for name in options.sets}
    loaded, learners = {}, {}
    for encoder in options.encoders:
        extractor = extractor_of(encoder, options.weights)
        learners[encoder] = quick_classifier(extractor)
        for name, data in sets.items():
            features = features_of(data, extractor, store / f"{name}-{encoder}.npy")
            loaded[name, encoder] = features, data
            print(name, encoder, features.shape, flush=True)
    for repeat in range(options.repeats):
        for (name, encoder), (features, data) in loaded.items():
            for pool in ("balanced", "imbalanced"):
                rows, test = split(data, pool, repeat)
                truth = data.targets[test]
                for strategy in options.strategies:
                    key = (name, encoder, pool, repeat, strategy)
                    if key in done:
                        continue
                    lines = []
                    for labelled in chosen(strategy, features[rows], data.targets[rows], repeat):
                        own = rows[labelled]
                        found = learners[encoder](features[own], data.targets[own], features[test])
                        score = round(balanced_accuracy_score(truth, found), 5)
                        lines.append(",".join(map(str, (*key, len(labelled), score))))
                    with out.open("a", encoding="utf-8") as file:
                        file.write("".join(line + "\n" for line in lines))
        print(f"repeat {repeat} done", flush=True)


def main() -> None:
    """Read options, run, and print the summary."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, default=Path("shared/data"))
    parser.add_argument("--weights", type=Path, help="of the ViT-Ti")
    parser.add_argument("--sets", nargs="+", default=["wbc", "brain-mri", "phantoms", "ham10000"])
    parser.add_argument("--encoders", nargs="+", default=list(ENCODERS))
    parser.add_argument("--strategies", nargs="+", default=list(STRATEGIES))
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--summary", action="store_true", help="only print what is there")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    if not options.summary:
        run(options.out, options)
    summary(pd.read_csv(options.out))


if __name__ == "__main__":
    main()
