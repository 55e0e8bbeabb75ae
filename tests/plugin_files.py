"""The method of docs/adding-a-method.md as a file, and packages that offer it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from helpers import ROOT

from medept.methods import METHODS, plugins

GUIDE = (ROOT / "docs" / "adding-a-method.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", GUIDE, flags=re.S | re.M)
BLOCK_SCALE = BLOCKS[0]


def write_plugin(folder: Path, source: str = BLOCK_SCALE) -> Path:
    """The file ``block_scale.py`` in a folder."""
    file = folder / "block_scale.py"
    file.write_text(source, encoding="utf-8")
    return file


def write_package(folder: Path, name: str, offers: str, source: str = BLOCK_SCALE) -> None:
    """An installed package of one module that offers one method; on ``sys.path`` it is found."""
    (folder / f"{name}.py").write_text(source, encoding="utf-8")
    info = folder / f"{name}-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(f"[medept.methods]\n{offers} = {name}:BlockScale\n")


def forget_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is gone when it ends."""
    monkeypatch.setitem(METHODS, "block-scale", METHODS["linear"])  # whatever it was, it goes
    del METHODS["block-scale"]
    for name in ("LOADED", "_PLACES"):
        monkeypatch.setattr(plugins, name, {})
