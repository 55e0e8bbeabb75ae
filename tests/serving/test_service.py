"""The service gives predict_proba's probabilities, within its limits, and tells nothing else."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import logging
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import ROOT, refuse
from PIL import Image
from samples import dicom_file

from medept import FewShotClassifier, InputError
from medept.evaluation import OperatingAim
from medept.serving.batching import ModelThread
from medept.serving.limits import Limits

pytest.importorskip("fastapi", reason="needs the extra `serve`")
httpx = pytest.importorskip("httpx")
testclient = pytest.importorskip("starlette.testclient")

from medept.serving.access import read_token  # noqa: E402, needs the extra
from medept.serving.served import load_models  # noqa: E402
from medept.serving.service import make_app  # noqa: E402

LOCAL = "http://127.0.0.1"
TOKEN = "0123456789abcdef0123456789abcdef"
LIMITS = Limits(max_megabytes=2, max_files=5, max_megapixels=0.3, timeout=30, queue=64)
FLAT = [np.full((64, 64, 3), grey, np.uint8) for grey in (10, 30, 220, 240)]
FLAT_LABELS = ["dark", "dark", "bright", "bright"]
IMAGES = list(np.random.default_rng(0).integers(0, 256, (8, 50, 40, 3), dtype=np.uint8))


def encoded(pixels: np.ndarray, form: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


def files(*contents: bytes, name: str = "image.png") -> list[tuple[str, tuple[str, bytes]]]:
    return [("files", (name, content)) for content in contents]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fits") / "grey-or-not"
    folder.mkdir()
    classifier = FewShotClassifier(method="prototype", symmetry="none", device="cpu")
    classifier.fit(FLAT, FLAT_LABELS).save(folder)
    return folder


@pytest.fixture(scope="module")
def expected(fitted: Path) -> np.ndarray:
    """Probabilities of :data:`IMAGES`, without the service."""
    return FewShotClassifier.load(fitted, device="cpu").predict_proba(IMAGES)


@pytest.fixture(scope="module")
def models(fitted: Path) -> dict[str, Any]:
    return load_models([fitted], device="cpu")


@pytest.fixture(scope="module")
def client(models: dict[str, Any]) -> Iterator[Any]:
    with testclient.TestClient(make_app(models, LIMITS), base_url=LOCAL) as client:
        yield client


def problem(response: Any, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    content = response.json()
    assert set(content) == {"error", "file", "remedy"}
    assert content["error"]
    assert content["remedy"]
    assert "Traceback" not in response.text
    return content


# What it answers


def test_an_answer_names_the_model_the_file_and_the_class(
    client: Any, fitted: Path, expected: np.ndarray
) -> None:
    content = encoded(IMAGES[0])
    response = client.post("/v1/predict", files=files(content))
    assert response.status_code == 200
    answer = response.json()
    both = (fitted / "adapter.json").read_bytes() + (fitted / "adapter.safetensors").read_bytes()
    assert answer["model"]["name"] == "grey-or-not"
    assert answer["model"]["adapter_sha256"] == hashlib.sha256(both).hexdigest()
    info = json.loads((fitted / "adapter.json").read_text())
    assert answer["model"]["encoders"] == [
        {"name": "embedded", "sha256": info["encoder"]["sha256"]}
    ]
    assert "temperature" in answer["calibration"]
    (one,) = answer["predictions"]
    assert one["file"] == 1
    assert one["sha256"] == hashlib.sha256(content).hexdigest()
    assert list(one["probabilities"]) == info["classes"] == ["bright", "dark"]
    np.testing.assert_allclose(list(one["probabilities"].values()), expected[0], atol=1e-6)
    assert one["labels"] == [info["classes"][int(expected[0].argmax())]]
    assert one["decision"] is None


@pytest.mark.parametrize(("threshold", "decided"), [(1e-9, "dark"), (1 - 1e-9, "not dark")])
def test_decisions_are_those_of_the_operating_point(
    tmp_path: Path, threshold: float, decided: str
) -> None:
    """Whatever class is the most probable."""
    aim = OperatingAim(("dark",), threshold=threshold)
    classifier = FewShotClassifier(
        method="prototype", symmetry="none", device="cpu", operating_aim=aim
    )
    classifier.fit(FLAT, FLAT_LABELS).save(tmp_path)
    with testclient.TestClient(
        make_app(load_models([tmp_path], device="cpu"), LIMITS), base_url=LOCAL
    ) as client:
        answer = client.post("/v1/predict", files=files(encoded(IMAGES[0]))).json()
    assert [one["decision"] for one in answer["predictions"]] == [decided]


def test_many_clients_get_the_probabilities_of_predict_proba(
    client: Any, expected: np.ndarray
) -> None:
    contents = [encoded(image) for image in IMAGES]

    def ask(call: int) -> tuple[list[int], Any]:
        rows = [(call + i) % len(IMAGES) for i in range(1 + call % 3)]
        return rows, client.post("/v1/predict", files=files(*(contents[row] for row in rows)))

    with ThreadPoolExecutor(16) as pool:
        for rows, response in pool.map(ask, range(48)):
            assert response.status_code == 200, response.text
            found = [list(p["probabilities"].values()) for p in response.json()["predictions"]]
            np.testing.assert_allclose(found, expected[rows], atol=1e-6)


def test_formats_are_known_by_their_content(
    client: Any, models: dict[str, Any], tmp_path: Path
) -> None:
    """A DICOM file, a 16-bit TIFF and a JPEG, all called .txt, are read as by path."""
    tiff = io.BytesIO()
    Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8)).save(tiff, "TIFF")
    contents = [
        dicom_file(tmp_path / "scan.dcm").read_bytes(),
        tiff.getvalue(),
        encoded(IMAGES[0], "JPEG"),
    ]
    response = client.post("/v1/predict", files=files(*contents, name="x.txt"))
    assert response.status_code == 200, response.text
    paths = []
    for i, content in enumerate(contents):
        paths.append(tmp_path / str(i))
        paths[-1].write_bytes(content)
    alone = models["grey-or-not"].predict(paths)
    found = [list(p["probabilities"].values()) for p in response.json()["predictions"]]
    np.testing.assert_allclose(found, alone, atol=1e-6)


def test_what_is_told_besides(client: Any) -> None:
    (described,) = client.get("/v1/models").json()
    assert described["classes"] == ["bright", "dark"]
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ready"}
    client.post("/v1/predict", files=files(encoded(IMAGES[0])))
    text = client.get("/metrics").text
    assert re.search(r'^medept_images_total\{model="grey-or-not"\} [1-9]', text, re.M)
    assert re.search(r"^medept_requests_in_flight 0", text, re.M)
    response = client.get("/openapi.json")
    assert "/v1/predict" in response.json()["paths"]
    assert response.headers["cache-control"] == "no-store"
    for page in ("/docs", "/redoc"):
        problem(client.get(page), 404)


def test_several_models_go_by_their_names(models: dict[str, Any]) -> None:
    (model,) = models.values()
    both = {"a": model, "b": model}
    with testclient.TestClient(make_app(both, LIMITS), base_url=LOCAL) as client:
        one = files(encoded(IMAGES[0]))
        assert client.post("/v1/predict?model=a", files=one).status_code == 200
        assert client.post("/v1/predict", files=one, data={"model": "b"}).status_code == 200
        assert "a, b" in problem(client.post("/v1/predict", files=one), 422)["remedy"]
        for name in ("../a", "c", "", "a\0", "/etc/passwd"):
            response = client.post("/v1/predict", params={"model": name}, files=one)
            problem(response, 404)


# What it refuses


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/tmp/x\0y.png", "肺.png", "a" * 5000, 'a"b.png']
)
def test_names_of_files_mean_nothing(client: Any, tmp_path: Path, name: str) -> None:
    response = client.post("/v1/predict", files=files(encoded(IMAGES[0]), name=name))
    assert response.status_code in (200, 400), response.text
    assert name not in response.text


def bomb_png() -> bytes:
    """A PNG of 400 megapixels in a few bytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", 20000, 20000, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(2501 * 200), 9)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", "empty file"),
        (b"junk", "not an image"),
        (gzip.compress(b"junk", mtime=0), "not an image"),
        (encoded(IMAGES[0])[:400], "damaged"),
        (b"\0" * 128 + b"DICM" + b"\xff" * 50, "damaged|image in it"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "not an image"),
        (bomb_png(), "more than 300,000 pixels"),
    ],
)
def test_files_that_cannot_be_read_are_named_by_position(
    client: Any, content: bytes, error: str
) -> None:
    response = client.post("/v1/predict", files=files(encoded(IMAGES[0]), content))
    found = problem(response, 422)
    assert found["file"] == 2
    assert re.search(error, found["error"])


def test_decoded_images_are_bounded_before_they_are_decoded(client: Any, tmp_path: Path) -> None:
    """An image just within the limit is read, and one pixel row more is not; DICOM likewise."""
    within = np.zeros((500, 600), np.uint8)
    beyond = np.zeros((501, 600), np.uint8)
    for make in (encoded, lambda pixels: dicom_file(tmp_path / "x.dcm", pixels).read_bytes()):
        assert client.post("/v1/predict", files=files(make(within))).status_code == 200
        assert (
            "pixels" in problem(client.post("/v1/predict", files=files(make(beyond))), 422)["error"]
        )


def test_bodies_that_are_not_files(client: Any) -> None:
    def post(**given: Any) -> Any:
        return client.post("/v1/predict", **given)

    problem(post(), 415)
    problem(post(json={"files": []}), 415)
    problem(post(content=b"x", headers={"content-type": "image/png"}), 415)
    multipart = {"content-type": "multipart/form-data; boundary=b"}
    problem(post(content=b"junk", headers=multipart), 400)
    problem(post(content=b"", headers={"content-type": "multipart/form-data"}), 400)
    empty = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nx\r\n--b--\r\n'
    assert problem(post(content=empty, headers=multipart), 422)["error"] == "no files"
    text = empty.replace(b'"model"', b'"files"')
    problem(post(content=text, headers=multipart), 422)
    problem(post(files=[("image", ("x.png", encoded(IMAGES[0])))]), 422)
    problem(client.get("/v1/predict"), 405)


def test_bodies_that_are_too_large(client: Any) -> None:
    def huge() -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="files"; filename="x"\r\n\r\n'
        yield from (bytes(2**19) for _ in range(20))

    multipart = {"content-type": "multipart/form-data; boundary=b"}
    problem(client.post("/v1/predict", files=files(bytes(2_100_000))), 413)
    problem(client.post("/v1/predict", content=huge(), headers=multipart), 413)
    declared = multipart | {"content-length": "9" * 18}
    problem(client.post("/v1/predict", content=b"", headers=declared), 413)
    problem(
        client.post("/v1/predict", content=b"", headers=multipart | {"content-length": "x"}), 400
    )
    many = files(*[encoded(IMAGES[0])] * 6)
    assert "5 files" in problem(client.post("/v1/predict", files=many), 413)["error"]


class SlowModel:
    """Answers once it is let."""

    def __init__(self, model: Any) -> None:
        self.description, self.labels = model.description, model.labels
        self.decision = model.decision
        self._model, self.go = model, threading.Event()

    def predict(self, images: Any) -> np.ndarray:
        self.go.wait(10)
        return self._model.predict(images)


def test_a_full_queue_and_a_late_answer(models: dict[str, Any]) -> None:
    slow = SlowModel(models["grey-or-not"])
    limits = Limits(max_megabytes=1, max_files=1, max_megapixels=1, timeout=0.5, queue=2)
    app = make_app({"slow": slow}, limits)  # type: ignore[dict-item]
    one = files(encoded(IMAGES[0]))
    with (
        testclient.TestClient(app, base_url=LOCAL) as client,
        ThreadPoolExecutor(4) as pool,
    ):
        asked = list(pool.map(lambda _: client.post("/v1/predict", files=one), range(4)))
        slow.go.set()
        assert sorted(response.status_code for response in asked) == [503, 503, 504, 504]
        busy = next(response for response in asked if response.status_code == 503)
        assert busy.headers["retry-after"] == "1"
        problem(busy, 503)
        assert client.post("/v1/predict", files=one).status_code == 200, "there is room again"


def test_a_model_that_fails_is_told_without_its_message(
    models: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    broken = SlowModel(models["grey-or-not"])
    broken.predict = lambda images: 1 / len("secret"[6:])  # type: ignore[assignment, method-assign]
    app = make_app({"broken": broken}, LIMITS)  # type: ignore[dict-item]
    with testclient.TestClient(app, base_url=LOCAL) as client:
        found = problem(client.post("/v1/predict", files=files(encoded(IMAGES[0]))), 500)
    assert "division" not in found["error"] + caplog.text
    assert "ZeroDivisionError at " in caplog.text


def test_one_image_that_fails_does_not_fail_the_batch() -> None:
    def invert(numbers: Any) -> np.ndarray:
        held.wait(5)
        return np.array([1 / number for number in numbers])

    held, sizes = threading.Event(), []
    thread: ModelThread[int] = ModelThread(batch=3, seen=sizes.append)
    futures = [thread.submit(invert, number) for number in (1, 0, 2, 4, 5)]
    futures[4].cancel()
    held.set()
    thread.close()
    assert [futures[i].result() for i in (0, 2, 3)] == [1, 0.5, 0.25]
    with pytest.raises(ZeroDivisionError):
        futures[1].result()
    assert sum(sizes) == 4
    assert max(sizes) <= 3


# Who may ask, and what is told


def test_a_token_guards_all_but_health(models: dict[str, Any]) -> None:
    app = make_app(models, LIMITS, TOKEN.encode())
    with testclient.TestClient(app, base_url="http://elsewhere.example") as client:
        assert client.get("/healthz").status_code == 200
        assert client.get("/readyz").status_code == 200
        for path in ("/metrics", "/v1/models", "/openapi.json"):
            problem(client.get(path), 401)
            assert client.get(path, headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
        one = files(encoded(IMAGES[0]))
        for given in ("", "Bearer", f"Bearer {TOKEN[:-1]}", f"Basic {TOKEN}", f"Bearer {TOKEN}x"):
            response = client.post("/v1/predict", files=one, headers={"authorization": given})
            problem(response, 401)
            assert response.headers["www-authenticate"] == "Bearer"
        right = {"authorization": f"Bearer {TOKEN}"}
        assert client.post("/v1/predict", files=one, headers=right).status_code == 200


def test_without_a_token_other_names_are_refused(client: Any) -> None:
    """A page in a browser of this machine may have a name that leads to 127.0.0.1."""
    for host in ("evil.example", "evil.example:8000", "127.0.0.1.evil.example", "[", ""):
        problem(client.get("/v1/models", headers={"host": host}), 421)
    for host in ("localhost:8000", "127.0.0.1:9", "[::1]:8000"):
        assert client.get("/v1/models", headers={"host": host}).status_code == 200


def test_tokens_that_are_no_secret(tmp_path: Path) -> None:
    file = tmp_path / "token"
    with pytest.raises(InputError, match="token_file="):
        read_token("0.0.0.0", None)
    assert read_token("::1", None) is None
    file.write_text(TOKEN + "\n")
    file.chmod(0o644)
    with pytest.raises(InputError, match="chmod 600"):
        read_token("0.0.0.0", file)
    file.chmod(0o600)
    assert read_token("0.0.0.0", file) == TOKEN.encode()
    for text in ("short", "", "with a space " + TOKEN, "é" * 40):
        file.write_text(text)
        with pytest.raises(InputError, match="32 characters"):
            read_token("0.0.0.0", file)


def test_of_an_image_only_its_hash_is_logged(
    client: Any, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    content = encoded(IMAGES[0])
    client.post("/v1/predict", files=files(content, name="Miller, Anna.png"))
    client.post("/v1/predict", files=files(content[:300], name="Miller, Anna.png"))
    told = [record.getMessage() for record in caplog.records if record.name.startswith("medept")]
    assert len(told) == 1
    assert hashlib.sha256(content).hexdigest() in told[0]
    assert "Miller" not in caplog.text + "".join(capfd.readouterr())


def test_options_that_do_not_go_together(fitted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refuse(capsys, ["serve", str(fitted), "--host", "0.0.0.0"], "--token-file")
    refuse(capsys, ["serve", str(fitted), "--queue", "0"], "--queue 0: give more than 0")
    refuse(capsys, ["serve", str(fitted), str(fitted), "--port", "0"], "two folders are called")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        refuse(capsys, ["serve", str(fitted), "--port", port], "--port .*cannot listen")


def test_a_stop_finishes_what_is_in_flight(fitted: Path, expected: np.ndarray) -> None:
    """A real server, told to stop while the last part of a request has yet to come."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "medept", "serve", str(fitted), "--port", "0", "--json"]
    with subprocess.Popen(
        [*command, "--device", "cpu"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as server:
        assert server.stdout is not None
        assert server.stderr is not None
        try:
            line = server.stdout.readline()
            assert line, server.stderr.read()
            address = json.loads(line)["address"]
            host, port = address.removeprefix("http://").split(":")
            with wait_for(host, int(port)) as connection:
                request = httpx.Request(
                    "POST", f"{address}/v1/predict", files=files(encoded(IMAGES[0]))
                )
                body = request.read()
                head = "".join(f"{key}: {value}\r\n" for key, value in request.headers.items())
                connection.sendall(f"POST /v1/predict HTTP/1.1\r\n{head}\r\n".encode() + body[:-9])
                wait_until_in_flight(address)
                server.send_signal(signal.SIGTERM)
                time.sleep(0.2)
                connection.sendall(body[-9:])
                answer = b"".join(iter(lambda: connection.recv(65536), b""))
            assert answer.startswith(b"HTTP/1.1 200 OK"), answer
            (one,) = json.loads(answer.partition(b"\r\n\r\n")[2])["predictions"]
            np.testing.assert_allclose(list(one["probabilities"].values()), expected[0], atol=1e-6)
            assert server.wait(10) in (0, -signal.SIGTERM)
            assert "Traceback" not in server.stderr.read()
        finally:
            server.kill()


def wait_until_in_flight(address: str) -> None:
    """Until the server says that it works on a request, however busy the machine is."""
    for _ in range(200):
        if "medept_requests_in_flight 1.0" in httpx.get(f"{address}/metrics").text:
            return
        time.sleep(0.05)
    raise AssertionError("the request did not begin")


def wait_for(host: str, port: int) -> socket.socket:
    """A connection, as soon as the server takes one."""
    for _ in range(100):
        try:
            return socket.create_connection((host, port), timeout=20)
        except ConnectionRefusedError:
            time.sleep(0.05)
    raise AssertionError("the server does not listen")
