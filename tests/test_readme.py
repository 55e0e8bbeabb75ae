"""The README's commands and Python work as printed, in order, in an empty folder."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch
from test_cli import run

from medept.data.phantoms import make_phantoms
from medept.demo import run_demo, summary

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line
    for block in re.findall(r"^```\n(.*?)^```", README, flags=re.S | re.M)
    for line in block.splitlines()
    if line.startswith("medept ")
]


@pytest.mark.slow
@pytest.mark.timeout(1200)  # some twenty commands, among them a benchmark
def test_every_command_works_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(COMMANDS) >= 10
    for command in COMMANDS:
        assert run(*shlex.split(command)[1:]) == 0, command
    assert (tmp_path / "my-fit" / "metrics.json").exists()


def test_the_python_of_the_readme_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_vit: torch.nn.Module
) -> None:
    monkeypatch.chdir(tmp_path)
    data = make_phantoms("colon", patients=4, images_per_patient=1, size=64)
    names = {
        "images": data.images, "labels": data.labels, "model": tiny_vit, "torch": torch,
        "head": torch.nn.Linear(48, 2),
    }  # fmt: skip
    blocks = re.findall(r"^```python\n(.*?)^```", README, flags=re.S | re.M)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert (tmp_path / "my-adapter" / "adapter.json").exists()


@pytest.mark.slow
def test_the_demo_tells_its_story(tmp_path: Path) -> None:
    result = run_demo(tmp_path / "demo", lambda *_: None, shots=(1, 2), seeds=(0, 1))
    assert len(result.runs) == 8
    assert list(summary(result.runs, "auroc").columns) == [1, 2]
    written = {p.name for p in (tmp_path / "demo").iterdir()}
    assert written == {
        "adapter", "colon-phantoms", "phantoms.png", "runs.csv", "shots.png",
    }  # fmt: skip
    for picture in ("adapter/gates.png", "phantoms.png", "shots.png"):
        assert (tmp_path / "demo" / picture).read_bytes().startswith(b"\x89PNG")


def test_the_worked_example_of_a_new_method(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medept.methods import METHODS

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(METHODS, "block-scale", METHODS["linear"])  # gone when this test ends
    guide = Path(__file__).parents[1] / "docs" / "adding-a-method.md"
    data = make_phantoms("colon", patients=4, images_per_patient=1, size=64)
    names = {"images": data.images, "labels": data.labels}
    for block in re.findall(r"^```python\n(.*?)^```", guide.read_text(), flags=re.S | re.M):
        exec(compile(block, "adding-a-method.md", "exec"), names)
    assert names["classifier"].model_.trainable_count() == 8 * 192 + 2 * 192 + 2
    assert names["probabilities"].shape == (4, 2)
