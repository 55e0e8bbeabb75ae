"""The examples in deploy/: nginx with TLS before the service, and the systemd unit."""

from __future__ import annotations

import http.server
import os
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import ROOT

DEPLOY = ROOT / "deploy"
NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


class Upstream(http.server.BaseHTTPRequestHandler):
    """In the place of `medept serve`: says how much it was sent, and as what."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        size = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(size) if size else b""
        text = f"{self.path} {len(body)} {self.headers.get('Authorization')}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_POST = do_GET  # noqa: N815

    def log_message(self, *arguments: object) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, ssl.SSLContext, Path]]:
    """The address of nginx with deploy/nginx.conf, what trusts its certificate, and its folder.

    Ports, certificate and the metrics' rule alone are replaced, as its reader would.
    """
    if NGINX is None or shutil.which("openssl") is None:
        pytest.skip("needs nginx and openssl")
    folder = tmp_path_factory.mktemp("nginx")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj",
         "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout",
         folder / "medept.key", "-out", folder / "medept.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    text = (DEPLOY / "nginx.conf").read_text()
    for old, new in (
        ("listen 443 ssl;", f"listen 127.0.0.1:{port} ssl;"),
        ("    listen [::]:443 ssl;\n", ""),
        ("/etc/ssl/certs/medept.pem", str(folder / "medept.pem")),
        ("/etc/ssl/private/medept.key", str(folder / "medept.key")),
        ("http://127.0.0.1:8000", f"http://127.0.0.1:{server.server_port}"),
    ):
        assert old in text
        text = text.replace(old, new)
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    main = folder / "main.conf"
    main.write_text(
        f"pid {folder}/nginx.pid;\nerror_log {folder}/error.log;\ndaemon off;\n"
        f"events {{}}\nhttp {{\n{temporary}{text}}}\n"
    )
    running = subprocess.Popen([NGINX, "-c", main, "-p", folder, "-e", folder / "error.log"])
    try:
        for _ in range(100):
            with socket.socket() as trial:
                if trial.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        trusted = ssl.create_default_context(cafile=folder / "medept.pem")
        yield f"https://localhost:{port}", trusted, folder
    finally:
        running.terminate()
        running.wait(10)
        server.shutdown()


def test_nginx_passes_requests_on_over_tls(proxy: tuple[str, ssl.SSLContext, Path]) -> None:
    address, trusted, folder = proxy
    request = urllib.request.Request(
        f"{address}/v1/predict?model=a", bytes(3_000_000), {"Authorization": "Bearer secret"}
    )
    with urllib.request.urlopen(request, context=trusted) as answer:
        assert answer.read() == b"/v1/predict?model=a 3000000 Bearer secret"
        assert "max-age" in answer.headers["Strict-Transport-Security"]
        assert not re.search(r"\d", answer.headers["Server"])
    written = [file for file in (folder / "client_body").rglob("*") if file.is_file()]
    assert written == []  # no image on its disk
    with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
        urllib.request.urlopen(address, context=ssl.create_default_context())


def test_nginx_refuses_what_the_service_would(proxy: tuple[str, ssl.SSLContext, Path]) -> None:
    address, trusted, _ = proxy
    large = urllib.request.Request(f"{address}/v1/predict", b"", {"Content-Length": "70000000"})
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(large, context=trusted)
    assert refused.value.code == 413
    with urllib.request.urlopen(f"{address}/metrics", context=trusted) as answer:  # from here
        assert answer.read().startswith(b"/metrics")


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("needs systemd-analyze")
    unit = (DEPLOY / "medept-serve.service").read_text()
    program = re.search(r"ExecStart=(\S+)", unit)
    assert program
    copy = tmp_path / "medept-serve.service"
    copy.write_text(unit.replace(program[1], "/bin/true", 1))  # it has to exist
    told = subprocess.run([analyze, "verify", copy], capture_output=True, text=True, check=False)
    assert "medept-serve" not in told.stderr, told.stderr
    score = subprocess.run(
        [analyze, "security", "--offline=true", "--threshold=20", copy],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert score.returncode == 0, score.stdout[-500:]


def test_the_container_file_says_that_it_is_untested() -> None:
    assert "not been built in testing" in (DEPLOY / "Containerfile").read_text()
