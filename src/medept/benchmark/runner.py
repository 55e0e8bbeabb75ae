"""Runs a suite on Ray: one machine by default, a cluster by its address.

Each run that ends is a JSON file of its own in ``DIR/runs``, written whole, and a row of
``DIR/results.parquet``, which can be read at any time. A suite that was killed goes on where it
stopped: what has its file is not repeated. A run that fails is tried once more, and is then a row
with its traceback.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import time
import traceback
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medept.benchmark.suite import Run, Suite
from medept.data.table import LabelledImages
from medept.errors import InputError
from medept.files import whole_file, write_text
from medept.training.loop import Progress, silent

ATTEMPTS = 2
SECONDS_BETWEEN_TABLES = 20.0


def run_suite(
    suite: Suite,
    out: Path,
    *,
    workers: int | None = None,
    address: str | None = None,
    progress: Progress = silent,
) -> pd.DataFrame:
    """Do what is missing of ``suite`` in ``out``; returns all of its rows.

    Args:
        out: may hold an earlier part of the same suite, or other suites' runs.
        workers: runs at a time; None: one a core.
        address: of a Ray cluster; None: this machine.

    Raises:
        InputError: if Ray is missing, or a data set cannot be read.
    """
    runs = {run.id: run for run in suite.runs()}
    folder = out / "runs"
    folder.mkdir(parents=True, exist_ok=True)
    write_text(out / "suite.json", suite.model_dump_json(indent=2) + "\n")
    left = [run for name, run in runs.items() if not (folder / f"{name}.json").exists()]
    if left:
        _run_all(left, out, len(runs), workers, address, progress)
    return write_results(out, list(runs))


def write_results(out: Path, names: list[str] | None = None) -> pd.DataFrame:
    """Gather ``DIR/runs`` into ``results.parquet``; returns the rows of the runs named, or all."""
    rows = [json.loads(file.read_text()) for file in sorted((out / "runs").glob("*.json"))]
    table = pd.DataFrame(rows)
    with whole_file(out / "results.parquet") as partial:
        table.to_parquet(partial, index=False)
    return table if names is None else table[table["id"].isin(names)].reset_index(drop=True)


def _run_all(
    runs: list[Run],
    out: Path,
    total: int,
    workers: int | None,
    address: str | None,
    progress: Progress,
) -> None:
    ray = _start_ray(address, workers)
    try:
        read = ray.remote(num_cpus=1)(read_images)
        encode = ray.remote(num_cpus=1)(frozen_features)
        do = ray.remote(num_cpus=1, max_retries=0)(one_run)
        shared: dict[Any, Any] = {}

        def once(key: Any, task: Any, *arguments: Any) -> Any:
            """A reference to what a task gives, which is done for the first who asks."""
            if key not in shared:
                shared[key] = task.remote(*arguments)
            return shared[key]

        waiting = [(run, 1) for run in reversed(runs)]
        running: dict[Any, tuple[Run, int]] = {}
        done, tabled = total - len(runs), time.monotonic()
        limit = workers or int(ray.cluster_resources().get("CPU", 1))
        while waiting or running:
            while waiting and len(running) < 2 * limit:  # as many again stand ready
                run, attempt = waiting.pop()
                data = once(run.source, read, run.source)
                features = once(
                    (run.source, run.encoder.model_dump_json()), encode, data, run.encoder
                )
                running[do.remote(run, data, features)] = (run, attempt)
            progress("runs", done, total)
            (ready,), _ = ray.wait(list(running), num_returns=1)
            run, attempt = running.pop(ready)
            row = _result(ray, ready, run)
            if row["error"] and attempt < ATTEMPTS:
                waiting.append((run, attempt + 1))
                continue
            write_text(
                out / "runs" / f"{run.id}.json", json.dumps(row | {"attempts": attempt}) + "\n"
            )
            done += 1
            if time.monotonic() - tabled > SECONDS_BETWEEN_TABLES:
                write_results(out)
                tabled = time.monotonic()
        progress("runs", done, total)
    finally:
        ray.shutdown()


def _start_ray(address: str | None, workers: int | None) -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise InputError("medept bench needs an extra: pip install 'medept[bench]'") from error
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        options |= {"include_dashboard": False, "num_cpus": workers}
    ray.init(address=address, **options)
    return ray


def _result(ray: Any, reference: Any, run: Run) -> dict[str, Any]:
    """A run's row; where the worker itself died, or could not even begin, one that says so."""
    try:
        return ray.get(reference)
    except Exception:  # whatever went wrong in a worker is a failed run, not a failed suite
        return describe(run) | {"error": traceback.format_exc()}


def describe(run: Run) -> dict[str, Any]:
    """The columns that say what a run is."""
    return {
        "id": run.id,
        "data": run.data,
        "encoder": run.encoder.name,
        "image_size": run.encoder.image_size,
        "label": run.label,
        "method": run.method.method,
        "settings": json.dumps(run.method.settings),
        "shots": run.shots,
        "episode": str(run.episode),
        "seed": run.seed,
        "run": run.model_dump_json(),
        "error": "",
    }


def read_images(source: str) -> LabelledImages:
    """A data set with its images decoded, so that no run has to do it again."""
    from dataclasses import replace

    from medept.data.images import read_image
    from medept.data.phantoms import make_phantoms
    from medept.data.sources import open_dataset

    name, _, task = source.partition(":")
    if name == "phantoms":
        return make_phantoms(task, patients=120, images_per_patient=2)
    data = open_dataset(source)
    return replace(data, images=tuple(np.asarray(read_image(image)) for image in data.images))


def frozen_features(data: LabelledImages, encoder: Any) -> np.ndarray:
    """Features (n, D) of the encoder as it came, for methods that leave it so."""
    return _classifier(encoder).embed(data.images)


def _classifier(encoder: Any, **options: Any) -> Any:
    from medept.classifier import FewShotClassifier

    return FewShotClassifier(
        encoder.name,
        encoder_weights=encoder.weights,
        image_size=encoder.image_size,
        calibrate="none",
        **options,
    )


def one_run(run: Run, data: LabelledImages, features: np.ndarray) -> dict[str, Any]:
    """Fit and evaluate; a row, with the traceback in ``error`` if it failed."""
    started, cpu = time.perf_counter(), time.process_time()
    row = describe(run)
    _forget_peak_memory()
    try:
        row |= _fit_and_evaluate(run, data, features)
    except Exception:  # a failed run is a row
        row["error"] = traceback.format_exc()
    return row | {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - cpu,
        "peak_memory_mb": _peak_memory_mb(),
        **provenance(),
    }


def _fit_and_evaluate(run: Run, data: LabelledImages, features: np.ndarray) -> dict[str, Any]:
    from medept.data.episodes import draw_episode, read_episode
    from medept.data.sources import official_list
    from medept.evaluation import evaluate

    options = {"recipe": run.recipe, "tune": run.tune, "seed": run.seed} | run.method.recipe
    classifier = _classifier(
        run.encoder, method=run.method.method, settings=run.method.settings, **options
    )
    if isinstance(run.episode, int):
        episode = draw_episode(data, run.shots, seed=run.episode)
    else:
        episode = read_episode(data, official_list(run.source, run.shots, run.episode))
    support, test = data.subset(episode.support), data.subset(episode.test)
    began = time.perf_counter()
    classifier.fit(support.images, support.labels, groups=support.groups, classes=data.classes)
    fitted = time.perf_counter() - began
    if classifier.model_.trains_encoder:
        probabilities = classifier.predict_proba(test.images)
    else:
        probabilities = classifier.predict_proba_of_features(features[episode.test])
    result = evaluate(probabilities, test.targets, classes=data.classes, resamples=1)
    info = classifier.info()
    return {name: metric.value for name, metric in result.metrics.items()} | {
        "support": len(support),
        "test": len(test),
        "fit_seconds": fitted,
        "trainable_parameters": info.trainable_parameters,
        "encoder_sha256": info.encoder.sha256,
        "recipe": json.dumps(info.recipe),
        "final_loss": classifier.history_[-1]["loss"] if classifier.history_ else None,
    }


@cache
def provenance() -> dict[str, Any]:
    """With what, and on what, a run was made."""
    from medept.adapter import current_versions

    here = Path(__file__).parent
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=False
    )
    return {
        "versions": json.dumps(current_versions()),
        "commit": commit.stdout.strip() or None,
        "machine": platform.node(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
    }


def _forget_peak_memory() -> None:
    """Let the kernel count this process's peak afresh (Linux; elsewhere it is the process's)."""
    if Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")


def _peak_memory_mb() -> float:
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
