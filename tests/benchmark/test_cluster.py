"""Starting Ray, joining a cluster, and what goes wrong there."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from medept.benchmark import cluster, runner
from medept.benchmark.run import Run
from medept.benchmark.runner import run_suite
from medept.benchmark.suite import read_suite
from medept.benchmark.worker import run_columns
from medept.errors import InputError

ray = pytest.importorskip("ray")


def test_ray_that_does_not_start_in_time_is_started_again() -> None:
    class Slow:
        starts = ends = 0

        def init(self, **_: Any) -> None:
            self.starts += 1
            if self.starts < 3:
                raise Exception("The current node timed out during startup. This could happen")

        def shutdown(self) -> None:
            self.ends += 1

    slow = Slow()
    cluster.start(slow, "local", {})
    assert (slow.starts, slow.ends) == (3, 2)
    slow.starts = -9
    with pytest.raises(InputError, match="too busy; give the same command again"):
        cluster.start(slow, "local", {})


def test_ray_outlasts_a_pause_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked whether it is alive each tenth of a second, and stopped for much longer than that."""
    hasty = {
        "health_check_period_ms": 100,
        "health_check_timeout_ms": 100,
        "health_check_initial_delay_ms": 0,
        "raylet_liveness_self_check_interval_ms": 200,
    }
    monkeypatch.setattr(cluster, "LOCAL_CONFIG", hasty | cluster.LOCAL_CONFIG)
    monkeypatch.setenv("RAY_ADDRESS", "192.0.2.1:6379")  # no cluster is asked unless by --address
    with cluster.ray_session(None, 1) as started:
        task = started.remote(lambda: 1)
        assert started.get(task.remote()) == 1
        raylet = next(p for p in psutil.Process().children() if p.name() == "raylet")
        raylet.suspend()
        time.sleep(5)
        raylet.resume()
        time.sleep(1)
        assert started.get(task.remote()) == 1


def test_a_cluster_is_joined_by_its_address(
    suite_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two nodes with a core each, both of which have their part."""
    from ray.cluster_utils import Cluster

    log, out = tmp_path / "log", tmp_path / "out"

    def noted(run: Run, data: object, features: object) -> dict[str, Any]:
        with log.open("a") as file:
            file.write(f"{ray.get_runtime_context().get_node_id()}\n")
        time.sleep(0.3)
        return run_columns(run)

    monkeypatch.setattr(runner, "do_run", noted)
    monkeypatch.setattr(runner, "decode", lambda data: data)
    monkeypatch.setattr(runner, "frozen_features", lambda *_: None)
    nodes = Cluster()
    try:
        for _ in range(2):
            nodes.add_node(num_cpus=1, include_dashboard=False)
        rows = run_suite(read_suite(str(suite_file)), out, address=nodes.address)
    finally:
        nodes.shutdown()
    assert len(rows) == 12
    assert (rows.error == "").all()
    assert len(set(log.read_text().split())) == 2


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9"])
def test_a_cluster_that_does_not_answer_is_told(
    suite_file: Path, tmp_path: Path, address: str
) -> None:
    with pytest.raises(InputError, match=rf"{address} \(.*refused.*RAY_AUTH_MODE=token"):
        run_suite(read_suite(str(suite_file)), tmp_path / "out", address=address)


def test_what_no_machine_has_room_for_is_told() -> None:
    class Ray:
        @staticmethod
        def nodes() -> list[dict[str, Any]]:
            return [
                {"Alive": True, "Resources": {"CPU": 8.0}},
                {"Alive": True, "Resources": {"CPU": 2.0, "GPU": 1.0}},
                {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}},
            ]

    cluster.check_room(Ray, 8, 0)
    cluster.check_room(Ray, 2, 0.25)
    with pytest.raises(InputError, match="there: 8 cores and 0 GPUs; 2 cores and 1 GPUs"):
        cluster.check_room(Ray, 4, 1)
    with pytest.raises(InputError, match="64 cores"):
        cluster.check_room(Ray, 64, 0)


def test_a_long_path_of_temporary_files_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ray:
        @staticmethod
        def init(**_: object) -> None:
            raise OSError("AF_UNIX path length cannot exceed 107 bytes: /tmp/very/long")

    monkeypatch.setattr("tempfile.tempdir", "/very/long")
    with pytest.raises(InputError, match="/very/long, is too long for Ray's.*set TMPDIR"):
        cluster.start(Ray, "local", {})
