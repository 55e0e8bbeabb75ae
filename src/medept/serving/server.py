"""Runs the service on a port until it is told to stop."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from medept.errors import ResourceError

try:
    import prometheus_client  # noqa: F401
    import python_multipart  # noqa: F401
    import uvicorn
    from fastapi import FastAPI  # noqa: F401
except ImportError as error:
    raise ResourceError("the service needs an extra: pip install 'medept[serve]'") from error

from medept.serving.access import read_token
from medept.serving.limits import Limits
from medept.serving.listen import bound
from medept.serving.served import load_models
from medept.serving.service import make_app


def serve(
    folders: Sequence[Path],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token_file: Path | None = None,
    limits: Limits,
    encoder_weights: Path | None = None,
    tta: int | None = None,
    device: str = "auto",
    precision: str = "auto",
    started: Callable[[str, list[str]], None] = lambda address, names: None,
) -> None:
    """Serve the adapters in these folders; on SIGTERM, finish what is in flight and return.

    Args:
        folders: of fits.
        host: an address of this machine; one that others can reach needs a token.
        port: where to listen; 0 takes any that is free.
        token_file: holds the token that requests have to bring.
        limits: of requests.
        encoder_weights: where the encoder's weights are, if they have moved.
        tta: how many views a prediction averages over; None as in the fit.
        device: as in :class:`~medept.FewShotClassifier`, and so is ``precision``.
        started: called with the address and the models' names once it listens.

    Raises:
        InputError: if the token or an adapter cannot be used, or the port is taken.
    """
    token = read_token(host, token_file)
    with bound(host, port) as held:
        models = load_models(
            folders, encoder_weights=encoder_weights, tta=tta, device=device, precision=precision
        )
        config = uvicorn.Config(
            make_app(models, limits, token),
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws="none",
            timeout_graceful_shutdown=math.ceil(limits.timeout) + 5,
        )
        shown = f"[{host}]" if ":" in host else host
        started(f"http://{shown}:{held.getsockname()[1]}", list(models))
        uvicorn.Server(config).run(sockets=[held])
