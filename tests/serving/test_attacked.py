"""The service under requests made from its own OpenAPI description, and under damaged files."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from samples import dicom_file

from medept import FewShotClassifier
from medept.serving.limits import Limits

pytest.importorskip("fastapi", reason="needs the extra `serve`")
uvicorn = pytest.importorskip("uvicorn")
httpx = pytest.importorskip("httpx")

from medept.serving.served import load_models  # noqa: E402, needs the extra
from medept.serving.service import make_app  # noqa: E402

LIMITS = Limits(max_megabytes=1, max_files=3, max_megapixels=0.1, timeout=20)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the service listens, on this machine alone."""
    folder = tmp_path_factory.mktemp("fits") / "grey"
    folder.mkdir()
    flat = [np.full((64, 64, 3), grey, np.uint8) for grey in (10, 240)]
    classifier = FewShotClassifier(method="prototype", readout="pooled", symmetry="none",
                                   device="cpu")  # fmt: skip
    classifier.fit(flat, ["dark", "bright"]).save(folder)
    app = make_app(load_models([folder], device="cpu"), LIMITS)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(20)


def test_answers_are_those_that_the_description_promises(address: str) -> None:
    """Whatever is sent, the status and the form of the answer are in the OpenAPI description, and
    the service never fails."""
    schemathesis = pytest.importorskip("schemathesis", reason="needs schemathesis")
    hypothesis = pytest.importorskip("hypothesis")
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi import checks

    promised = [
        not_a_server_error,
        checks.status_code_conformance,
        checks.content_type_conformance,
        checks.response_schema_conformance,
    ]
    schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
    statuses: dict[str, set[int]] = {}
    for result in schema.get_all_operations():
        operation = result.ok()

        @hypothesis.settings(
            max_examples=8, deadline=None, derandomize=True, database=None,
            suppress_health_check=list(hypothesis.HealthCheck),
        )  # fmt: skip
        @hypothesis.given(case=operation.as_strategy())
        def attack(case: Any) -> None:
            response = case.call(base_url=address)
            statuses.setdefault(case.path, set()).add(response.status_code)
            case.validate_response(response, checks=promised)

        attack()
    assert statuses.pop("/v1/predict") & {400, 413, 415, 422}
    assert all(200 in found for found in statuses.values())


def test_damaged_files_are_refused_and_never_fail(address: str, tmp_path: Path) -> None:
    random, statuses = np.random.default_rng(0), set()
    pixels = random.integers(0, 256, (40, 50, 3), dtype=np.uint8)
    whole = [dicom_file(tmp_path / "scan.dcm").read_bytes()]
    for form in ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "JPEG2000"):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, form)
        whole.append(file.getvalue())
    client = httpx.Client(base_url=address, timeout=30)
    for content in whole * 8:
        damaged = bytearray(content)
        for place in random.integers(0, len(damaged), random.integers(1, 30)):
            damaged[place] = random.integers(0, 256)
        cut = len(damaged) if random.random() < 0.5 else int(random.integers(0, len(damaged)))
        answer = client.post("/v1/predict", files=[("files", ("a", bytes(damaged[:cut])))])
        statuses.add(answer.status_code)
        if answer.status_code != 200:
            assert answer.json()["file"] == 1
            assert answer.json()["remedy"]
    assert statuses == {200, 422}
