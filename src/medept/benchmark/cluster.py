"""Starting Ray on this machine, or joining a cluster, for the runs of a benchmark."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from medept.errors import ResourceError

CONNECT_SECONDS = 20.0
"""How long a cluster may take to answer."""

STARTS = 3
"""How often Ray is started. It allows its processes 30 seconds, and a busy machine needs more."""

LOCAL_CONFIG = {"health_check_failure_threshold": 1000}
"""Ray's settings for this machine alone. By default Ray ends this process without a word if it does
not get an answer from itself for a minute, as when the machine is busy or was asleep."""


@contextmanager
def ray_session(address: str | None, cores: int | None) -> Iterator[Any]:
    """The module ``ray``, connected until the end of the block.

    Args:
        address: of a cluster; None to start Ray on this machine.
        cores: that Ray may use on this machine; None for all.

    Raises:
        InputError: if Ray is not installed, does not start, or the cluster does not answer.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise ResourceError("medept bench needs an extra: pip install 'medept[bench]'") from error
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        options |= {"include_dashboard": False, "num_cpus": cores, "_system_config": LOCAL_CONFIG}
    try:
        if address is not None:
            check_answers(address)
        start(ray, address or "local", options)  # "local" overrides RAY_ADDRESS
    except OSError as error:
        if address is None:
            raise
        raise ResourceError(
            f"no Ray cluster answers at {address} ({error}): see `ray status` there; where it asks "
            "for a token, set RAY_AUTH_MODE=token here and have its token in ~/.ray/auth_token"
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def check_answers(address: str) -> None:
    """Fail at once if nothing listens at ``HOST:PORT``; Ray would try for minutes.

    Raises:
        OSError: if nothing listens there.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()


def start(ray: Any, address: str, options: dict[str, Any]) -> None:
    """Start or join Ray, and try again if it took too long.

    Raises:
        InputError: if it took too long each time.
    """
    for _ in range(STARTS):
        try:
            ray.init(address=address, **options)
            return
        except Exception as error:
            if "AF_UNIX path" in str(error):
                raise ResourceError(
                    f"the path of the folder for temporary files, {tempfile.gettempdir()}, is too "
                    "long for Ray's sockets: set TMPDIR to a shorter one, such as /tmp"
                ) from error
            if "timed out during startup" not in str(error):
                raise
            ray.shutdown()
    raise ResourceError(
        f"Ray did not start within 30 seconds, {STARTS} times in a row: this machine is too busy; "
        "give the same command again when it is less so"
    )


def check_room(ray: Any, cores: int, gpus: float) -> None:
    """Refuse runs that no machine has room for; Ray would wait for such a machine forever.

    Raises:
        InputError: if a run needs more cores or GPUs than any machine has.
    """
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    rooms = [(int(machine.get("CPU", 0)), machine.get("GPU", 0.0)) for machine in machines]
    if not any(cores <= room[0] and gpus <= room[1] for room in rooms):
        there = "; ".join("{} cores and {:g} GPUs".format(*room) for room in rooms)
        raise ResourceError(
            f"no machine has room for a run of {cores} cores and {gpus:g} GPUs: give less with "
            f"cores= or gpus= (there: {there})"
        )
