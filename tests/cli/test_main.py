"""What all verbs share: help, JSON, no network, a fast start, and errors that say what to do."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from helpers import refuse, run

from medept.cli.app import app

VERBS = sorted(command.name or command.callback.__name__ for command in app.registered_commands)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(verb, "--help") == 0
    printed = capsys.readouterr().out
    assert re.search(rf"Usage: .*medept {verb} ", printed), "whatever runs it"
    assert "--json" in printed


def test_every_verb_prints_one_json_object(
    fitted: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    image = next(table.parent.glob("*.png"))
    out = tmp_path / "out"
    calls = {
        "predict": (fitted, image, "--out", tmp_path / "p.csv"),
        "embed": (image, "--out", tmp_path / "e.npy"),
        "evaluate": (fitted, table), "info": (fitted,), "check": (table, "--out", out),
        "export": (fitted, "--out", tmp_path / "model.pt2"),
        "phantoms": ("endo", "--patients", 4, "--out", tmp_path / "drawn"),
        "shrink": (table, "--pixels", 32, "--out", tmp_path / "small"),
        "episodes": (table, "--shots", 1, "--episodes", 1, "--out", tmp_path / "lists"),
        "report": (shutil.copytree(fitted, tmp_path / "copy"), table),
        "analyse": ("embedded", table, "--out", tmp_path / "look"),
        "fit": (table, "--shots", 2, "--method", "knn", "--out", tmp_path / "fit"),
        "datasets": (), "methods": (), "encoders": (), "bench": ("--list",),
        "demo": ("--out", tmp_path / "demo"),
        "suggest": (table.parent, "--count", 2, "--out", tmp_path / "first.csv"),
    }  # fmt: skip
    runs = [{"method": m, "shots": 1, "seed": s, "balanced_accuracy": 0.5, "auroc": 0.5}
            for m in ("linear", "ept") for s in (0, 1)]  # fmt: skip
    story = SimpleNamespace(runs=pd.DataFrame(runs))
    monkeypatch.setattr("medept.workflows.demo.run_demo", lambda *_: story)
    others = {"tiles", "serve", "app"}  # which are called where they are tested
    assert {*calls} == {*VERBS} - others
    for verb, arguments in calls.items():
        assert run(verb, *arguments, "--json") in (0, 1 if verb == "check" else 0), verb
        assert isinstance(json.loads(capsys.readouterr().out), dict | list), verb
    assert run("demo", "--out", tmp_path / "demo") == 0
    assert "balanced accuracy" in capsys.readouterr().out


def test_nothing_is_sent_anywhere(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    out = tmp_path / "fit"
    assert run("fit", table, "--out", out, "--shots", 2, "--method", "ept", "--epochs", 1) == 0
    assert run("predict", out, table, "--out", tmp_path / "p.csv") == 0


def test_importing_medept_loads_nothing_heavy() -> None:
    code = (
        "import sys, medept, medept.cli;"
        "print([m for m in ('torch', 'timm', 'sklearn', 'pandas') if m in sys.modules])"
    )
    command = [sys.executable, "-c", code]
    printed = subprocess.run(command, capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == "[]"


def test_too_little_memory_is_said(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(*_: object, **__: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate ...")

    monkeypatch.setattr("medept.classifier.fitting.train", exhausted)
    refuse(capsys, ["fit", str(small), "--out", str(tmp_path / "o"), "--shots", "1"],
           "not enough memory .*micro_batch=4")  # fmt: skip
    assert [p.name for p in tmp_path.iterdir()] == ["small"]
