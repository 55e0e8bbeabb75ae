"""Does a gate that sees what a token shows make it worth while to train prompts?

Prompts that are learnt for each token's place do hardly more than those that stay as they were
drawn (docs/results.md). Prompts with keys know what the token shows. This compares, on the same
support sets and test images: no prompts, EPT, EPT that stays as drawn, one and four keys, and four
keys that bring values with them (prefix tuning); each also with its head fitted again in closed
form, on the features of the tuned encoder and their mirror images.

A row a run is appended to a CSV file, and runs that it has are passed over. The first runs are as
balanced as all: they go through shots, data sets, encoders and methods of one support set before
they begin the next.

    python benchmarks/prompt_keys.py keys.csv --weights vit_tiny_patch16_224.safetensors \\
        --data wbc=WBC/labels.csv --data brain-mri=MRI/labels.csv \\
        --data ham10000=HAM/labels.csv:lesion
    python benchmarks/prompt_keys.py keys.csv
"""

from __future__ import annotations

import argparse
import csv
import itertools
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import stats

from medept import FewShotClassifier
from medept.benchmark.run import DataSpec
from medept.data.labelled_images import LabelledImages
from medept.episodes.draw import draw_episode
from medept.evaluation import evaluate
from medept.methods import adapt
from medept.training.inference import logits_of_features
from medept.training.views import Views

METHODS: dict[str, dict[str, Any]] = {
    "linear": {"method": "linear"},
    "ept": {"method": "ept"},
    "ept, frozen": {"method": "ept", "settings": {"frozen": True}},
    "keys, 1": {"method": "ept", "settings": {"way": "keys", "length": 1}},
    "keys, 4": {"method": "ept", "settings": {"way": "keys", "length": 4}},
    "prefix, 4": {"method": "prefix", "settings": {"length": 4}},
}
TEST_IMAGES = 200
RUN = ["episode", "shots", "data", "encoder", "method"]
HEADS = ["score", "ridge", "lda"]
"""Balanced accuracy with the head that was trained, and with those that are fitted again."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("file", type=Path, help="CSV file of the runs")
    parser.add_argument("--data", action="append", default=[], metavar="NAME=FILE[:GROUPS]")
    parser.add_argument("--weights", type=Path, help="of vit_tiny_patch16_224; without: not run")
    parser.add_argument("--episodes", type=int, nargs="+", default=range(20, 25), metavar="SEED")
    parser.add_argument("--shots", type=int, nargs="+", default=[5, 1, 10], metavar="COUNT")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--epochs", type=int, help="fewer than the recipe's, to try the script")
    given = parser.parse_args()
    encoders: dict[str, dict[str, Any]] = {"embedded": {}}
    if given.weights:
        name = "vit_tiny_patch16_224"
        encoders[name] = {"encoder": name, "encoder_weights": given.weights, "image_size": 112}
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", "1 class has")  # wbc has one basophil
    data = dict(map(read_data, given.data))
    runs = itertools.product(given.episodes, given.shots, data, encoders, given.methods)
    run_all(given.file, list(runs), data, encoders, given.epochs)
    rows = pd.read_csv(given.file)
    print(show(rows[rows.episode.isin(given.episodes)]))


def read_data(text: str) -> tuple[str, LabelledImages]:
    name, _, path = text.partition("=")
    path, _, groups = path.partition(":")
    return name, DataSpec(path=path, group_column=groups or None).read()


def run_all(
    file: Path,
    runs: list[tuple[Any, ...]],
    data: dict[str, LabelledImages],
    encoders: dict[str, dict[str, Any]],
    epochs: int | None,
) -> None:
    """Do the runs that the file does not have, telling how long the rest will take."""
    done = set()
    if file.exists():
        done = set(pd.read_csv(file)[RUN].itertuples(index=False, name=None))
    left = [run for run in runs if run not in done]
    began = time.perf_counter()
    for i, run in enumerate(left, start=1):
        episode, shots, name, encoder, method = run
        options = encoders[encoder] | METHODS[method] | {"epochs": epochs}
        row = dict(zip(RUN, run, strict=True)) | do_run(data[name], shots, episode, options)
        with file.open("a", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, row)
            if not stream.tell():
                writer.writeheader()
            writer.writerow(row)
        minutes = (time.perf_counter() - began) / i * (len(left) - i) / 60
        print(f"{i}/{len(left)}, {minutes:.0f} min left: {run} {row['score']:.3f}", flush=True)


def do_run(
    data: LabelledImages, shots: int, seed: int, options: dict[str, Any]
) -> dict[str, float]:
    """Balanced accuracy with each head, and the seconds that the fit took."""
    episode = draw_episode(data, shots, seed=seed)
    rows = np.random.default_rng(seed).permutation(episode.test)[:TEST_IMAGES]
    support, test = data.subset(episode.support), data.subset(rows)
    classifier = FewShotClassifier(
        **options, precision="float32", device="cpu", calibrate="none", seed=seed
    )
    began = time.perf_counter()
    classifier.fit(support.images, support.labels, groups=support.groups, classes=data.classes)
    seconds = time.perf_counter() - began
    model, features = classifier.model_, classifier.embed(test.images)
    views = Views(support.images, model.encoder.preprocessing)
    pixels = torch.stack([views.evaluation_view(i) for i in range(len(support))])
    with torch.inference_mode():
        seen = torch.stack([model.features(p) for p in (pixels, pixels.flip(-1))], dim=1).numpy()
    found = {"score": balanced_accuracy(logits_of_features(model, features), test)}
    for head in HEADS[1:]:
        refitted = adapt(model.encoder, head, len(data.classes))
        refitted.fit_views(seen, support.targets, None)
        found[head] = balanced_accuracy(logits_of_features(refitted, features), test)
    return found | {"support": len(support), "test": len(test), "seconds": seconds}


def balanced_accuracy(logits: np.ndarray, test: LabelledImages) -> float:
    probabilities = torch.as_tensor(logits).double().softmax(dim=1).numpy()
    found = evaluate(probabilities, test.targets, classes=test.classes, resamples=0)
    return found.metrics["balanced_accuracy"].value


def show(rows: pd.DataFrame) -> str:
    """Tables of paired differences, each over the cells in which both methods have run."""
    wide = rows.pivot_table(index=RUN[:-1], columns="method", values=HEADS)
    score = wide["score"]
    there = ", ".join(f"{name} {wide.index.unique(name).tolist()}" for name in RUN[:-1])
    methods = [method for method in METHODS if method in score]
    groups = {f"{e}, {s} shots": d for (e, s), d in score.groupby(level=["encoder", "shots"])}
    columns = groups | {"all": score}
    lines = [f"{len(wide)} cells: {there}"]
    for against in methods[:3]:
        lines += _header(f"minus {against}", *columns)
        for method in methods:
            lines.append(_row(method, *(d[method] - d[against] for d in columns.values())))
    lines += _header("fitted again, minus trained", *HEADS[1:])
    for method in methods:
        lines.append(_row(method, *(wide[head][method] - score[method] for head in HEADS[1:])))
    return "\n".join(lines)


def _header(*cells: str) -> list[str]:
    return ["", f"| {' | '.join(cells)} |", f"|{' --- |' * len(cells)}"]


def _row(method: str, *differences: pd.Series) -> str:
    return f"| {method} | {' | '.join(map(interval, differences))} |"


def interval(differences: pd.Series) -> str:
    """Mean and 95 % interval (Student's t) over pairs of data set and support set."""
    units = differences.dropna().groupby(["data", "episode"]).mean()
    if len(units) < 2:
        return f"{units.mean():+.3f}"
    half = stats.t.ppf(0.975, len(units) - 1) * units.sem()
    return f"{units.mean():+.3f} ± {half:.3f} ({(units > 0).sum()} of {len(units)})"


if __name__ == "__main__":
    main()
