"""The commands and the Python of the README and of the common tasks work as printed."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from helpers import ROOT, run
from plugin_files import BLOCKS as PYTHON
from plugin_files import forget_plugins, write_plugin
from typer.main import get_command

from medept.benchmark.suite import read_suite
from medept.cli.app import app
from medept.phantoms import make_phantoms, write_phantoms
from medept.workflows.demo import run_demo, summary

README = (ROOT / "README.md").read_text(encoding="utf-8")
TASKS = (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8")


def commands_of(page: str) -> list[str]:
    blocks = re.findall(r"^```\n(.*?)^```", page, flags=re.S | re.M)
    lines = [line for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith("medept ")]


COMMANDS = list(dict.fromkeys(commands_of(README) + commands_of(TASKS)))
"""Those of both pages, which share their first."""


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
    result = run_demo(tmp_path / "demo", lambda *_: None, shots=(1, 2), seeds=(0,), patients=20)
    assert len(result.runs) == 4
    assert list(summary(result.runs, "auroc").columns) == [1, 2]
    written = {p.name for p in (tmp_path / "demo").iterdir()}
    assert written == {
        "adapter", "colon-phantoms", "phantoms.png", "runs.csv", "shots.png",
    }  # fmt: skip
    for picture in ("adapter/gates.png", "phantoms.png", "shots.png"):
        assert (tmp_path / "demo" / picture).read_bytes().startswith(b"\x89PNG")


GUIDES = {file.name: file.read_text(encoding="utf-8") for file in (ROOT / "docs").glob("*.md")}
SHOWN = [
    (name, " ".join(command.replace("\\\n", " ").split()))
    for name, text in GUIDES.items()
    for command in re.findall(r"^ {0,4}(medept (?:.*\\\n)*.*)$", text, flags=re.M)
    if not command.startswith("medept as ")
]


@pytest.mark.parametrize(("guide", "command"), SHOWN)
def test_every_command_of_the_guides_is_one(guide: str, command: str) -> None:
    """Its verb and options exist; what it names need not be here."""
    _, verb, *arguments = shlex.split(command, comments=True)
    get_command(app).commands[verb].make_context(verb, arguments)


def test_the_suite_of_the_benchmarks_guide_can_be_read(tmp_path: Path) -> None:
    (block,) = re.findall(r"^```yaml\n(.*?)^```", GUIDES["benchmark.md"], flags=re.S | re.M)
    (tmp_path / "mine.yaml").write_text(block)
    (tmp_path / "vit_tiny.safetensors").write_bytes(b"")
    suite = read_suite(str(tmp_path / "mine.yaml"))
    labels = {run.label for run in suite.runs()}
    assert labels == {"linear", "short", "long", "as in the paper", "by the largest"}


def test_the_worked_example_of_a_new_method(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a file, in Python, on the command line and in a suite."""
    forget_plugins(monkeypatch)
    monkeypatch.chdir(tmp_path)
    write_plugin(tmp_path)
    data = make_phantoms("colon", patients=4, images_per_patient=1, size=64)
    names = {"images": data.images, "labels": data.labels}
    assert len(PYTHON) == 2
    exec(compile(PYTHON[1], "adding-a-method.md", "exec"), names)
    assert names["classifier"].model_.trainable_count() == 8 * 192 + 2 * 192 + 2
    assert names["probabilities"].shape == (4, 2)

    write_phantoms(data, tmp_path / "DATA")
    shutil.rmtree("scaled")
    places = {"DATA": "DATA/labels.csv", "IMAGES": "DATA/labels.csv"}
    commands = [shlex.split(c)[1:] for name, c in SHOWN if name == "adding-a-method.md"]
    assert [command[0] for command in commands] == ["methods", "fit", "predict"]
    for command in commands:
        extra = ["--epochs", "2", "--calibrate", "none"] if command[0] == "fit" else []
        assert run(*(places.get(word, word) for word in command), *extra) == 0, command
    assert "The initial scale." in capsys.readouterr().out
    assert json.loads(Path("scaled/adapter.json").read_text())["settings"] == {"start": 1.1}

    (block,) = re.findall(r"^```yaml\n(.*?)^```", GUIDES["adding-a-method.md"], flags=re.S | re.M)
    Path("scales.yaml").write_text(block)
    ept, scale, *_ = read_suite("scales.yaml", shots=[1], episodes=1).runs()
    assert not ept.plugins
    assert list(scale.plugins) == [str(tmp_path.resolve() / "block_scale.py")]
