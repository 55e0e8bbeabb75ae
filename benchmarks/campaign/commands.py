"""The verbs that write something, on inputs so small that each takes seconds.

They run in children of one process that has imported medept, so that a moment drawn over the whole
span of a command falls into its work and not into its imports.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medept import cli
from medept.phantoms import make_phantoms, write_phantoms

SUITE = """\
title: Small
data: {colon: DATA}
methods: {linear: null, prototype: null, knn: null}
shots: [1, 2]
episodes: 2
"""


@dataclass(frozen=True)
class Verb:
    """A command, and where it writes.

    Attributes:
        arguments: with IN for the folder of inputs and OUT for what is written.
        out: a name in the folder in which it runs.
        varies: endings of the names of files that differ from run to run, as they hold times.
    """

    arguments: str
    out: str = "out"
    varies: tuple[str, ...] = ()

    def words(self, inputs: Path, folder: Path) -> list[str]:
        """The arguments as the command line takes them."""
        text = self.arguments.replace("IN", str(inputs)).replace("OUT", str(folder / self.out))
        return text.split()


_CPU = "--device cpu"

VERBS = {
    "fit": Verb(
        f"fit IN/colon/labels.csv --out OUT --shots 2 --method ept --epochs 4 {_CPU} "
        "--symmetry none --precision float32",
        varies=("history.csv", "report.html", "README.md"),
    ),
    "predict": Verb(f"predict IN/fit IN/colon --out OUT --tta 2 {_CPU}", out="p.csv"),
    "shrink": Verb("shrink IN/colon/labels.csv --out OUT --pixels 24"),
    "tiles": Verb("tiles IN/s1.tif IN/s2.tif --out OUT --size 32"),
    "check": Verb(f"check IN/colon/labels.csv --out OUT {_CPU}", varies=("check.html",)),
    "bench": Verb(
        "bench IN/suite.yaml --out OUT --workers 1",
        varies=(".json", "results.parquet"),
    ),
    "embed": Verb(f"embed IN/colon --out OUT {_CPU}", out="f.csv"),
    "evaluate": Verb(
        f"evaluate IN/fit IN/colon/labels.csv --out OUT {_CPU}", varies=("report.html",)
    ),
    "episodes": Verb("episodes IN/colon/labels.csv --out OUT --shots 1 --episodes 2"),
    "phantoms": Verb("phantoms colon --out OUT --patients 6 --images-per-patient 1 --size 48"),
}


def make_inputs(folder: Path) -> None:
    """Write the inputs of all verbs."""
    import tifffile

    data = make_phantoms("colon", patients=10, images_per_patient=2, size=48, difficulty=0.2)
    write_phantoms(data, folder / "colon")
    pixels = np.full((512, 512, 3), 240, dtype=np.uint8)
    pixels[128:, :256] = (180, 60, 140)
    said = {"tile": (128, 128), "photometric": "rgb", "resolution": (40000, 40000)}
    for name in ("s1.tif", "s2.tif"):
        tifffile.imwrite(folder / name, pixels, resolutionunit="CENTIMETER", **said)
    suite = SUITE.replace("DATA", str(folder / "colon" / "labels.csv"))
    (folder / "suite.yaml").write_text(suite)
    fit = f"fit IN/colon/labels.csv --out OUT --shots 2 {_CPU} --precision float32"
    for verb in (Verb(fit, out="fit"), Verb(VERBS["bench"].arguments, out="bench")):
        code = wait(start(verb.words(folder, folder), folder, folder / "log.txt"))
        assert code == 0, (folder / "log.txt").read_text()


def start(
    words: list[str], folder: Path, log: Path, environment: dict[str, str] | None = None
) -> int:
    """Begin ``medept WORDS`` in ``folder`` as a session of its own; the id of its process."""
    sys.stdout.flush()
    process = os.fork()
    if process:
        return process
    code = 70
    try:
        os.setsid()
        os.chdir(folder)
        os.environ.update(environment or {})
        with log.open("a") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        sys.argv = ["medept", *words]
        cli.main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(bool(end.code))
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def wait(process: int) -> int:
    """The exit code of a process; that of a signal is negative."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def timed(words: list[str], folder: Path, log: Path) -> tuple[int, float]:
    """The exit code of a command, and how many seconds it took."""
    began = time.monotonic()
    return wait(start(words, folder, log)), time.monotonic() - began


def contents(folder: Path, varies: tuple[str, ...] = ()) -> dict[str, bytes | None]:
    """All files below a folder by name, hidden ones too; None in place of bytes that vary."""
    return {
        str(file.relative_to(folder)): None if file.name.endswith(varies) else file.read_bytes()
        for file in _files(folder)
    }


def _files(folder: Path) -> Iterator[Path]:
    return (file for file in sorted(folder.rglob("*")) if file.is_file())
