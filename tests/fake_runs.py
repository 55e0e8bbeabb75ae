"""Rows of results, for tests of scores and reports of a benchmark."""

from __future__ import annotations

import numpy as np
import pandas as pd


def fake_run(
    label: str, data: str, shots: float | None, episode: int, seed: int, **values: object
) -> dict:
    """A row as a run leaves it, of a run that never was."""
    return {
        "id": f"{label}-{data}-{shots}-{episode}-{seed}", "data": data, "encoder": "some ViT",
        "label": label, "method": label, "settings": "{}", "shots": shots, "episode": str(episode),
        "seed": seed, "error": "", "seconds": 2.0, "fit_seconds": 1.5, "peak_memory_mb": 100.0,
        "trainable_parameters": 10, **values,
    }  # fmt: skip


def fake_runs(methods: tuple[str, ...] = ("linear", "ept", "vpt")) -> pd.DataFrame:
    random = np.random.default_rng(0)
    return pd.DataFrame(
        [
            fake_run(
                label,
                data,
                shots,
                episode,
                seed,
                accuracy=None if data == "medfmc-chest" else value,
                balanced_accuracy=None if data == "medfmc-chest" else value - 0.1,
                map=value if data == "medfmc-chest" else None,
            )
            for i, label in enumerate(methods)
            for data in ("medfmc-chest", "medfmc-colon")
            for shots in (1, 5)
            for episode in range(5)
            for seed in range(2)
            for value in [0.5 + 0.02 * i + 0.05 * random.normal()]
        ]
    )
