"""The labels that readers have given: a journal on the disk, and what it says now in memory."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import pandas as pd

from medept.data.exports.journal import COLUMNS, LABELLED, REMOVED, UNSURE, is_form, last_rows
from medept.errors import DataError
from medept.files import append_table, read_csv


@dataclass(frozen=True)
class Subject:
    """What gets one label: an image, or a case of several.

    Attributes:
        name: of the image or the case.
        images: names of its images.
        group: the patient or study; empty where it is not known.
        case: its name again if it is a case; else empty.
    """

    name: str
    images: tuple[str, ...]
    group: str = ""
    case: str = ""


@dataclass(frozen=True)
class Answer:
    """What a reader says of an image or a case: a label, or None for "not sure"."""

    label: str | None
    note: str = ""


class LabelStore:
    """Answers by reader and by the name of an image or a case.

    Every answer is one line (of a case: one for each image) that is appended to the file and
    flushed before the call returns. Later lines replace earlier ones. Safe to use from threads.

    Args:
        file: ``labels.csv``; it is made with the first answer.

    Raises:
        DataError: if the file is there and is no journal of labels.

    >>> store = LabelStore(Path("labels.csv"))
    >>> cell = Subject("cell.png", ("cell.png",))
    >>> store.answer(cell, Answer("benign"), reader="Anna")
    >>> store.answer(cell, Answer("malignant", "large nucleus"), reader="Anna")
    >>> store.undo("Anna"), store.of("Anna")
    ('cell.png', {'cell.png': Answer(label='benign', note='')})
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._lock = threading.RLock()
        self._answers: dict[str, dict[str, Answer]] = {}
        self._past: dict[str, list[tuple[Subject, Answer | None]]] = {}
        if file.exists():
            self._answers = _read(file)

    def answer(self, subject: Subject, answer: Answer | None, *, reader: str = "") -> None:
        """Take down an answer; None takes the one that is there back.

        Raises:
            OSError: if it cannot be written; then nothing has changed.
        """
        self.answer_all({subject: answer}, reader=reader)

    def answer_all(self, answers: Mapping[Subject, Answer | None], *, reader: str = "") -> None:
        """Take down several answers, with one write.

        Raises:
            OSError: if they cannot be written; then nothing has changed.
        """
        with self._lock:
            self._append(answers, reader)
            own = self._answers.setdefault(reader, {})
            past = self._past.setdefault(reader, [])
            for subject, answer in answers.items():
                past.append((subject, own.get(subject.name)))
                _put(own, subject.name, answer)

    def undo(self, reader: str = "") -> str | None:
        """Take back the last answer since the start; its name, or None if there is none."""
        with self._lock:
            if not self._past.get(reader):
                return None
            subject, before = self._past[reader][-1]
            self._append({subject: before}, reader)
            self._past[reader].pop()
            _put(self._answers[reader], subject.name, before)
            return subject.name

    def of(self, reader: str = "") -> dict[str, Answer]:
        """The answers of a reader, by name."""
        with self._lock:
            return dict(self._answers.get(reader, {}))

    def readers(self) -> list[str]:
        """The readers who have answered anything."""
        with self._lock:
            return [reader for reader, answers in self._answers.items() if answers]

    def seen(self) -> set[str]:
        """Names of all that anybody has answered."""
        with self._lock:
            return {name for answers in self._answers.values() for name in answers}

    def agreed(self) -> dict[str, str]:
        """The label of each that has one, without those that readers disagree about."""
        with self._lock:
            found: dict[str, set[str]] = {}
            for answers in self._answers.values():
                for name, answer in answers.items():
                    if answer.label is not None:
                        found.setdefault(name, set()).add(answer.label)
        return {name: labels.pop() for name, labels in found.items() if len(labels) == 1}

    def _append(self, answers: Mapping[Subject, Answer | None], reader: str) -> None:
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        rows = [
            (image, subject.case, subject.group, *_cells(answer), reader, _note(answer), now)
            for subject, answer in answers.items()
            for image in subject.images
        ]
        if rows:
            append_table(self.file, pd.DataFrame(rows, columns=list(COLUMNS), dtype=object))


def _put(answers: dict[str, Answer], name: str, answer: Answer | None) -> None:
    if answer is None:
        answers.pop(name, None)
    else:
        answers[name] = answer


def _cells(answer: Answer | None) -> Sequence[str]:
    """The cells ``label`` and ``status``."""
    if answer is None:
        return "", REMOVED
    return ("", UNSURE) if answer.label is None else (answer.label, LABELLED)


def _note(answer: Answer | None) -> str:
    return answer.note if answer else ""


def _read(file: Path) -> dict[str, dict[str, Answer]]:
    """The last answers that a journal holds, by reader and name."""
    try:
        table = read_csv(file)
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read ({error}); mend it or move it away") from error
    if not is_form(table):
        raise DataError(f"{file}: no journal of labels; move it away, or name another project")
    found: dict[str, dict[str, Answer]] = {}
    for row in last_rows(table):
        if row["status"] in (LABELLED, UNSURE):
            label = row["label"] if row["status"] == LABELLED else None
            own = found.setdefault(row["reader"], {})
            own[row["case"] or row["image"]] = Answer(label, row["note"])
    return found
