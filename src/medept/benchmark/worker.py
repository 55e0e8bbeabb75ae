"""The tasks of Ray's workers: decode a data set, encode it once, and do one run after another."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
import traceback
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medept.benchmark.run import Run
from medept.classifier.classifier import FewShotClassifier
from medept.data.cases import decode_items, images_of, sizes_of
from medept.data.images import read_image, read_images
from medept.data.labelled_images import LabelledImages
from medept.data.sources import official_list
from medept.episodes.draw import Episode, draw_episode
from medept.episodes.lists import read_episode
from medept.errors import DataError, SettingsError
from medept.evaluation import evaluate
from medept.fits.adapter import current_versions
from medept.methods import find_pool, load_plugin
from medept.methods.pooling import MeanPool, Pool
from medept.training.device import peak_memory

DECODED = 4 * 2**30
"""Bytes of decoded images per data set that runs share; each run decodes what is beyond them."""


def decode(data: LabelledImages) -> LabelledImages:
    """The data set with its images decoded, so that no run has to do it again.

    Images that cannot be read stay as they are, so that only the runs that need them fail.
    """
    return replace(data, images=decode_items(data.images, DECODED))


def frozen_features(data: LabelledImages, run: Run) -> np.ndarray:
    """Features (n, D) of a run's frozen encoder, for all methods that leave them as they are.

    The features of an image that cannot be read are NaN.
    """
    _load_plugins(run)
    (spec,) = classifier_of(run).specifications()
    extractor, pool = spec.extractor(), _fixed_pool(run)()
    try:
        return extractor.features(data.images, pool=pool)
    except DataError:
        problems = list(read_images(images_of(data.images), lambda _: None))
        ends = np.cumsum(sizes_of(data.images))
        each = np.split(np.array([problem is None for problem in problems]), ends[:-1])
        good = [i for i, readable in enumerate(each) if readable.all()]
    found = extractor.features([data.images[i] for i in good], pool=pool)
    features = np.full((len(data), found.shape[1]), np.nan, dtype=found.dtype)
    features[good] = found
    return features


def _load_plugins(run: Run) -> None:
    """Load the method of a run, if it is from outside.

    Raises:
        SettingsError: if this machine lacks its file, or has another.
    """
    for place, plugin in run.plugins.items():
        try:
            here = load_plugin(place)
        except SettingsError as error:
            raise SettingsError(f"on the worker {platform.node()}: {error}") from error
        if here != plugin:
            raise SettingsError(
                f"{place}: on the worker {platform.node()} it is {here}, and the benchmark began "
                f"with {plugin}: put the same file there, or begin again with this one"
            )


def features_key(run: Run) -> tuple[Any, ...]:
    """What determines :func:`frozen_features`: runs with the same key share them."""
    (spec,) = classifier_of(run).specifications()
    pool = _fixed_pool(run).name
    return run.source, run.encoder, run.precision, spec.reads_every_block, pool


def _fixed_pool(run: Run) -> type[Pool]:
    """How its frozen features of cases are pooled; for a pooling that is learnt, the mean."""
    pool = find_pool(run.method.pool, run.method.method)
    return MeanPool if pool.learns else pool


def classifier_of(run: Run) -> FewShotClassifier:
    """The unfitted classifier of a run."""
    recipe, changes = run.method.recipe_within(run.recipe)
    return FewShotClassifier(
        run.encoder.name,
        run.method.method,
        encoder_weights=run.encoder.weights,
        image_size=run.encoder.image_size,
        readout=run.encoder.readout,
        symmetry=run.encoder.symmetry,
        tta=run.encoder.tta,
        fit_image=run.encoder.fit_image,
        settings=run.method.settings,
        pool=run.method.pool,
        recipe=recipe,
        recipe_settings=changes,
        precision=run.precision,
        tune=run.tune,
        seed=run.seed,
        calibrate="none",
    )


def do_run(run: Run, data: LabelledImages, features: np.ndarray) -> dict[str, Any]:
    """Fit and evaluate: a row of results, with a traceback in ``error`` if the run failed."""
    started, cpu = time.perf_counter(), time.process_time()
    _load_plugins(run)
    row = run_columns(run)
    _forget_peak_memory()
    try:
        row |= _fit_and_evaluate(run, data, features)
    except Exception:  # a failed run is a row of the results, too
        row["error"] = traceback.format_exc()
    return row | {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - cpu,
        **_peak_memory(),
        **provenance(),
    }


def run_columns(run: Run) -> dict[str, Any]:
    """The columns that say which run it is; the column ``run`` is enough to do it again."""
    return {
        "id": run.id,
        "data": run.data,
        "encoder": run.encoder.title,
        "label": run.label,
        "method": run.method.method,
        "settings": json.dumps(run.method.settings),
        "shots": run.shots,
        "episode": str(run.episode),
        "seed": run.seed,
        "run": run.model_dump_json(),
        "error": "",
    }


def _fit_and_evaluate(run: Run, data: LabelledImages, features: np.ndarray) -> dict[str, Any]:
    classifier = classifier_of(run)
    episode = _episode(run, data)
    if not len(episode.test):
        raise DataError(
            f"{run.data}: {run.shots or 'all'} shots leave nothing to test on; ask for fewer, or "
            "give it a `split` column"
        )
    support, test = data.subset(episode.support), data.subset(episode.test)
    began = time.perf_counter()
    classifier.fit(support.images, support.labels, groups=support.groups, classes=data.classes)
    fitted = time.perf_counter() - began
    if classifier.model_.alters_features or classifier.model_.pool.learns:
        probabilities = classifier.predict_proba(test.images)
    else:
        known = features[episode.test]
        for row in np.flatnonzero(np.isnan(known).any(axis=1)):
            for image in images_of([test.images[row]]):
                read_image(image)  # raises the error of an image that cannot be read
        probabilities = classifier.predict_proba_of_features(known)
    result = evaluate(probabilities, test.targets, classes=data.classes, resamples=0)
    info = classifier.info()
    return {name: metric.value for name, metric in result.metrics.items()} | {
        "support": len(support),
        "test": len(test),
        "fit_seconds": fitted,
        "trainable_parameters": info.trainable_parameters,
        "encoder_sha256": info.encoder.sha256,
        "settings": json.dumps(info.settings),
        "recipe": json.dumps(info.recipe),
        "final_loss": classifier.history_[-1]["loss"] if classifier.history_ else None,
    }


def _episode(run: Run, data: LabelledImages) -> Episode:
    if isinstance(run.episode, int):
        return draw_episode(data, run.shots, seed=run.episode)
    return read_episode(data, official_list(run.source.path, run.shots, run.episode))


@cache
def provenance() -> dict[str, Any]:
    """The versions, the commit and the machine that a run was made with."""
    return {
        "versions": json.dumps(current_versions()),
        "commit": _commit(),
        "machine": platform.node(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _commit() -> str | None:
    """Commit of the checkout that this file is in, ``-dirty`` if changed; None outside of one."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)
        return git("describe", "--always", "--abbrev=40", "--exclude=*", "--dirty")
    except (OSError, subprocess.CalledProcessError):
        return None


def _forget_peak_memory() -> None:
    """Reset the peaks: that of the GPU and, where the system allows it (Linux), of the process."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):  # not Linux, or not allowed
        Path("/proc/self/clear_refs").write_text("5")


def _peak_memory() -> dict[str, float | None]:
    """Peak memory in MB since the last reset: of the whole process, and on the GPU."""
    most = peak_memory() / 2**20
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                most = int(line.split()[1]) / 1024
    gpu = torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else None
    return {"peak_memory_mb": most, "peak_gpu_memory_mb": gpu}
