"""Suites, finished benchmarks and a Ray that tests share."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_runs import fake_run, fake_runs

from medept.benchmark import runner
from medept.benchmark.cluster import ray_session
from medept.benchmark.suite import read_suite

SUITE = """
title: Two methods on phantoms
data: {colon: "phantoms:colon:12"}
methods: {linear: , knn: }
shots: [1, 2]
episodes: 3
"""


@pytest.fixture
def suite_file(tmp_path: Path) -> Path:
    (tmp_path / "suite.yaml").write_text(SUITE)
    return tmp_path / "suite.yaml"


@pytest.fixture(scope="module")
def ray_of_module() -> Iterator[Any]:
    """Ray with one core, started once for the tests of a module."""
    pytest.importorskip("ray")
    with ray_session(None, 1) as ray:
        yield ray


@pytest.fixture
def shared_ray(ray_of_module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Suites run on the Ray of the module, instead of starting one of their own."""

    @contextmanager
    def session(address: str | None, cores: int | None) -> Iterator[Any]:
        assert (address, cores) == (None, 1)
        yield ray_of_module

    monkeypatch.setattr(runner, "ray_session", session)


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A folder as the benchmark of table 1 leaves it."""
    places = {f"medfmc-{name}": "somewhere" for name in ("chest", "colon", "endo")}
    (tmp_path / "runs").mkdir()
    (tmp_path / "suite.json").write_text(read_suite("paper-table1", data=places).model_dump_json())
    runs = fake_runs().to_dict(orient="records")
    runs.append(
        fake_run("lora", "medfmc-colon", 1, 0, 0) | {"error": "Traceback\nNoLuck: <b>none</b>"}
    )
    for i, row in enumerate(runs):
        clean = {k: None if isinstance(v, float) and np.isnan(v) else v for k, v in row.items()}
        (tmp_path / "runs" / f"{i:03}.json").write_text(json.dumps(clean))
    return tmp_path
