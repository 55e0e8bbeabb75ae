"""A full disk, a lost folder, and no network: each verb says what is wrong, and leaves nothing.

    python benchmarks/campaign/disk.py OUT [--verb VERB]

Every verb writes to a small disk of its own (a tmpfs, for which this needs root) that has room for
part of what it writes; then to a folder that is removed while it works. It has to end with a
message and an exit code that is not 0, or with everything written; nothing half-written may stay.
Last, it runs in a network namespace without an interface; a benchmark gets a loopback, over which
Ray's processes talk.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

from commands import VERBS, Verb, contents, make_inputs, start, timed, wait

PARTS = (0, 0.3, 0.8)
"""How much of what a verb writes the disk has room for."""

MOMENTS = (0.2, 0.5, 0.9)
"""When the folder is removed, as a part of the time that the verb takes."""


@contextmanager
def small_disk(place: Path, room: int) -> Iterator[None]:
    """A tmpfs with room for so many bytes, in pages of 4 kB."""
    place.mkdir(parents=True, exist_ok=True)
    pages = max(1, room // 4096)
    options = f"size={4096 * pages},nr_inodes=10000"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def problems(verb: Verb, folder: Path, code: int, log: str, expected: set[str]) -> list[str]:
    """What is wrong with how a command ended, and with what it left."""
    found = []
    if "Traceback" in log:
        found.append(f"a traceback: {log[-500:]}")
    left = set(contents(folder, ("",)))
    if code == 0 and left != expected:
        found.append(f"says that all is well, but left {sorted(left ^ expected)[:5]}")
    if code != 0 and "error" not in log:
        found.append(f"exit code {code} without a message: {log[-300:]}")
    resumed = verb.arguments.split()[0] in ("shrink", "tiles", "bench")  # keeps what is whole
    known = {name for name in left if ".checkpoint" in name}
    half = {name for name in left if ".partial-" in name} if resumed else left - known
    if code != 0 and half:
        found.append(f"left behind: {sorted(half)[:5]}")
    return found


class Trials:
    """All trials of one verb."""

    def __init__(self, name: str, inputs: Path, out: Path) -> None:
        self.name, self.verb, self.inputs, self.out = name, VERBS[name], inputs, out
        folder = self._fresh("whole")
        words = self.verb.words(inputs, folder)
        _, self.seconds = timed(words, folder, out / "log.txt")
        self.expected = set(contents(folder, ("",)))
        self.bytes = sum(len(content or b"") for content in contents(folder).values())

    def full_disk(self, part: float) -> list[str]:
        """With room for a part of the output."""
        folder, log = self._fresh("full"), self.out / "log.txt"
        with small_disk(folder, int(part * self.bytes)):
            code, _ = timed(self.verb.words(self.inputs, folder), folder, log)
            return problems(self.verb, folder, code, log.read_text(), self.expected)

    def lost_folder(self, moment: float) -> list[str]:
        """With its folder removed after a part of the time."""
        folder, log = self._fresh("lost"), self.out / "log.txt"
        process = start(self.verb.words(self.inputs, folder), self.out, log)
        time.sleep(moment * self.seconds)
        if os.waitpid(process, os.WNOHANG)[0]:
            return []  # it had ended, and then lost what it wrote
        gone = folder.rename(folder.with_name("gone"))  # at once, and not file by file
        code = wait(process)
        shutil.rmtree(gone, ignore_errors=True)
        folder.mkdir(exist_ok=True)
        return problems(self.verb, folder, code, log.read_text(), self.expected)

    def no_network(self) -> list[str]:
        """In a network namespace of its own."""
        folder, log = self._fresh("alone"), self.out / "log.txt"
        up = "ip link set lo up && " if self.name == "bench" else ""
        words = " ".join(self.verb.words(self.inputs, folder))
        command = f"{up}exec {sys.executable} -m medept {words}"
        with log.open("w") as file:
            code = subprocess.run(
                ["unshare", "-n", "sh", "-c", command], stdout=file, stderr=file, cwd=folder
            ).returncode
        found = problems(self.verb, folder, code, log.read_text(), self.expected)
        allowed = (0, 1) if self.name == "check" else (0,)
        return found if code in allowed else [f"exit code {code}: {log.read_text()[-500:]}"]

    def _fresh(self, name: str) -> Path:
        folder = self.out / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (self.out / "log.txt").write_text("")
        return folder


def main() -> None:
    """Run the campaign."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--verb", choices=list(VERBS))
    given = parser.parse_args()
    out = given.out.resolve()
    inputs, wrong = out / "inputs", 0
    if not (inputs / "bench").exists():
        shutil.rmtree(inputs, ignore_errors=True)
        inputs.mkdir(parents=True)
        make_inputs(inputs)
    for name in VERBS if given.verb is None else [given.verb]:
        trials = Trials(name, inputs, out / name)
        found = {f"full at {part:.0%}": trials.full_disk(part) for part in PARTS}
        found |= {f"lost at {moment:.0%}": trials.lost_folder(moment) for moment in MOMENTS}
        found["no network"] = trials.no_network()
        for trial, problem in found.items():
            for line in problem:
                print(f"{name}, {trial}: {line}", flush=True)
            wrong += bool(problem)
        print(f"{name:9} {len(found)} trials, {trials.seconds:.1f} s each", flush=True)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
