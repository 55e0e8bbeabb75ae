"""Exports of annotation tools and public data sets, each in a small file of its form."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from medept import InputError
from medept.data.dataset import read_dataset
from medept.data.exports.chexpert import LABELS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in "abcdef":
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
    return tmp_path


def read(folder: Path, name: str, text: str) -> Any:
    (folder / name).write_text(text, encoding="utf-8")
    return read_dataset(folder / name)


def task(image: str, *annotations: list[str] | None) -> dict[str, Any]:
    """A task of Label Studio; None is an annotation that was cancelled."""
    return {
        "id": 1,
        "data": {"image": image},
        "annotations": [
            {"was_cancelled": names is None, "result": [] if not names else [
                {"type": "choices", "from_name": "c", "to_name": "image",
                 "value": {"choices": names}}]}
            for names in annotations
        ],
    }  # fmt: skip


def test_label_studio(folder: Path) -> None:
    tasks = [
        task("/data/upload/3/0a1b2c3d-a.png", ["mass"]),
        task("/data/local-files/?d=b.png", ["fluid"], ["fluid"]),
        task("c.png", None),
        task("d.png"),
    ]
    with pytest.warns(UserWarning, match="2 of 4 images are left out, as they have no choice"):
        data = read(folder, "t.json", json.dumps(tasks))
    assert (data.names, data.classes) == (("a.png", "b.png"), ("fluid", "mass"))
    assert data.targets.tolist() == [1, 0]
    several = [task("a.png", ["mass", "fluid"]), task("b.png", ["fluid"])]
    assert read(folder, "t.json", json.dumps(several)).targets.tolist() == [[1, 1], [1, 0]]


def test_label_studio_json_min(folder: Path) -> None:
    tasks = [
        {"image": "a.png", "choice": "x"},
        {"image": "b.png", "choice": {"choices": ["x", "y"]}},
    ]
    assert read(folder, "t.json", json.dumps(tasks)).targets.tolist() == [[1, 0], [1, 1]]


SHAPE = {"type": "rectanglelabels", "value": {"rectanglelabels": ["x"]}}


@pytest.mark.parametrize(
    ("content", "message"),
    [([task("a.png", ["x"], ["y"])], "task 1: its annotations differ; keep one"),
     ([task("https://example.org/a.png", ["x"])], "download it"),
     ([{"data": {"image": "a.png"}, "annotations": [{"result": [SHAPE]}]}], "shapes and no"),
     ([task("a.png", ["x"]), task("a.png", ["y"])], "two tasks have the same image"),
     ([task("a.png", ["x|y"])], r"holds a \|; rename it"), ([task("a.png")], "no image has choice"),
     ({"images": [], "annotations": []}, "not an export of Label Studio"), ([1], "not an export"),
     ([{"data": {"image": "a.png"}, "annotations": 3}], "not an export"), ([], "no image has")],
)  # fmt: skip
def test_label_studio_that_cannot_be_used(folder: Path, content: Any, message: str) -> None:
    with pytest.raises(InputError, match=rf"t.json.*{message}"):
        read(folder, "t.json", json.dumps(content))


def cvat(*images: str) -> str:
    inside = "".join(f'<image id="{i}" {image}</image>' for i, image in enumerate(images))
    return f"<?xml version='1.0'?><annotations><version>1.1</version>{inside}</annotations>"


def test_cvat(folder: Path) -> None:
    images = ['name="a.png"><tag label="x" source="manual"></tag>',
              'name="b.png"><box label="z" xtl="0"></box><tag label="y"></tag><tag label="x"/>',
              'name="c.png">']  # fmt: skip
    with pytest.warns(UserWarning, match="1 of 3 images are left out, as they have no tag"):
        data = read(folder, "t.xml", cvat(*images))
    assert (data.classes, data.targets.tolist()) == (("x", "y"), [[1, 0], [1, 1]])
    with pytest.raises(InputError, match=r"t.xml: .* shapes and no tags"):
        read(folder, "t.xml", cvat('name="a.png"><box label="z"/>'))
    for text, message in (("<annotations><image", "damaged XML"), ("<a/>", "not CVAT's export"),
                          (cvat('name="a.png">', 'name="a.png">'), "the same name")):  # fmt: skip
        with pytest.raises(InputError, match=rf"t.xml: .*{message}"):
            read(folder, "t.xml", text)


QUPATH = "Image\tObject ID\tObject type\tClassification\tParent\tROI\tArea µm^2\n"


def test_qupath(folder: Path) -> None:
    objects = [("a", "Annotation", "Tumor"), ("a", "Annotation", "Stroma"), ("a", "Cell", "Immune"),
               ("b", "Annotation", "Tumor"), ("c", "Annotation", "")]  # fmt: skip
    rows = [f"{name}.png\t1\t{kind}\t{of}\tRoot\tPolygon\t3" for name, kind, of in objects]
    with pytest.warns(UserWarning, match="QuPath|left out") as caught:
        data = read(folder, "t.tsv", QUPATH + "\n".join(rows))
    said = " ".join(str(warning.message) for warning in caught)
    assert "taken as labels of the whole image" in said
    assert "1 of 3 images are left out" in said
    assert (data.names, data.classes) == (("a.png", "b.png"), ("Stroma", "Tumor"))
    assert data.targets.tolist() == [[1, 1], [0, 1]]
    with pytest.raises(InputError, match="t.tsv: .*holds no annotation"):
        read(folder, "t.tsv", QUPATH + rows[2])


def test_chexpert(folder: Path) -> None:
    for patient in (1, 2):
        (folder / f"train/patient0000{patient}/study1").mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(
            folder / f"train/patient0000{patient}/study1/view1_frontal.jpg"
        )
    header = ",".join(["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *LABELS])
    row = "train/patient0000{}/study1/view1_frontal.jpg,Female,68,Frontal,AP,{}"
    cells = [["1.0"] + [""] * 12 + ["1.0"], ["", "0.0", "-1.0"] + [""] * 10 + ["1.0"]]
    text = "\n".join([header, *(row.format(i, ",".join(c)) for i, c in enumerate(cells, start=1))])
    with pytest.warns(UserWarning, match=r"1 cells of -1 \(uncertain\) and 23 empty cells"):
        data = read(folder, "train.csv", text)
    assert data.classes == ("No Finding", "Support Devices")
    assert data.targets.tolist() == [[1, 1], [0, 1]]
    assert data.groups.tolist() == ["patient00001", "patient00002"]
    with pytest.raises(InputError, match=r"train.csv, row 2: '2' in column 'No Finding'"):
        read(folder, "train.csv", text.replace("AP,1.0", "AP,2"))


KEYS = ["data", "image", "annotations", "result", "choices", "value", "choice", "type"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4)
    ),
    max_leaves=15,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(JSON | st.lists(JSON, max_size=3))
def test_any_json_gives_data_or_our_own_error(folder: Path, content: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            read(folder, "fuzzed.json", json.dumps(content))
        except InputError as error:
            assert "fuzzed.json" in str(error)  # noqa: PT017


def coco(*annotations: tuple[int, int], **more: Any) -> dict[str, Any]:
    """Images 1 to 3 and categories 7 and 8, with pairs of an image and a category."""
    return {
        "images": [{"id": i, "file_name": f"{name}.png"} for i, name in enumerate("abc", 1)],
        "categories": [{"id": 7, "name": "mass"}, {"id": 8, "name": "fluid"}],
        "annotations": [{"image_id": i, "category_id": c} | more for i, c in annotations],
    }


def test_coco(folder: Path) -> None:
    with pytest.warns(UserWarning, match="1 of 3 images are left out, as they have no annotation"):
        data = read(folder, "coco.json", json.dumps(coco((1, 7), (2, 8), (1, 7))))
    assert (data.names, data.classes) == (("a.png", "b.png"), ("fluid", "mass"))
    assert data.targets.tolist() == [1, 0]
    several = coco((1, 7), (1, 8), (2, 8), (3, 7), bbox=[0, 0, 3, 3])
    with pytest.warns(UserWarning, match="4 annotations are of objects"):
        data = read(folder, "coco.json", json.dumps(several))
    assert data.targets.tolist() == [[1, 1], [1, 0], [0, 1]]
    for broken in (
        coco((9, 7)),
        coco((1, 9)),
        coco() | {"images": [3]},
        coco() | {"annotations": 3},
    ):
        with pytest.raises(InputError, match="not COCO's JSON, or damaged"):
            read(folder, "coco.json", json.dumps(broken))


def test_geojson_of_qupath_is_told(folder: Path) -> None:
    feature = {"type": "Feature", "properties": {"classification": {"name": "Tumor"}}}
    for content in ([feature], {"type": "FeatureCollection", "features": [feature]}):
        for name in ("a.geojson", "a.json"):
            with pytest.raises(InputError, match="names no image; export the measurements"):
                read(folder, name, json.dumps(content))


def test_label_studio_csv(folder: Path) -> None:
    (folder / "x y.png").write_bytes((folder / "a.png").read_bytes())
    text = (
        "image,id,choice\n/data/upload/3/0a1b2c3d-a.png,1,mass\n"
        "/data/local-files/?d=b.png,2,fluid\n/data/upload/3/0a1b2c3d-x%20y.png,3,mass\n"
    )
    data = read(folder, "t.csv", text)
    assert (data.names, data.targets.tolist()) == (("a.png", "b.png", "x y.png"), [1, 0, 1])


def test_mimic(folder: Path) -> None:
    place = folder / "files" / "p10" / "p1000032" / "s504"
    place.mkdir(parents=True)
    for name in ("x1", "x2"):
        Image.new("RGB", (8, 8)).save(place / f"{name}.jpg")
    header, cells = ",".join(LABELS), ",".join(["1.0", "-1.0", "", "0.0"] + [""] * 10)
    head = f"subject_id,study_id,{header}"
    with pytest.raises(InputError, match="join it with mimic-cxr-2.0.0-metadata.csv by study_id"):
        read(folder, "m.csv", f"{head}\n1000032,504,{cells}\n")
    other = ",".join(["", "1.0"] + [""] * 12)
    rows = f"x1,1000032,504.0,{cells}\nx2,1000032,504.0,{other}\n"
    with pytest.warns(UserWarning, match="1 cells of -1"):
        data = read(folder, "m.csv", f"dicom_id,{head}\n{rows}")
    assert data.names[1] == "files/p10/p1000032/s504/x2.jpg"
    assert data.groups is not None
    assert data.groups.tolist() == ["1000032", "1000032"]
    assert (data.classes, data.targets.tolist()) == (LABELS[1::-1], [[0, 1], [1, 0]])
