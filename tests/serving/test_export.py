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
from medept.evaluation import OperatingAim
from medept.phantoms import make_phantoms, write_phantoms
from medept.serving.export import export
from medept.serving.graph import ProbabilityGraph

pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

FLOAT32 = {"device": "cpu", "precision": "float32"}
IMAGES = list(np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), dtype=np.uint8))


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
        "\n".join(
            [
                "image,label",
                *(f"{n},{y}" for n, y in zip(data.names[:4], data.labels[:4], strict=True)),
            ]
        )
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


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("weights") / "vit.safetensors"
    save_file(load_encoder("test_vit", weights="random").model.state_dict(), file)
    return file


def small_fit(weights: Path, method: str, **settings: object) -> FewShotClassifier:
    """Of a ViT of six narrow blocks at 64 pixels, which exports in seconds."""
    epochs = None if method == "knn" else 1
    return FewShotClassifier(
        "test_vit", encoder_weights=weights, method=method, settings=settings, image_size=64,
        epochs=epochs, symmetry="none", **FLOAT32,
    ).fit(IMAGES, ["a", "b"] * 3)  # fmt: skip


@pytest.mark.parametrize(("method", "settings"), [("ept", {"length": 3}), ("vpt", {"length": 2})])
def test_prompts_are_in_the_file(weights: Path, tmp_path: Path, method: str, settings) -> None:
    """Which takes batches of another size than the one it was traced with."""
    classifier = small_fit(weights, method, **settings)
    classifier.save(tmp_path / "fit")
    about = export(tmp_path / "fit", tmp_path / "m.onnx")
    assert about["verified"]["of"] == "noise"
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    (found,) = session.run(None, {"pixels": prepared(classifier, IMAGES[:5]).numpy()})
    np.testing.assert_allclose(found, classifier.predict_proba(IMAGES[:5]), atol=1e-5)


@pytest.mark.parametrize("method", ["adapter", "bias", "full", "ia3", "knn", "lora", "mlp-1", "vp"])
def test_the_graph_gives_what_the_classifier_does(weights: Path, method: str) -> None:
    classifier = small_fit(weights, method)
    expected = classifier.predict_proba(IMAGES)
    with torch.inference_mode():
        found = ProbabilityGraph(classifier).eval()(prepared(classifier, IMAGES))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def prepared(classifier: FewShotClassifier, images: list[np.ndarray]) -> torch.Tensor:
    prepare = classifier.model_.encoder.preprocessing.evaluation()
    return torch.stack([prepare(Image.fromarray(image)) for image in images])


@pytest.mark.parametrize("prevalence", [None, {"1": 0.05}])
def test_labels_that_may_coincide_and_vector_scaling(prevalence: dict[str, float] | None) -> None:
    images = [*IMAGES, *(255 - image for image in IMAGES)]
    labels = np.random.default_rng(1).integers(0, 2, (12, 3))
    classifier = FewShotClassifier(
        method="linear", epochs=1, calibrate="vector", symmetry="flip", prevalence=prevalence,
        **FLOAT32,
    ).fit(images, labels)  # fmt: skip
    assert len(classifier.calibration_.scale) == 3
    with torch.inference_mode():
        found = ProbabilityGraph(classifier).eval()(prepared(classifier, images))
    np.testing.assert_allclose(found, classifier.predict_proba(images), atol=1e-6)


def test_the_prevalence_of_the_patients_is_in_the_file(weights: Path, tmp_path: Path) -> None:
    classifier = FewShotClassifier(
        "test_vit", encoder_weights=weights, method="prototype", image_size=64,
        prevalence={"b": 0.02}, operating_aim=OperatingAim(("b",), threshold=0.3), **FLOAT32,
    ).fit(IMAGES, ["a", "b"] * 3)  # fmt: skip
    classifier.save(tmp_path / "fit")
    about = export(tmp_path / "fit", tmp_path / "m.pt2")
    assert about["prevalence"] == {"b": 0.02}
    assert [point["positive"] for point in about["operating_points"]] == [["b"]]
    with torch.inference_mode():
        found = ProbabilityGraph(classifier).eval()(prepared(classifier, IMAGES))
    expected = classifier.predict_proba(IMAGES)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert expected[:, 1].mean() < 0.2
    estimated = classifier.set_params(operating_aim=None, prevalence="estimate")
    with pytest.raises(InputError, match="is not exported"):
        ProbabilityGraph(estimated)


@pytest.mark.parametrize(
    ("name", "number_format", "least", "most"),
    [("m.pt2", "float32", 0, 1e-5), ("m.onnx", "float16", 1e-7, 0.02), ("m.onnx", "int8", 1e-7, 1)],
)
def test_other_formats_say_what_they_change(
    weights: Path, tmp_path: Path, name: str, number_format: str, least: float, most: float
) -> None:
    small_fit(weights, "knn" if number_format == "float32" else "linear").save(tmp_path / "fit")
    about = export(tmp_path / "fit", tmp_path / name, number_format=number_format)
    assert least <= about["verified"]["largest_difference"] <= most
    assert about["number_format"] == number_format
    assert {file.name for file in tmp_path.iterdir()} == {"fit", name, "m.json"}


def test_what_cannot_be_traced_is_refused_in_words(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_fit(weights, "linear").save(tmp_path / "fit")

    def branching(graph: ProbabilityGraph, pixels: torch.Tensor) -> torch.Tensor:
        return pixels[:, 0, 0] if pixels.sum() > 0 else pixels[:, 0, 1]

    monkeypatch.setattr(ProbabilityGraph, "forward", branching)
    with pytest.raises(InputError, match="does not serve 'linear' on 'test_vit'"):
        export(tmp_path / "fit", tmp_path / "m.pt2")
    assert [file.name for file in tmp_path.iterdir()] == ["fit"]


def test_a_file_that_differs_is_not_written(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_fit(weights, "linear").save(tmp_path / "fit")
    monkeypatch.setattr("medept.serving.export.TOLERANCE", -1.0)
    with pytest.raises(InputError, match="so it is not written"):
        export(tmp_path / "fit", tmp_path / "m.pt2")
    assert [file.name for file in tmp_path.iterdir()] == ["fit"]


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


def test_several_encoders_cases_and_steps_are_refused(weights: Path, tmp_path: Path) -> None:
    usual = {"method": "prototype", "encoder_weights": weights, **FLOAT32}
    stepped = FewShotClassifier("test_vit", calibrate="isotonic", **usual)
    with pytest.raises(InputError, match="isotonic calibration is not exported"):
        ProbabilityGraph(stepped.fit(IMAGES, ["a", "b"] * 3))
    cases = FewShotClassifier("test_vit", **usual)
    with pytest.raises(InputError, match="this fit is of cases"):
        ProbabilityGraph(cases.fit(IMAGES, ["a", "b"] * 3, cases=[0, 1, 2, 3, 0, 1]))
    several = FewShotClassifier(["embedded", "test_vit"], **usual)
    with pytest.raises(InputError, match="a file holds one encoder"):
        ProbabilityGraph(several.fit(IMAGES, ["a", "b"] * 3))
