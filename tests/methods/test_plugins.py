"""Methods from a file or an installed package, and what is wrong with some."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest
from plugin_files import BLOCK_SCALE, forget_plugins, write_package, write_plugin

from medept import load_plugin
from medept.encoders.encoder import Encoder
from medept.errors import SettingsError
from medept.methods import METHODS, adapt, find_method, packaged, plugin_of
from medept.methods.plugins import Plugin, to_load


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_plugins(monkeypatch)


def test_a_file_registers_its_method(tmp_path: Path, encoder: Encoder) -> None:
    file = write_plugin(tmp_path)
    plugin = load_plugin(file)
    method = find_method("block-scale")
    assert (plugin.name, plugin.sha256) == (file.name, sha256(file.read_bytes()).hexdigest())
    assert plugin_of(method) == plugin
    assert to_load(method) == {str(file.resolve()): plugin}
    assert plugin_of(find_method("ept")) is None
    assert to_load(find_method("ept")) == {}
    assert adapt(encoder, "block-scale", 3).trainable_count() == 3 * 48 + 48 * 3 + 3


def test_a_file_is_loaded_again_only_when_it_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_plugin(tmp_path)
    before = load_plugin(file)
    first = METHODS["block-scale"]
    monkeypatch.chdir(tmp_path)
    assert load_plugin("block_scale.py") == before
    assert METHODS["block-scale"] is first
    write_plugin(tmp_path, BLOCK_SCALE.replace("default=1.0", "default=1.1"))
    assert load_plugin(file) != before
    assert METHODS["block-scale"].Settings().start == 1.1
    write_plugin(tmp_path, BLOCK_SCALE.replace('"block-scale"', '"other-scale"'))
    load_plugin(file)
    assert "block-scale" not in METHODS
    del METHODS["other-scale"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"import torch\n": "import torcch\n"}, "line 1: .*No module named .torcch"),
        ({"class": "klass"}, "cannot be imported .SyntaxError"),
        ({"import torch\n": "raise SystemExit\n"}, "cannot be imported .SystemExit"),
        ({'name = "block-scale"': ""}, "defines no method: derive a class"),
        ({'"block-scale"': '"ept"'}, "'ept' is taken by the method of medept.methods.ept"),
        ({'"block-scale"': '"scale-2"'}, "cannot be named 'scale-2'"),
        ({'"block-scale"': '"auto"'}, "cannot be named 'auto'"),
        ({"    summary": "    summery"}, "has no summary"),
        ({"default=1.0, ": ""}, "without a usable default .start: Field required"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(
    tmp_path: Path, changes: dict[str, str], message: str
) -> None:
    source, before = BLOCK_SCALE, dict(METHODS)
    for old, new in changes.items():
        assert old in source
        source = source.replace(old, new)
    with pytest.raises(SettingsError, match=f"block_scale.py.*{message}"):
        load_plugin(write_plugin(tmp_path, source))
    assert before == METHODS


def test_what_is_no_plugin_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="none.py: no plugin can be read here .No such file"):
        load_plugin(tmp_path / "none.py")
    with pytest.raises(SettingsError, match="notes.txt: a plugin is a Python file"):
        load_plugin(tmp_path / "notes.txt")
    with pytest.raises(SettingsError, match="no_such_module: it cannot be imported"):
        load_plugin("no_such_module")
    with pytest.raises(SettingsError, match="json: it defines no method"):
        load_plugin("json")


def test_an_installed_package_offers_a_method(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_package(tmp_path, "scaling_one", "block-scale")
    monkeypatch.syspath_prepend(tmp_path)
    assert "block-scale" in packaged()
    assert "block-scale" not in METHODS, "it is imported when it is asked for"
    method = find_method("block-scale")
    assert plugin_of(method) == Plugin(name="scaling_one", version="1.2")
    assert to_load(method) == {}, "another process finds the package, too"


def test_a_package_that_is_broken_breaks_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_package(tmp_path, "scaling_two", "block-scale", "import torcch\n")
    write_package(tmp_path, "scaling_three", "other-scale")
    monkeypatch.syspath_prepend(tmp_path)
    assert find_method("ept").name == "ept"
    with pytest.raises(SettingsError, match="package scaling_two: .*torcch"):
        find_method("block-scale")
    with pytest.raises(SettingsError, match="package scaling_three: .*no method of that name"):
        find_method("other-scale")
    with pytest.raises(SettingsError, match="use one of adapter.*block-scale.*load_plugin"):
        find_method("nothing")
    write_package(tmp_path, "scaling_four", "block-scale")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SettingsError, match="several packages offer a method 'block-scale'"):
        find_method("block-scale")
