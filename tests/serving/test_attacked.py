"""The service under requests made from its own OpenAPI description, and under damaged files."""

from __future__ import annotations

import io
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
testclient = pytest.importorskip("starlette.testclient")

from medept.serving.served import load_models  # noqa: E402, needs the extra
from medept.serving.service import make_app  # noqa: E402

LIMITS = Limits(max_megabytes=1, max_files=3, max_megapixels=0.1, timeout=20)
LOCAL = "http://127.0.0.1"


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("fits") / "grey"
    folder.mkdir()
    flat = [np.full((64, 64, 3), grey, np.uint8) for grey in (10, 240)]
    classifier = FewShotClassifier(method="prototype", readout="pooled", symmetry="none",
                                   device="cpu")  # fmt: skip
    classifier.fit(flat, ["dark", "bright"]).save(folder)
    return make_app(load_models([folder], device="cpu"), LIMITS)


@pytest.fixture(scope="module")
def client(app: Any) -> Iterator[Any]:
    with testclient.TestClient(app, base_url=LOCAL, raise_server_exceptions=False) as client:
        yield client


def test_answers_are_those_that_the_description_promises(app: Any, client: Any) -> None:
    """Whatever is sent, the status and the form of the answer are in the OpenAPI description, and
    the service never fails."""
    schemathesis = pytest.importorskip("schemathesis", reason="needs schemathesis")
    hypothesis = pytest.importorskip("hypothesis")
    schema = schemathesis.openapi.from_dict(client.get("/openapi.json").json())
    statuses = set()
    for result in schema.get_all_operations():
        operation = result.ok()

        @hypothesis.settings(
            max_examples=15, deadline=None, derandomize=True, database=None,
            suppress_health_check=list(hypothesis.HealthCheck),
        )  # fmt: skip
        @hypothesis.given(case=operation.as_strategy())
        def attack(case: Any) -> None:
            response = case.call(session=client, base_url=LOCAL)
            statuses.add(response.status_code)
            assert response.status_code != 500
            case.validate_response(response)

        attack()
    assert 200 in statuses
    assert statuses & {400, 415, 422}


def test_damaged_files_are_refused_and_never_fail(client: Any, tmp_path: Path) -> None:
    random, statuses = np.random.default_rng(0), set()
    pixels = random.integers(0, 256, (40, 50, 3), dtype=np.uint8)
    whole = [dicom_file(tmp_path / "scan.dcm").read_bytes()]
    for form in ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "JPEG2000"):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, form)
        whole.append(file.getvalue())
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
