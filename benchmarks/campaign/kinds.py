"""What is damaged, by kind: whole files to start from, and how medept reads them."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import yaml
from kind import NAMES, Kind, Seed, each_in_turn, pixels, put_pictures, saved
from mutate import damaged, damaged_png, damaged_text, damaged_tree, damaged_zip
from PIL import Image
from volumes import (
    case_seeds,
    nifti_seeds,
    put_cases,
    put_series,
    read_cases,
    read_series,
    read_volume,
    series_seeds,
)

from medept import FewShotClassifier, load_encoder
from medept.benchmark.suite import SHIPPED, read_suite
from medept.classifier import restore
from medept.data.dataset import read_dataset
from medept.data.dicom.patients import dicom_groups
from medept.data.exports.chexpert import LABELS
from medept.data.find_images import find_images
from medept.data.folder_images import images_below
from medept.data.image_lists import read_list
from medept.data.images import read_image
from medept.data.labelled_images import LabelledImages
from medept.data.sources.medfmc_submission import read_submission
from medept.fits.folder import read_fit
from medept.phantoms import make_phantoms, write_phantoms
from medept.workflows.fit import fit


def image_seeds() -> list[Seed]:
    """Pictures of every format and most kinds of samples."""
    import pillow_heif

    pillow_heif.register_heif_opener()
    modes = {
        "PNG": ("RGB", "RGBA", "L", "LA", "P", "1", "I;16"),
        "JPEG": ("RGB", "L", "CMYK"),
        "GIF": ("P",),
        "BMP": ("RGB", "L", "1", "P"),
        "WEBP": ("RGB", "RGBA"),
        "PPM": ("RGB", "L", "1"),
        "JPEG2000": ("RGB", "L", "RGBA"),
        "TIFF": ("RGB", "L", "1", "P", "CMYK", "F", "I;16", "LAB"),
        "HEIF": ("RGB",),
        "AVIF": ("RGB",),
    }
    seeds = []
    for form, names in modes.items():
        for mode in names:
            damage = damaged_png if form == "PNG" else damaged
            image = Image.fromarray(pixels()[..., 0].astype(np.uint16) * 200)
            if mode == "I;16":
                out = io.BytesIO()
                image.save(out, format=form)
                content = out.getvalue()
            elif mode == "LAB":
                content = _lab()
            else:
                content = saved(form, mode)
            seeds.append(Seed(f"image.{form.lower()}", content, damage))
    seeds.append(
        Seed("image.jpg", saved("JPEG", progressive=True, exif=b"Exif\0\0II*\0\x08\0\0\0\0\0"))
    )
    return [*seeds, *_tiff_seeds()]


def _lab() -> bytes:
    from PIL import ImageCms

    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    image = ImageCms.profileToProfile(Image.fromarray(pixels()), *profiles, outputMode="LAB")
    out = io.BytesIO()
    image.save(out, format="TIFF")  # type: ignore[union-attr]
    return out.getvalue()


def _tiff_seeds() -> Iterator[Seed]:
    import tifffile

    grey = pixels()[..., 0]
    arrays: list[tuple[np.ndarray, dict[str, Any]]] = [
        (pixels().astype(np.uint16) * 256, {"photometric": "rgb"}),
        (np.moveaxis(pixels(), -1, 0), {"photometric": "rgb", "planarconfig": "separate"}),
        (grey.astype(np.uint32), {}),
        (grey.astype(np.int16), {}),
        (grey / 255, {}),
        (grey.astype(np.float32), {"tile": (16, 16)}),
        (grey.astype(np.uint64), {"bigtiff": True}),
        (grey, {"compression": "zlib", "predictor": True}),
        (grey, {"photometric": "miniswhite"}),
        (np.stack([grey, grey]), {"metadata": {"axes": "ZYX"}}),
    ]
    for values, options in arrays:
        out = io.BytesIO()
        tifffile.imwrite(out, values, **options)
        yield Seed("image.tif", out.getvalue())


def dicom_seeds() -> list[Seed]:
    """pydicom's test files of up to 40 kB: of every transfer syntax, reports too."""
    import pydicom.data

    folder = Path(pydicom.data.__file__).parent / "test_files"
    files = (f for f in sorted(folder.rglob("*")) if f.is_file() and f.stat().st_size < 40_000)
    return [Seed("image.dcm", file.read_bytes()) for file in files]


def read_picture(file: Path) -> None:
    """As ``predict`` and ``fit`` do: looks through the folder, finds its patient, decodes it."""
    each_in_turn(
        lambda: images_below(file.parent, file.parent),
        lambda: dicom_groups([file]),
        lambda: read_image(file),
    )


def table_seeds() -> list[Seed]:
    """Tables of every form, and exports of annotation tools."""
    table = pd.DataFrame(
        {
            "image": NAMES,
            "label": ["x", "y", "x", "y"],
            "patient": ["1", "01", "2", "3"],
            "split": ["train", "train", "test", "val"],
        }
    )
    flags = pd.DataFrame({"image": NAMES, "mass": [0, 1, 1, 0], "fluid": [1, 0, 1, 0]})
    joined = pd.DataFrame({"image": NAMES, "labels": ["m;f", "m", "f", "m"]})
    lists = pd.DataFrame({"image": NAMES, "choice": ['{"choices": ["m", "f"]}', "m", "['f']", "m"]})
    chexpert = pd.DataFrame(
        {"Path": NAMES} | {label: ["1.0", "0.0", "-1.0", ""] for label in LABELS}
    )
    qupath = pd.DataFrame(
        {
            "Image": NAMES,
            "Object type": "Annotation",
            "Classification": ["x", "y", "x", "y"],
            "ROI": "Polygon",
        }
    )
    cvat = (
        "<annotations><version>1.1</version>"
        + "".join(
            f'<image id="{i}" name="{name}"><tag label="{"xy"[i % 2]}"/></image>'
            for i, name in enumerate(NAMES)
        )
        + "</annotations>"
    )
    written = {
        "table": table,
        "flags": flags,
        "joined": joined,
        "lists": lists,
        "chexpert": chexpert,
    }
    seeds = [
        Seed(f"{name}.csv", frame.to_csv(index=False).encode(), damaged_text)
        for name, frame in written.items()
    ]
    seeds += [
        Seed("qupath.tsv", qupath.to_csv(index=False, sep="\t").encode(), damaged_text),
        Seed("sep.csv", b"sep=;\n" + table.to_csv(index=False, sep=";").encode(), damaged_text),
        Seed("cvat.xml", cvat.encode(), damaged_text),
    ]
    for suffix, write in (("parquet", "to_parquet"), ("xlsx", "to_excel"), ("ods", "to_excel")):
        out = io.BytesIO()
        try:
            getattr(table, write)(
                out, index=False, **({"engine": "odf"} if suffix == "ods" else {})
            )
        except ImportError:  # odfpy
            continue
        damage = damaged if suffix == "parquet" else damaged_zip
        seeds.append(Seed(f"table.{suffix}", out.getvalue(), damage))
    for name, tree in _exports().items():
        content = json.dumps(tree).encode()
        seeds += [
            Seed(f"{name}.json", content, damaged_text),
            Seed(f"{name}.json", content, _damaged_json),
        ]
    return seeds


def _exports() -> dict[str, Any]:
    studio = [
        {
            "id": i,
            "data": {"image": f"/data/upload/1/0a1b2c3d-{name}"},
            "annotations": [
                {
                    "was_cancelled": False,
                    "result": [
                        {"type": "choices", "from_name": "c", "value": {"choices": ["xy"[i % 2]]}}
                    ],
                }
            ],
        }
        for i, name in enumerate(NAMES)
    ]
    coco = {
        "images": [
            {"id": i, "file_name": name, "width": 20, "height": 24} for i, name in enumerate(NAMES)
        ],
        "categories": [{"id": 1, "name": "x"}, {"id": 2, "name": "y"}],
        "annotations": [{"id": i, "image_id": i, "category_id": 1 + i % 2} for i in range(4)],
    }
    geojson = {
        "type": "FeatureCollection",
        "features": [
            {
                "type": "Feature",
                "geometry": {"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [0, 0]]]},
                "properties": {"objectType": "annotation", "classification": {"name": "x"}},
            }
        ],
    }
    small = [{"image": name, "choice": "xy"[i % 2]} for i, name in enumerate(NAMES)]
    return {"studio": studio, "min": small, "coco": coco, "qupath": geojson}


def _damaged_json(whole: bytes, random: Random) -> bytes:
    return json.dumps(damaged_tree(json.loads(whole), random)).encode("utf-8", "surrogatepass")


def _damaged_yaml(whole: bytes, random: Random) -> bytes:
    if random.random() < 0.4:
        return damaged_text(whole, random)
    tree = damaged_tree(yaml.safe_load(whole), random)
    try:
        text = yaml.safe_dump(tree, allow_unicode=True)
    except RecursionError:
        text = json.dumps(tree)  # which is YAML too
    return text.encode("utf-8", "surrogatepass")


def read_labels(file: Path) -> None:
    """As ``fit`` and as ``predict`` read a table."""
    each_in_turn(lambda: read_dataset(file), lambda: find_images([file]))


def list_seeds() -> list[Seed]:
    """Lists of support sets, and submissions of a challenge."""
    return [
        Seed("list.txt", b"a b.png 0,1,0\nc.png 1 0 1\n", damaged_text),
        Seed("list.txt", b"a.png 0\nb c.png 1\nd.png 2\n", damaged_text),
        Seed("submission.csv", b"a.png,0.25,0.75\nb.png,0.5,0.5\n", damaged_text),
    ]


def read_lines(file: Path) -> None:
    """As support sets of both tasks, or as a submission."""
    if file.suffix == ".csv":
        names = ("a.png", "b.png")
        read_submission(file, LabelledImages(names, names, np.array([0, 1]), ("n", "p")))
    else:
        for multilabel in (False, True):
            read_list(file, ("a", "b", "c"), multilabel=multilabel)


def suite_seeds() -> list[Seed]:
    """The suites that ship with medept."""
    return [
        Seed("suite.yaml", item.read_bytes(), _damaged_yaml)
        for item in sorted(SHIPPED.iterdir(), key=lambda item: item.name)
        if item.name.endswith(".yaml")
    ]


def read_runs(file: Path) -> None:
    """As ``bench`` reads a suite, with its data sets told."""
    suite = read_suite(str(file))
    missing = [name for name, spec in suite.data.items() if spec is None]
    read_suite(str(file), data=dict.fromkeys(missing, "phantoms:colon:4")).runs()


@cache
def fits(folder: Path) -> list[Path]:
    """Folders of small fits of several methods."""
    data = make_phantoms("colon", patients=8, images_per_patient=1, size=48)
    write_phantoms(data, folder / "colon")
    table = read_dataset(folder / "colon" / "labels.csv")
    found = []
    settings: dict[str, dict[str, Any]] = {
        "ridge": {},
        "knn": {},
        "prototype": {},
        "ept": {"length": 5},
        "vpt": {"length": 2},
        "lora": {"rank": 1},
        "mlp-2": {},
        "probe": {},
    }
    for method, chosen in settings.items():
        out = folder / method
        if not out.exists():
            classifier = FewShotClassifier(
                method=method,
                settings=chosen,
                epochs=1,
                device="cpu",
                precision="float32",
                symmetry="none",
                calibrate="temperature" if method == "ridge" else "none",
            )
            fit(table, out, classifier, shots=2)
        found.append(out)
    return found


FITTED = (
    "adapter.json",
    "adapter.safetensors",
    "support.csv",
    "predictions.csv",
    "metrics.json",
    "check.json",
    "history.csv",
    "distribution.csv",
)


def adapter_seeds(folder: Path) -> list[Seed]:
    """The files of these fits that are read back."""
    seeds = []
    for place in fits(folder):
        for name in FITTED:
            file = place / name
            if not file.exists():
                continue
            full = f"{place.name}/{name}"
            content = file.read_bytes()
            if name.endswith(".json"):
                seeds += [Seed(full, content, _damaged_json)] * (4 if name == "adapter.json" else 1)
            if not name.endswith(".safetensors"):
                seeds.append(Seed(full, content, damaged_text))
            else:
                seeds += [Seed(full, content), Seed(full, content, _damaged_header)]
    return seeds


def _damaged_header(whole: bytes, random: Random) -> bytes:
    """A safetensors file whose header is JSON of the right length, and wrong."""
    size = int.from_bytes(whole[:8], "little")
    header = _damaged_json(whole[8 : 8 + size], random)
    return len(header).to_bytes(8, "little") + header + whole[8 + size :]


@cache
def _embedded() -> Any:
    return load_encoder("embedded")


def _cheaply(name: str, **options: Any) -> Any:
    """The embedded encoder without reading it again."""
    if name == "embedded" and not options.get("image_size") and not options.get("weights"):
        return _embedded().copy_with_shared_weights()
    return load_encoder(name, **options)


def read_adapter(fitted: Path, file: Path) -> None:
    """As ``predict`` and ``report`` read a fit of which one file is damaged."""
    whole = fitted / file.parent.name
    for name in FITTED:
        if (whole / name).exists() and name != file.name:
            shutil.copyfile(whole / name, file.with_name(name))
    actions: list[Callable[[], object]] = [lambda: read_fit(file.parent)]
    if file.name.startswith("adapter"):
        actions.append(lambda: _predicted(file.parent))
    with patch.object(restore, "load_encoder", _cheaply):
        each_in_turn(*actions)


def _predicted(folder: Path) -> None:
    classifier = FewShotClassifier.load(folder, device="cpu", precision="float32")
    classifier.set_params(tta=1).predict_proba([pixels()])


def kinds(folder: Path) -> dict[str, Kind]:
    """All kinds.

    Args:
        folder: where fits are kept.
    """
    return {
        "tables": Kind(0.15, table_seeds, read_labels, put_pictures),
        "cases": Kind(0.1, case_seeds, read_cases, put_cases),
        "lists": Kind(0.05, list_seeds, read_lines),
        "images": Kind(0.25, image_seeds, read_picture),
        "dicom": Kind(0.1, dicom_seeds, read_picture),
        "series": Kind(0.05, series_seeds, read_series, put_series),
        "nifti": Kind(0.1, nifti_seeds, read_volume),
        "suites": Kind(0.1, suite_seeds, read_runs),
        "adapters": Kind(0.1, partial(adapter_seeds, folder), partial(read_adapter, folder)),
    }
