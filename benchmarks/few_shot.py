"""Few-shot runs over data sets, methods, shots and seeds; one row a run, resumable; a table.

    python benchmarks/few_shot.py --out runs.csv --methods linear ept --shots 1 5 10 --seeds 5 \
        wbc=DATA/wbc/labels.csv brain-mri=DATA/brain-mri/labels.csv phantoms:colon

Runs that are in the file already are not repeated. A run that fails is a row with its error.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path

import pandas as pd
from rich.progress import track

from medept.classifier import FewShotClassifier
from medept.data.phantoms import make_phantoms
from medept.data.table import LabelledImages, read_dataset
from medept.errors import InputError
from medept.evaluation import evaluate
from medept.files import write_table
from medept.jobs import fit_episode

KEY = ["encoder", "data", "method", "settings", "shots", "seed"]


def open_dataset(text: str) -> tuple[str, LabelledImages]:
    """``NAME=TABLE``, or ``phantoms:TASK`` (120 drawn patients, two images each)."""
    name, equals, table = text.partition("=")
    if equals:
        return name, read_dataset(table)
    return name, make_phantoms(name.partition(":")[2], patients=120, images_per_patient=2)


def one_run(data: LabelledImages, key: dict, options: dict) -> dict:
    """Metrics and seconds of one fit, or its error."""
    started = time.perf_counter()
    try:
        settings = json.loads(key["settings"])
        classifier = FewShotClassifier(
            key["encoder"],
            key["method"],
            settings=settings,
            seed=key["seed"],
            calibrate="none",
            **options,
        )
        support, test = fit_episode(data, classifier, key["shots"])
        result = evaluate(
            classifier.predict_proba(test.images), test.targets, classes=data.classes, resamples=1
        )
    except InputError as error:
        return key | {"error": str(error)}
    values = {name: metric.value for name, metric in result.metrics.items()}
    seconds = time.perf_counter() - started
    return key | values | {"support": len(support), "seconds": seconds, "error": ""}


def table(runs: pd.DataFrame, metrics: list[str]) -> str:
    """Markdown: mean ± standard deviation over seeds, methods down, shots across."""
    lines = []
    for (encoder, data), part in runs.groupby(["encoder", "data"], sort=False):
        shots = sorted(part.shots.unique())
        for metric in metrics:
            if metric not in part or part[metric].isna().all():
                continue
            lines += ["", f"**{data}**, {encoder}, {metric}", ""]
            lines += ["| method | " + " | ".join(f"{k} shots" for k in shots) + " |"]
            lines += ["| --- |" + " --- |" * len(shots)]
            for (method, settings), rows in part.groupby(["method", "settings"], sort=False):
                cells = [rows[rows.shots == k][metric] for k in shots]
                text = [f"{c.mean():.3f} ± {c.std():.3f} (n = {c.count()})" for c in cells]
                name = method if settings == "{}" else f"{method} {settings}"
                lines.append(f"| {name} | " + " | ".join(text) + " |")
    return "\n".join(lines)


def main() -> None:
    """Read the command line, run what is missing, print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("data", nargs="+", help="NAME=TABLE or phantoms:TASK")
    parser.add_argument("--out", type=Path, required=True, help="CSV file of runs, continued")
    parser.add_argument("--methods", nargs="+", default=["linear", "ept"],
                        help="NAME, or NAME:JSON with settings")  # fmt: skip
    parser.add_argument("--shots", nargs="+", type=int, default=[1, 5, 10])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--recipe", default="medept")
    parser.add_argument("--encoder-lr", type=float)
    parser.add_argument("--encoder", default="embedded")
    parser.add_argument("--encoder-weights")
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--metrics", nargs="+", default=["balanced_accuracy", "auroc", "map"])
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    options = {
        "encoder_weights": arguments.encoder_weights, "image_size": arguments.image_size,
        "recipe": arguments.recipe, "encoder_lr": arguments.encoder_lr,
    }  # fmt: skip
    runs = pd.DataFrame(columns=KEY)
    if arguments.out.exists():
        runs = pd.read_csv(arguments.out, keep_default_na=False, na_values=[""])
    done = {tuple(row) for row in runs[KEY].itertuples(index=False)}
    jobs = [
        (data, dict(zip(KEY, (arguments.encoder, name, *method_of(m), k, seed), strict=True)))
        for seed in range(arguments.seeds)
        for name, data in map(open_dataset, arguments.data)
        for k in arguments.shots
        for m in arguments.methods
    ]
    for data, key in track([j for j in jobs if tuple(j[1].values()) not in done], "runs"):
        runs = pd.concat([runs, pd.DataFrame([one_run(data, key, options)])], ignore_index=True)
        write_table(arguments.out, runs)
    print(table(runs, arguments.metrics))


def method_of(text: str) -> tuple[str, str]:
    """``ept:{"length": 5}`` -> its name and its settings as JSON."""
    name, _, settings = text.partition(":")
    return name, json.dumps(json.loads(settings or "{}"))


if __name__ == "__main__":
    main()
