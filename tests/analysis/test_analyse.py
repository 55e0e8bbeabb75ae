"""Models compared on images that none was fitted to: the command on real files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import timm
from helpers import run
from PIL import Image
from safetensors.torch import save_file

from medept import FewShotClassifier
from medept.analysis.analyse import analyse
from medept.data import images
from medept.data.dataset import read_dataset
from medept.data.labelled_images import LabelledImages
from medept.episodes.draw import draw_episode
from medept.errors import InputError
from medept.fits.tables import write_support
from medept.phantoms import make_phantoms, write_phantoms


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Phantoms, and adapters of two methods and two support sets of them."""
    folder = tmp_path_factory.mktemp("analysis")
    data = make_phantoms("colon", patients=16, images_per_patient=2, size=48)
    table = write_phantoms(data, folder / "data")
    for method, seed in (("ept", 0), ("ept", 1), ("linear", 0)):
        classifier = FewShotClassifier(method=method, seed=seed, epochs=2, calibrate="none")
        fit_and_save(classifier, data, folder / f"{method}-{seed}")
    return folder, table


def fit_and_save(classifier: FewShotClassifier, data: LabelledImages, folder: Path) -> None:
    """An adapter of two shots with its support set: all that an analysis needs of a fit."""
    support = data.subset(draw_episode(data, 2, seed=classifier.seed).support)
    classifier.fit(support.images, support.labels, groups=support.groups).save(folder)
    write_support(folder, support)


def test_analyse_compares_models_on_images_that_none_was_fitted_to(
    fitted: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, table = fitted
    models = [str(folder / name) for name in ("ept-0", "ept-1", "linear-0")]
    assert run("analyse", *models, str(table), "--out", str(folder / "look"), "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    found = pd.read_csv(folder / "look" / "distribution.csv")
    assert list(found.model) == ["pretrained", "ept", "ept", "linear"]
    assert [row["model"] for row in printed["models"]] == list(found.model)
    data = pd.read_csv(table)
    groups = {
        group
        for model in models
        for group in pd.read_csv(Path(model) / "support.csv")["group"].astype(str)
    }
    assert set(found.n) == {int((~data.patient.astype(str).isin(groups)).sum())}
    plain, linear = found.iloc[0], found.iloc[3]
    assert linear.trace == plain.trace, "a linear head leaves features as they were"
    assert linear.scale_factor == linear.shape_factor == 1
    ratio = found.trace[1:3] / plain.trace
    assert ratio.to_numpy() == pytest.approx(
        (found.scale_factor * found.shape_factor)[1:3], rel=1e-4
    )
    gates = pd.read_csv(folder / "look" / "gates.csv")
    assert set(gates.model) == {"ept-0", "ept-1"}
    assert gates.mean_gate.between(0, 1).all()
    order = gates.groupby(["model", "image"], sort=False).mean_gate.mean()
    for model in ("ept-0", "ept-1"):
        assert order[model].is_monotonic_increasing, "images that are scaled most stand first"
    assert gates.class_token_gate.between(0, 1).all()
    for name in ("figure2.png", "gates.png", "gates-by-head.png", "gates-by-layer.png"):
        assert Image.open(folder / "look" / name).size[0] > 400


@pytest.mark.parametrize("kind", [int, float])
def test_analyse_takes_a_model_of_labels_that_were_numbers(
    tmp_path: Path, fitted: tuple[Path, Path], kind: type
) -> None:
    frame = pd.read_csv(fitted[1])
    frame["label"] = (frame.label == "tumour").astype(int)
    frame["image"] = [str(fitted[1].parent / name) for name in frame.image]
    frame.to_csv(tmp_path / "labels.csv", index=False)
    classifier = FewShotClassifier(method="prototype", calibrate="none")
    classifier.fit(frame.image[:8], frame.label[:8].astype(kind)).save(tmp_path / "model")
    table, out = str(tmp_path / "labels.csv"), tmp_path / "out"
    root = ["--image-root", str(fitted[1].parent)]
    assert run("analyse", str(tmp_path / "model"), table, *root, "--out", str(out)) == 0
    assert (out / "distribution.csv").exists()
    assert run("evaluate", str(tmp_path / "model"), table, *root) == 0


def test_a_class_without_images_cannot_be_chosen(tmp_path: Path, fitted: tuple[Path, Path]) -> None:
    frame = pd.read_csv(fitted[1])
    frame["split"] = "test"
    frame[frame.label == "normal"].to_csv(fitted[1].parent / "normal.csv", index=False)
    model, table = str(fitted[0] / "linear-0"), fitted[1].parent / "normal.csv"
    data = read_dataset(table, classes=("normal", "tumour"))
    with pytest.raises(InputError, match="'tumour' has no image left"):
        analyse([model], data, tmp_path / "out", chosen="tumour")


def test_analyse_decodes_each_image_once(
    fitted: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the number of models that look at it, and of pictures that show it."""
    folder, table = fitted
    opened: list[Path] = []

    def counted(path: Path) -> Image.Image:
        opened.append(path)
        return from_file(path)

    from_file = images._from_path
    monkeypatch.setattr(images, "_from_path", counted)
    models = [str(folder / "ept-0"), str(folder / "ept-1")]
    assert run("analyse", *models, str(table), "--out", str(folder / "once")) == 0
    assert len(opened) == len(set(opened)) == pd.read_csv(folder / "once/distribution.csv").n[0]


def test_encoders_of_one_name_are_told_apart(fitted: tuple[Path, Path], tmp_path: Path) -> None:
    """By the pixels that they take, where these differ; they are no repeats of each other."""
    table, weights = fitted[1], tmp_path / "weights.safetensors"
    save_file(timm.create_model("vit_tiny_patch16_224", num_classes=0).state_dict(), weights)
    name = {"encoder": "vit_tiny_patch16_224", "encoder_weights": weights, "calibrate": "none"}
    for size in (32, 48):
        classifier = FewShotClassifier(method="prototype", image_size=size, **name)
        fit_and_save(classifier, read_dataset(table), tmp_path / str(size))
    models = [str(tmp_path / str(size)) for size in (32, 48)]
    assert run("analyse", *models, str(table), "--out", str(tmp_path / "o")) == 0
    of = [f" vit_tiny_patch16_224, {size} pixels" for size in (32, 48)]
    found = pd.read_csv(tmp_path / "o" / "distribution.csv").model.tolist()
    assert found == [f"{kind}{title}" for title in of for kind in ("pretrained", "prototype")]


def test_analyse_takes_an_encoder_as_it_comes(fitted: tuple[Path, Path]) -> None:
    folder, table = fitted
    out, elsewhere = folder / "plain", folder / "elsewhere.csv"
    elsewhere.write_bytes(table.read_bytes())
    given = ("analyse", "embedded", str(elsewhere), "--out", str(out), "--embedding", "pca")
    assert run(*given, "--separate", "--image-root", str(table.parent)) == 0
    assert list(pd.read_csv(out / "distribution.csv").model) == ["pretrained"]
    assert not (out / "gates.png").exists()


def test_one_encoder_is_one_model_however_often_it_is_named(fitted: tuple[Path, Path]) -> None:
    folder, table = fitted
    for copy in ("run-1", "run-2"):
        shutil.copytree(folder / "ept-0", folder / copy / "adapter")
    models = ["embedded", "embedded", str(folder / "run-1/adapter"), str(folder / "run-2/adapter")]
    assert run("analyse", *models, str(table), "--out", str(folder / "named")) == 0
    found = pd.read_csv(folder / "named" / "distribution.csv")
    assert list(found.model) == ["pretrained", "ept", "ept"]
    gates = pd.read_csv(folder / "named" / "gates.csv")
    assert set(gates.model) == set(models[2:]), "two adapters in folders of one name"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["DATA"], "give one model at least"),
        (["nothing-here", "DATA"], "nothing-here"),
        (["FOLDER", "DATA"], "no adapter here"),
        (["ept-0", "DATA", "--class", "zebra"], "zebra"),
    ],
)
def test_bad_input_is_told(
    fitted: tuple[Path, Path],
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    folder, table = fitted
    places = {"DATA": str(table), "FOLDER": str(folder), "ept-0": str(folder / "ept-0")}
    given = [places.get(word, word) for word in arguments]
    assert run("analyse", *given, "--out", str(folder / "no")) == 2
    assert message in capsys.readouterr().err
    assert not (folder / "no").exists()
