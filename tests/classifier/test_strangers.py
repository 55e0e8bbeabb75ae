"""Adapters from a stranger: no code runs, no memory is taken by what a file claims, no path opens.

A fit is copied, and one thing in it is replaced by what somebody with bad intent would write.
"""

from __future__ import annotations

import json
import os
import pickle
import resource
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from medept import FewShotClassifier, InputError
from medept.fits.adapter import read_info
from medept.fits.folder import read_fit
from medept.fits.tables import write_support
from medept.phantoms import make_phantoms


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    data = make_phantoms("colon", patients=4, images_per_patient=1, size=48)
    options = {"epochs": 1, "calibrate": "none", "device": "cpu", "precision": "float32"}
    classifier = FewShotClassifier(method="ept", settings={"length": 3}, **options)  # type: ignore[arg-type]
    classifier.fit(data.images, data.labels).save(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return shutil.copytree(saved, tmp_path / "adapter")


def change(folder: Path, **changes: Any) -> None:
    file = folder / "adapter.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def refused(folder: Path, message: str) -> None:
    """Refused in words, without much memory for it."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match=message):
        FewShotClassifier.load(folder, device="cpu", precision="float32")
    unit = 1 if sys.platform == "darwin" else 1024
    taken = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit
    assert taken < 300e6, "bytes"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": {"length": 10**9}}, "length"),
        ({"settings": {"length": 10**30}}, "length"),
        ({"settings": {"layers": "1-999999999999"}}, "layers"),
        ({"settings": {"layers": "9" * 5000}}, "layers"),
        ({"method": "vpt", "settings": {"length": 10**9}}, "length"),
        ({"method": "lora", "settings": {"rank": 10**9}}, "rank"),
        ({"method": "mlp-100000000", "settings": {}}, "k: "),
        ({"method": "mlp-" + "9" * 5000, "settings": {}}, "no method"),
        ({"method": "partial-999999999", "settings": {}}, "does not fit"),
        ({"method": "os.system", "settings": {}}, "no method"),
        ({"classes": [str(i) for i in range(50_000)]}, "classes"),
        ({"classes": [str(i) for i in range(9_000)], "shares": []}, "does not fit"),
        ({"others": [[[]]]}, "others"),
        ({"symmetry": "x" * 9000}, "symmetry"),
        ({"format": 2}, "form"),
        ({"encoder_weights": "/etc/passwd"}, "belongs|own weights|safetensors"),
        ({"encoder_weights": "../../../etc/passwd"}, "own weights|not there|safetensors"),
        ({"encoder_weights": "a\0b"}, "not there"),
        ({"encoder_weights": "x" * 9000}, "not there"),
    ],
)
def test_what_it_claims_is_checked_before_it_is_believed(
    folder: Path, changes: dict[str, Any], message: str
) -> None:
    change(folder, **changes)
    refused(folder, message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": [10**6, 10**6]}, "sides"),
        ({"size": [0, 0]}, "sides"),
        ({"size": [64, 2]}, "64 x 2"),
        ({"interpolation": "__import__"}, "prepared"),
        ({"std": [0, 0, 0]}, "prepared"),
        ({"mean": [0.5, 0.5]}, "prepared"),
        ({"resized": [10**6, 10**6]}, "sides"),
        ({"crop_pct": 1e-9}, "crop_pct"),
    ],
)
def test_an_input_that_no_image_can_become_is_refused(
    folder: Path, changes: dict[str, Any], message: str
) -> None:
    encoder = json.loads((folder / "adapter.json").read_text())["encoder"]
    change(folder, encoder=encoder | {"preprocessing": encoder["preprocessing"] | changes})
    refused(folder, message)


EVIL = "import pathlib\npathlib.Path(__file__).with_name('ran').write_text('')\n"


@pytest.mark.parametrize("mode", ["config", "processor"])
def test_an_encoder_that_brings_code_is_refused_without_a_question(folder: Path, mode: str) -> None:
    """transformers would ask on the terminal whether to run it, and stand there."""
    pytest.importorskip("transformers")
    code, place = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}, folder / "encoder"
    place.mkdir()
    (place / "evil.py").write_text(EVIL)
    config: dict[str, Any] = {
        "model_type": "vit",
        "image_size": 32,
        "patch_size": 16,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "intermediate_size": 16,
    }
    processor: dict[str, Any] = {"image_processor_type": "ViTImageProcessor"}
    if mode == "config":
        config |= {"auto_map": code, "model_type": "evil"}
    else:
        processor = {"auto_map": {"AutoImageProcessor": "evil.P"}, "image_processor_type": "Evil"}
    (place / "config.json").write_text(json.dumps(config))
    (place / "preprocessor_config.json").write_text(json.dumps(processor))
    encoder = json.loads((folder / "adapter.json").read_text())["encoder"]
    change(folder, encoder=encoder | {"name": f"transformers:{place}"}, encoder_weights="random")
    refused(folder, "could not be loaded")
    assert not (place / "ran").exists()


class Runs:
    """Unpickled, it would write a file."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.system, ("touch ran-by-pickle",)


def header(claims: dict[str, Any], size: int | None = None, rest: bytes = b"") -> bytes:
    text = json.dumps(claims).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + rest


def floats(*shape: int) -> dict[str, Any]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [0, 4 * int(np.prod(shape))]}


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps(Runs()),
        b"",
        b"\x80\x02}",
        header({"head.weight": floats(10**6, 10**6)}),
        header({}, size=2**62),
        header({}, size=2**63 - 1),
        header({"x": floats(1)}, rest=b"\0" * 99),
        header({"x": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}),
        header({"x": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 0]}}),
    ],
    ids=lambda content: f"{len(content)} bytes",
)
def test_weights_that_are_none_are_refused(
    folder: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    (folder / "adapter.safetensors").write_bytes(content)
    refused(folder, "adapter.safetensors: damaged")
    assert not (folder / "ran-by-pickle").exists()


def test_a_file_larger_than_memory_is_refused_before_it_is_read(folder: Path) -> None:
    file = folder / "adapter.safetensors"
    with file.open("wb") as sparse:
        sparse.truncate(2**42)
    refused(folder, "adapter.safetensors: 4398.0 GB")


@pytest.mark.parametrize("name", ["adapter.json", "support.csv", "check.json", "distribution.csv"])
@pytest.mark.parametrize("what", ["vast", "pipe"])
def test_so_is_any_other_file_and_what_is_none(folder: Path, name: str, what: str) -> None:
    write_support(folder, make_phantoms("colon", patients=4, images_per_patient=1, size=48))
    (folder / name).unlink(missing_ok=True)
    if what == "vast":
        with (folder / name).open("wb") as sparse:
            sparse.truncate(2**42)
    else:
        os.mkfifo(folder / name)
    told = f"{name}: 4398.0 GB" if what == "vast" else f"{name}: not a file"
    with pytest.raises(InputError, match=told):
        read_fit(folder)


def test_weights_of_another_shape_are_refused(folder: Path) -> None:
    file = folder / "adapter.safetensors"
    state = load_file(file)
    state["head.weight"] = state["head.weight"][:, :1].contiguous()
    save_file(state, file)
    refused(folder, "does not fit")
    state["surprise"] = state["head.bias"].clone()
    save_file(state, file)
    refused(folder, "does not fit|surprise")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with a name")
def test_a_pipe_in_the_place_of_a_file_does_not_wait_for_ever(folder: Path) -> None:
    (folder / "adapter.safetensors").unlink()
    os.mkfifo(folder / "adapter.safetensors")
    refused(folder, "not a file")
    (folder / "adapter.json").unlink()
    os.mkfifo(folder / "adapter.json")
    refused(folder, "not a file")


def test_a_link_out_of_the_folder_shows_nothing_of_what_it_leads_to(folder: Path) -> None:
    """Links as such are fine: the cache of the Hugging Face hub consists of them."""
    secret = folder.parent / "secret"
    secret.write_text("root:x:0:0:secret words")
    (folder / "adapter.safetensors").unlink()
    (folder / "adapter.safetensors").symlink_to(secret)
    with pytest.raises(InputError, match="adapter.safetensors: damaged") as found:
        FewShotClassifier.load(folder)
    assert "secret words" not in str(found.value)
    (folder / "adapter.json").unlink()
    (folder / "adapter.json").symlink_to(secret)
    with pytest.raises(InputError, match="not an adapter") as found:
        read_info(folder)
    assert "secret words" not in str(found.value)
