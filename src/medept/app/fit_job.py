"""The full fit, in a process of its own, which can be watched and stopped."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from queue import Empty
from typing import Any

from medept.app.project import Project
from medept.errors import InputError
from medept.labelling.pool import Pool


class FitJob:
    """One fit of what is labelled, written to the project's folder as ``medept fit`` does.

    Attributes:
        what: the step it is at, in words.
        part: of that step that is done, 0 to 1.
        problem: why it failed, in words; empty if it did not.
    """

    def __init__(self, project: Project) -> None:
        context = multiprocessing.get_context("spawn")
        self._queue: Any = context.Queue()
        self.out = project.next_folder("fit")
        self.what, self.part, self.problem = "starting", 0.0, ""
        settings = project.settings
        options = {"encoder": settings.encoder, "symmetry": settings.symmetry}
        self._process = context.Process(
            target=_fit,
            args=(
                project.pool, project.store.agreed(), settings.classes, self.out, options,
                self._queue,
            ),
            daemon=True,
        )  # fmt: skip
        self._process.start()

    def poll(self) -> bool:
        """Read what it says; False once it has ended."""
        running = self._process.is_alive()
        while True:
            try:
                kind, *rest = self._queue.get_nowait()
            except (Empty, OSError, EOFError):
                break
            if kind == "problem":
                self.problem = rest[0]
            else:
                self.what, self.part = rest[0], rest[1] / max(rest[2], 1)
        if not running and not self.problem and not (self.out / "adapter.json").exists():
            code = self._process.exitcode
            self.problem = f"the fit ended before it was done (exit code {code})"
        return running

    def stop(self) -> None:
        """End it; what it has written so far is removed with the next fit."""
        self._process.terminate()
        self._process.join(5)
        self.problem = "stopped"


def _fit(
    pool: Pool,
    labels: Mapping[str, str],
    classes: list[str],
    out: Path,
    options: Mapping[str, Any],
    queue: Any,
) -> None:
    """Fit to all labels, in the new process."""
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def report(what: str, done: int, total: int) -> None:
        queue.put(("progress", what, done, total))

    from medept.classifier.classifier import FewShotClassifier
    from medept.workflows.fit import fit

    try:
        data = pool.labelled(labels, classes)
        fit(data, out, FewShotClassifier(**options, progress=report), shots=None)
    except (InputError, OSError, MemoryError, RuntimeError) as error:
        queue.put(("problem", str(error)))


def _end_with_parent() -> None:
    """A server that is killed takes its fit along."""
    import time

    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
