"""An exported file gives medept's probabilities, by a runtime that knows nothing of medept."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT, refuse, run
from PIL import Image
from safetensors.torch import save_file

from medept import FewShotClassifier, InputError, load_encoder
from medept.data.dataset import read_dataset
from medept.phantoms import make_phantoms, write_phantoms
from medept.serving.export import export
from medept.serving.graph import ProbabilityGraph

pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

FLOAT32 = {"device": "cpu", "precision": "float32"}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = make_phantoms("colon", patients=8, images_per_patient=1, size=90)
    return write_phantoms(data, tmp_path_factory.mktemp("tiles"))


@pytest.fixture(scope="module")
def fitted(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A default fit, of the first four patients, on two views and their corners."""
    folder = tmp_path_factory.mktemp("fit")
    data = read_dataset(table)
    classifier = FewShotClassifier(symmetry="flip+corners", **FLOAT32)
    classifier.fit(data.images[:4], data.labels[:4]).save(folder)
    (folder / "support.csv").write_text(
        "\n".join(["image,label", *(f"{n},{y}" for n, y in zip(data.names[:4], data.labels[:4]))])
    )
    return folder


def test_the_files_of_the_guide_need_no_medept(
    fitted: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guide's program, NumPy, Pillow and onnxruntime alone, predicts what medept does."""
    monkeypatch.chdir(tmp_path)
    assert run("export", fitted, table, "--out", "model.onnx") == 0
    about = json.loads(Path("model.json").read_text())
    assert about["verified"]["images"] == 4, "of the eight, those that it was not fitted to"
    assert about["verified"]["largest_difference"] < 1e-5
    assert about["verified"]["changed_decisions"] == 0
    before, after = about["verified"]["metrics"]["accuracy"]
    assert before == after
    guide = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"^```python\n(.*?)^```", guide, flags=re.S | re.M)
    assert "medept" not in program
    images = read_dataset(table).images
    wide = tmp_path / "wide.png"
    Image.open(images[0]).resize((200, 90)).save(wide)
    classifier = FewShotClassifier.load(fitted, **FLOAT32)
    for image in (images[0], images[5], wide):
        names = {"file": str(image)}
        exec(compile(program, "export.md", "exec"), names)
        (expected,) = classifier.predict_proba([image])
        found = names["probabilities"]
        assert list(found) == about["classes"] == ["normal", "tumour"]
        np.testing.assert_allclose(list(found.values()), expected, atol=2e-3)


@pytest.mark.parametrize(
    ("method", "settings"),
    [("ept", {"length": 3}), ("lora", {}), ("vpt", {"length": 2}), ("knn", {}), ("mlp-1", {})],
)
def test_every_kind_of_method_is_exported(tmp_path: Path, method: str, settings: dict) -> None:
    """On a batch of another size than the one it was traced with."""
    images = list(np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), dtype=np.uint8))
    weights = tmp_path / "vit.safetensors"
    save_file(load_encoder("test_vit", weights="random").model.state_dict(), weights)
    classifier = FewShotClassifier(
        "test_vit", encoder_weights=weights, method=method, settings=settings, image_size=64,
        epochs=1 if method not in ("knn",) else None, symmetry="none", **FLOAT32,
    )  # fmt: skip
    classifier.fit(images, ["a", "b"] * 3).save(tmp_path / "fit")
    about = export(tmp_path / "fit", tmp_path / "m.onnx")
    assert about["verified"]["of"] == "noise"
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    prepare = classifier.model_.encoder.preprocessing.evaluation()
    pixels = np.stack([prepare(Image.fromarray(x)).numpy() for x in images[:5]])
    (found,) = session.run(None, {"pixels": pixels})
    np.testing.assert_allclose(found, classifier.predict_proba(images[:5]), atol=1e-5)


def test_labels_that_may_coincide_and_vector_scaling(table: Path, tmp_path: Path) -> None:
    images = list(np.random.default_rng(0).integers(0, 256, (12, 64, 64, 3), dtype=np.uint8))
    labels = np.random.default_rng(1).integers(0, 2, (12, 3))
    classifier = FewShotClassifier(
        method="linear", epochs=1, calibrate="vector", symmetry="flip", **FLOAT32
    ).fit(images, labels)
    assert len(classifier.calibration_.scale) == 3
    graph = ProbabilityGraph(classifier).eval()
    prepare = classifier.model_.encoder.preprocessing.evaluation()
    with torch.inference_mode():
        found = graph(torch.stack([prepare(Image.fromarray(x)) for x in images]))
    np.testing.assert_allclose(found, classifier.predict_proba(images), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "number_format", "least", "most"),
    [("m.pt2", "float32", 0, 1e-5), ("m.onnx", "float16", 1e-7, 0.02), ("m.onnx", "int8", 1e-5, 1)],
)
def test_other_formats_say_what_they_change(
    fitted: Path, tmp_path: Path, name: str, number_format: str, least: float, most: float
) -> None:
    about = export(fitted, tmp_path / name, number_format=number_format)
    assert least <= about["verified"]["largest_difference"] <= most
    assert about["number_format"] == number_format
    assert {file.name for file in tmp_path.iterdir()} == {name, "m.json"}


def test_a_file_that_differs_is_not_written(
    fitted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medept.serving.export.TOLERANCE", -1.0)
    with pytest.raises(InputError, match="so it is not written"):
        export(fitted, tmp_path / "m.pt2")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("out", "options", "message"),
    [
        ("m.pth", [], "exported as .onnx or .pt2"),
        ("there.onnx", [], "exists already"),
        ("m.onnx", ["--number-format", "int4"], "--number-format 'int4': use one of float32"),
        ("m.pt2", ["--number-format", "int8"], "is for .onnx files"),
    ],
)
def test_bad_input_is_refused(
    fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], out, options, message: str
) -> None:
    (tmp_path / "there.onnx").write_bytes(b"")
    refuse(capsys, ["export", str(fitted), "--out", str(tmp_path / out), *options], message)
    assert len(list(tmp_path.iterdir())) == 1


def test_several_encoders_and_steps_are_refused(tmp_path: Path) -> None:
    images = list(np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), dtype=np.uint8))
    classifier = FewShotClassifier(method="prototype", calibrate="isotonic", **FLOAT32)
    classifier.fit(images, ["a", "b"] * 4)
    with pytest.raises(InputError, match="isotonic calibration is not exported"):
        ProbabilityGraph(classifier)
