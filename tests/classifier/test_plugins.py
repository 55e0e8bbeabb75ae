"""A saved classifier whose method is from outside: with its plugin, without it, with another."""

from __future__ import annotations

import json
import logging
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from plugin_files import BLOCK_SCALE, forget_plugins, write_plugin
from sklearn.base import clone

from medept import FewShotClassifier, InputError, load_plugin
from medept.methods import METHODS

IMAGES = list(np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8))
LABELS = ["a", "b"] * 3
CPU = {"device": "cpu", "precision": "float32"}


@pytest.fixture
def fitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FewShotClassifier:
    """A classifier by the plugin ``block_scale.py``, saved in ``fit``."""
    forget_plugins(monkeypatch)
    load_plugin(write_plugin(tmp_path))
    classifier = FewShotClassifier("test_vit", "block-scale", encoder_weights="random", epochs=2,
                                   image_size=32, calibrate="none", **CPU)  # fmt: skip
    classifier.fit(IMAGES, LABELS).save(tmp_path / "fit")
    return classifier


def load(folder: Path) -> np.ndarray:
    return FewShotClassifier.load(folder / "fit", **CPU).predict_proba(IMAGES)


def test_it_is_saved_pickled_and_cloned(fitted: FewShotClassifier, tmp_path: Path) -> None:
    expected = fitted.predict_proba(IMAGES)
    unpickled = pickle.loads(pickle.dumps(fitted)).predict_proba(IMAGES)
    np.testing.assert_allclose(load(tmp_path), expected, atol=1e-6)  # the head is kept folded
    np.testing.assert_allclose(unpickled, expected, atol=1e-6)
    assert clone(fitted).get_params()["method"] == "block-scale"
    assert json.loads((tmp_path / "fit/adapter.json").read_text())["plugin"]["name"] == (
        "block_scale.py"
    )


def test_without_the_plugin_it_says_what_is_missing(
    fitted: FewShotClassifier, tmp_path: Path
) -> None:
    pickled = pickle.dumps(fitted)
    del METHODS["block-scale"]
    with pytest.raises(
        InputError, match=r"plugin block_scale.py .SHA-256 .*not loaded.*load_plugin"
    ):
        load(tmp_path)
    with pytest.raises(InputError, match="the pickled classifier: .*plugin block_scale.py"):
        pickle.loads(pickled)
    info = tmp_path / "fit" / "adapter.json"
    content = json.loads(info.read_text())
    package = {"name": "scaling", "version": "1.2", "sha256": None}
    info.write_text(json.dumps(content | {"plugin": package}))
    with pytest.raises(InputError, match=r"package scaling 1.2, which is not installed.*install"):
        load(tmp_path)
    info.write_text(json.dumps(content | {"plugin": None}))
    with pytest.raises(InputError, match="another version of medept"):
        load(tmp_path)


def test_with_another_version_of_the_plugin_it_warns(
    fitted: FewShotClassifier, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        expected = load(tmp_path)
        assert "came from" not in caplog.text
        load_plugin(write_plugin(tmp_path, BLOCK_SCALE + "# changed\n"))
        np.testing.assert_array_equal(load(tmp_path), expected)
    assert caplog.text.count("'block-scale' came from block_scale.py (SHA-256 ") == 1


def test_a_fresh_process_needs_the_file_and_never_runs_it_by_itself(
    fitted: FewShotClassifier, tmp_path: Path
) -> None:
    code = (
        "import sys, medept\n"
        "print(any('block_scale' in name for name in sys.modules))\n"
        "try:\n    medept.FewShotClassifier.load('fit', device='cpu')\n"
        "except medept.InputError as error:\n    print(error)\n"
        "print(any('block_scale' in name for name in sys.modules))\n"
        "medept.load_plugin('block_scale.py')\n"
        "print(medept.FewShotClassifier.load('fit', device='cpu').method)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    before, error, after, method = done.stdout.splitlines()
    assert (before, after, method) == ("False", "False", "block-scale")
    assert "block_scale.py" in error
