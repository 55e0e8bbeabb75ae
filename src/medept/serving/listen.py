"""A port of this machine, held before anything is computed for it."""

from __future__ import annotations

import socket

from medept.errors import ResourceError


def bound(host: str, port: int) -> socket.socket:
    """A socket that holds the port; connections are refused until the server listens."""
    held = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        held.bind((host, port))
    except OSError as error:
        held.close()
        raise ResourceError(
            f"{host}, port={port}: cannot listen there ({error.strerror or error}); name another"
        ) from error
    return held
