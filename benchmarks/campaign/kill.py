"""`kill -9` at random moments of six verbs, each run again: nothing lost, doubled or half-written.

    python benchmarks/campaign/kill.py OUT [--kills 200] [--verb VERB]

The moment is drawn over the whole span of the command. After the second run, the folder has to hold
the same files as after a run that nobody disturbed, byte for byte where no times are written, and
nothing else. Progress is kept in OUT/state.json, and the same command goes on from there.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from random import Random

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

from commands import VERBS, Verb, contents, make_inputs, start, timed, wait

SHARES = {"fit": 0.17, "predict": 0.22, "shrink": 0.26, "tiles": 0.24, "check": 0.06, "bench": 0.05}
"""Of all kills; a benchmark takes longest, as it starts Ray."""


def killed(verb: Verb, seconds: float, inputs: Path, folder: Path) -> int:
    """Run a command, kill its process after so many seconds, and give its exit code."""
    log = folder.with_suffix(".log")
    process = start(verb.words(inputs, folder), folder, log)
    time.sleep(seconds)
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)
    code = wait(process)
    with suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)  # what it began, such as Ray
    return code


def differences(verb: Verb, folder: Path, expected: dict[str, bytes | None]) -> list[str]:
    """What is lost, too much, or another than after an undisturbed run."""
    found = contents(folder, verb.varies)
    names = {f"lost: {name}" for name in expected.keys() - found.keys()}
    names |= {f"too much: {name}" for name in found.keys() - expected.keys()}
    both = expected.keys() & found.keys()
    return sorted(names | {f"differs: {name}" for name in both if found[name] != expected[name]})


class Kills:
    """Kills of one verb."""

    def __init__(self, name: str, inputs: Path, out: Path) -> None:
        self.name, self.verb, self.inputs = name, VERBS[name], inputs
        self.out = out / name
        self.expected: dict[str, bytes | None] = {}
        self.seconds = 0.0

    def measure(self) -> None:
        """Two undisturbed runs: how long they take, and what they leave; they have to agree."""
        for _ in range(2):
            folder = self._fresh("whole")
            words = self.verb.words(self.inputs, folder)
            code, self.seconds = timed(words, folder, folder.with_suffix(".log"))
            assert code in (0, 1), folder.with_suffix(".log").read_text()
            before, self.expected = self.expected, contents(folder, self.verb.varies)
        assert not before or before == self.expected, [
            name for name in self.expected if before.get(name) != self.expected[name]
        ]

    def one(self, number: int) -> dict[str, object]:
        """Kill, run again, and compare; ``wrong`` holds what is not as it should be."""
        moment = Random(f"{self.name} {number}").uniform(0, 1) * self.seconds
        folder = self._fresh("killed")
        first = killed(self.verb, moment, self.inputs, folder)
        left = sorted(contents(folder, ("",)))
        code, _ = timed(self.verb.words(self.inputs, folder), folder, folder.with_suffix(".log"))
        wrong = differences(self.verb, folder, self.expected)
        finished = first != -signal.SIGKILL
        if code not in (0, 1) and not (finished and code == 2):  # 2: it exists already
            wrong.insert(0, f"exit code {code}: {folder.with_suffix('.log').read_text()[-600:]}")
        return {
            "verb": self.name,
            "number": number,
            "moment": round(moment, 3),
            "left": left[:9],
            "finished": finished,
            "wrong": wrong,
        }

    def _fresh(self, name: str) -> Path:
        folder = self.out / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        folder.with_suffix(".log").unlink(missing_ok=True)
        return folder


def main() -> None:
    """Run the campaign."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--verb", choices=list(SHARES))
    given = parser.parse_args()
    out, temporary = given.out.resolve(), Path(tempfile.gettempdir())
    inputs, state = out / "inputs", out / "state.json"
    if not (inputs / "bench").exists():
        shutil.rmtree(inputs, ignore_errors=True)
        inputs.mkdir(parents=True)
        make_inputs(inputs)
    rows = json.loads(state.read_text()) if state.exists() else []
    before = set(temporary.glob("medept-*"))
    for name, share in SHARES.items():
        done, wanted = sum(row["verb"] == name for row in rows), round(given.kills * share)
        if given.verb not in (None, name) or done >= wanted:
            continue
        kills = Kills(name, inputs, out)
        kills.measure()
        for number in range(done, wanted):
            rows.append(kills.one(number))
            state.write_text(json.dumps(rows, indent=1))
            for wrong in rows[-1]["wrong"]:
                print(f"{name} {number} at {rows[-1]['moment']} s: {wrong}", flush=True)
    for name in SHARES:
        mine = [row for row in rows if row["verb"] == name]
        ended, bad = sum(row["finished"] for row in mine), sum(bool(row["wrong"]) for row in mine)
        print(f"{name:8} {len(mine):4} kills, {ended:3} of them after its end, {bad:3} wrong")
    for file in set(temporary.glob("medept-*")) - before:
        print(f"left behind: {file}")
    sys.exit(any(row["wrong"] for row in rows))


if __name__ == "__main__":
    main()
