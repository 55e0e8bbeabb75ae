"""`medept bench`, `report`, `methods` and `encoders`: what they print and what they refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import run


@pytest.mark.parametrize("verb", ["encoders", "methods"])
def test_lists(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(verb) == 0
    assert {"encoders": "embedded", "methods": "ept"}[verb] in capsys.readouterr().out
    assert run(verb, "--json") == 0
    listed = json.loads(capsys.readouterr().out)
    if verb == "methods":
        compared = "full linear partial mlp bias lora adapter vp vpt ept probe knn prototype"
        assert {*compared.split(), "dora", "ia3", "norm"} <= set(listed)


def test_one_method_tells_what_its_settings_mean(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert run("methods", "vpt") == 0
    printed = capsys.readouterr().out
    assert "(optimizer sgd, lr 0.001, encoder-lr 0.003125)" in " ".join(printed.split())
    assert "1, 5, 10, 50, 100, 150" in printed
    assert "Prompt tokens per block." in printed
    assert run("methods", "nothing") == 2
    assert "no method is named" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--episodes", "--workers"])
def test_a_benchmark_of_nothing_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    assert run("bench", "quick", "--out", tmp_path / "b", option, 0) == 2
    assert option in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["report", "TABLE_FOLDER"], "no adapter here"),
        (["bench", "magic"], "no suite 'magic'"),
        (["bench", "local", "--data", "mine=no.csv"], "no.csv: no such table or folder"),
    ],
)
def test_refusals_of_comparisons(
    refuses: Callable[..., None], arguments: list[str], message: str
) -> None:
    refuses(arguments, message)
