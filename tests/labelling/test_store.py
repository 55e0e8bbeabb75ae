"""The journal of labels: what it keeps, also after a kill, and that `medept fit` reads it."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import cohen_kappa_score

from medept import InputError
from medept.data.dataset import read_dataset
from medept.labelling.agreement import agreement
from medept.labelling.store import Answer, LabelStore, Subject

ODD = ['q"uote.png', "comma, name.png", "two\nlines.png", "=cmd|calc.png", "<script>.png", "🫀.png"]


def single(name: str) -> Subject:
    return Subject(name, (name,))


def test_what_was_answered_is_there_after_opening_again(tmp_path: Path) -> None:
    store = LabelStore(tmp_path / "labels.csv")
    for name in ODD:
        store.answer(single(name), Answer("=1+1", 'note, with "quotes"\nand lines'), reader="Ä")
    store.answer(single(ODD[0]), Answer(None), reader="Ä")
    store.answer(single(ODD[1]), None, reader="Ä")
    store.answer(single(ODD[2]), Answer("other"), reader="B")
    again = LabelStore(tmp_path / "labels.csv")
    assert again.of("Ä") == store.of("Ä")
    assert set(again.of("Ä")) == set(ODD) - {ODD[1]}
    assert again.of("Ä")[ODD[0]].label is None
    assert again.readers() == ["Ä", "B"]
    assert ODD[2] not in again.agreed()
    assert again.agreed()[ODD[3]] == "=1+1"
    with (tmp_path / "labels.csv").open(newline="") as file:  # nothing runs in a spreadsheet
        cells = [cell for row in csv.reader(file) for cell in row]
    assert not any(cell.startswith(("=", "+", "-", "@")) for cell in cells)


def test_undo_goes_back_step_by_step(tmp_path: Path) -> None:
    store = LabelStore(tmp_path / "labels.csv")
    store.answer(single("a"), Answer("x"))
    store.answer_all({single("a"): Answer("y"), single("b"): Answer("y")})
    assert [store.undo(), store.of()] == ["b", {"a": Answer("y")}]
    assert [store.undo(), store.of()] == ["a", {"a": Answer("x")}]
    assert [store.undo(), store.of(), store.undo()] == ["a", {}, None]
    assert LabelStore(tmp_path / "labels.csv").of() == {}


def test_a_killed_process_loses_nothing_that_returned(tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    script = (
        "import sys; from pathlib import Path\n"
        "from medept.labelling.store import Answer, LabelStore, Subject\n"
        "store = LabelStore(Path(sys.argv[1]))\n"
        "for i in range(10**6):\n"
        "    store.answer(Subject(f'{i}.png', (f'{i}.png',)), Answer('x' * 50))\n"
        "    print(i, flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(file)], stdout=subprocess.PIPE) as run:
        assert run.stdout is not None
        for line in run.stdout:
            if int(line) == 20:
                os.kill(run.pid, signal.SIGKILL)
                break
        told = 20 + len(run.stdout.read().split())
    kept = LabelStore(file).of()
    assert {f"{i}.png" for i in range(told + 1)} <= kept.keys()
    assert set(kept.values()) == {Answer("x" * 50)}


def test_nothing_changes_where_nothing_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LabelStore(tmp_path / "labels.csv")
    store.answer(single("a"), Answer("x"))
    before = store.file.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        store.answer(single("b"), Answer("x"))
    assert (store.of(), store.file.read_bytes()) == ({"a": Answer("x")}, before)


def test_fit_reads_the_journal(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = LabelStore(tmp_path / "labels.csv")
    for i, label in enumerate("xyxyx"):
        Image.new("L", (8, 8)).save(tmp_path / f"{i}.png")
        store.answer(Subject(f"{i}.png", (f"{i}.png",), group=f"p{i % 2}"), Answer(label))
    store.answer(single("0.png"), Answer(None))
    store.answer(single("1.png"), Answer("x"), reader="B")
    data = read_dataset(tmp_path / "labels.csv")
    assert data.names == ("2.png", "3.png", "4.png")
    assert data.labels.tolist() == ["x", "y", "x"]
    assert data.groups is not None
    assert data.groups.tolist() == ["p0", "p1", "p0"]
    assert "not sure" in caplog.text
    assert "disagree" in caplog.text


def test_a_case_has_a_row_for_each_image(tmp_path: Path) -> None:
    for name in "abc":
        Image.new("L", (8, 8)).save(tmp_path / f"{name}.png")
    store = LabelStore(tmp_path / "labels.csv")
    store.answer(Subject("P1", ("a.png", "b.png"), case="P1"), Answer("x"))
    store.answer(single("c.png"), Answer("y"))
    assert LabelStore(store.file).of() == {"P1": Answer("x"), "c.png": Answer("y")}
    with pytest.raises(InputError, match="'case' is empty"):
        read_dataset(store.file, case_column="case")
    store.answer(single("c.png"), None)
    store.answer(Subject("P2", ("c.png",), case="P2"), Answer("y"))
    assert read_dataset(store.file, case_column="case").names == ("P1", "P2")


def test_another_table_is_no_journal(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("image,label\na.png,x\n")
    with pytest.raises(InputError, match="no journal"):
        LabelStore(tmp_path / "labels.csv")


def test_agreement_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    first = rng.integers(3, size=200)
    second = np.where(rng.random(200) < 0.7, first, rng.integers(3, size=200))
    one, other = ({str(i): Answer("abc"[c]) for i, c in enumerate(x)} for x in (first, second))
    one["200"], other["200"] = Answer("a"), Answer(None)
    found = agreement(one, other)
    assert found.both == 200
    assert found.kappa == pytest.approx(cohen_kappa_score(first, second))
    assert len(found.disagreed) == (first != second).sum()
    assert found.low is not None
    assert found.high is not None
    error = 1.96 * np.std(
        [
            cohen_kappa_score(first[rows], second[rows])
            for rows in rng.integers(200, size=(100, 200))
        ]
    )
    assert found.high - found.low == pytest.approx(2 * error, rel=0.25)
    assert agreement(one, {}).kappa is None
