"""Methods from a file or an installed package, and what is wrong with some."""

from __future__ import annotations

import sys
from hashlib import sha256
from pathlib import Path

import pytest
from plugin_files import BLOCK_SCALE, write_package, write_plugin

from medept import load_plugin
from medept.encoders.encoder import Encoder
from medept.errors import SettingsError
from medept.methods import METHODS, adapt, find_method, plugin_of, plugins


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is gone when it ends."""
    for registry in (METHODS, plugins.LOADED, plugins._PLACES):
        monkeypatch.setattr(registry, "update", registry.update) if False else None


def test_a_file_registers_its_method(tmp_path: Path, encoder: Encoder) -> None:
    file = write_plugin(tmp_path)
    plugin = load_plugin(file)
    method = find_method("block-scale")
    assert (plugin.name, plugin.sha256) == (file.name, sha256(file.read_bytes()).hexdigest())
    assert plugin_of(method) == plugin
    assert plugin_of(find_method("ept")) is None
    assert adapt(encoder, "block-scale", 3).trainable_count() == 3 * 48 + 48 * 3 + 3
