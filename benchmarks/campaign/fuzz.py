"""Damaged files of every kind: no crash but medept's own error, no hang, no flood of memory.

    python benchmarks/campaign/fuzz.py OUT [--inputs 100000] [--kind KIND] [--first N]

Input N of a kind is the same in every run. They are tried one after the other in a process of their
own, which a second process watches. One that computes for more than 10 seconds, takes more than
2 GB beyond what was there before, or ends the process, is a finding, as is any error that is not
ours. Findings are told apart by their traceback; the first input of each is kept in OUT/findings.
Progress is kept in OUT/state.json after every 200 inputs, and the same command goes on from there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

from kind import Kind, Seed
from kinds import kinds

from medept import InputError

SECONDS, MEGABYTES = 10, 2048
"""Of computing, so that other programs do not count, and of memory."""
STANDS_STILL = 300
"""Seconds in which a process that waits for something tries no input."""
BETWEEN_SAVES = 200


class HangError(BaseException):
    """An input took too long; no ``except Exception`` stops it."""


def one(kind: Kind, seeds: list[Seed], number: int, folder: Path, name: str) -> dict[str, Any]:
    """Try input N: what came of it (``outcome``), and for a finding its ``key`` and ``trace``."""
    random = Random(f"{name} {number}")
    seed = seeds[random.randrange(len(seeds))]
    content = seed.damage(seed.content, random)
    file = folder / seed.name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content)
    before, error = _reset_peak(), None
    start = time.process_time()
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            kind.read(file)
    except BaseException as caught:
        error = caught
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    taken, megabytes = time.process_time() - start, (_peak() - before) / 1024
    found = {"kind": name, "number": number, "file": seed.name, "outcome": "read"}
    if megabytes > MEGABYTES:
        found |= {"outcome": "memory", "key": f"memory {seed.name}", "trace": f"{megabytes:.0f} MB"}
    elif taken > SECONDS:
        found |= {"outcome": "hang", "key": _key(error), "trace": _trace(error)}
    elif isinstance(error, InputError) and not _is_memory(error):
        found["outcome"] = "refused"
    elif error is not None:
        found |= {"outcome": "crash", "key": _key(error), "trace": _trace(error)}
    return found


def _is_memory(error: BaseException | None) -> bool:
    """Whether an error of ours covers that memory ran out."""
    while error is not None:
        if isinstance(error, MemoryError):
            return True
        error = error.__cause__
    return False


def _trace(error: BaseException | None) -> str:
    return "".join(traceback.format_exception(error))[-4000:] if error else ""


def _key(error: BaseException | None) -> str:
    """A finding's identity: the error's type, and where it came from, by file and line."""
    if error is None:
        return "slow"
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if "medept" in f.filename]
    places = [f"{Path(f.filename).name}:{f.lineno}" for f in (ours[-1:] + frames[-1:])]
    return " ".join([type(error).__name__, *places])


def _reset_peak() -> int:
    Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> int:
    """The most kB of memory that were in use since the last reset."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


def work(
    kind: Kind, seeds: list[Seed], name: str, numbers: list[int], out: Path, results: Any
) -> None:
    """The process that tries inputs, and sends what came of each."""

    def hang(*_: object) -> None:
        raise HangError

    signal.signal(signal.SIGPROF, hang)
    logging.getLogger("medept").setLevel(logging.ERROR)
    sys.stdout = sys.stderr = (out / "output.txt").open("a")
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = used + 4 * MEGABYTES * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    folder = out / "inputs" / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    kind.prepare(folder)
    for number in numbers:
        results.send(one(kind, seeds, number, folder, name))
    results.close()


def tried(name: str, numbers: list[int], out: Path) -> Iterator[dict[str, Any]]:
    """What came of each input, from a process that is started again if it ends or stands still."""
    context = multiprocessing.get_context("fork")
    kind = kinds(out / "fits")[name]
    seeds = kind.seeds()
    while numbers:
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=work, args=(kind, seeds, name, numbers, out, sender))
        process.start()
        sender.close()
        done = 0
        try:
            while receiver.poll(STANDS_STILL):
                yield receiver.recv()
                done += 1
            how = "stood still"
            process.kill()
        except EOFError:
            how = "ended"
        process.join()
        numbers = numbers[done:]
        if numbers:
            key = f"{how} {process.exitcode} {_file_of(out, name)}"
            yield {
                "kind": name,
                "number": numbers[0],
                "outcome": "died",
                "key": key,
                "trace": key,
                "file": _file_of(out, name),
            }
            numbers = numbers[1:]


def _file_of(out: Path, name: str) -> str:
    files = [f for f in (out / "inputs" / name).rglob("*") if f.is_file()]
    newest = max(files, key=lambda f: f.stat().st_mtime_ns, default=out)
    return str(newest.relative_to(out / "inputs" / name)) if files else ""


class Campaign:
    """Counts and findings, kept in a folder."""

    def __init__(self, out: Path) -> None:
        self.out, self.file = out, out / "state.json"
        out.mkdir(parents=True, exist_ok=True)
        state = json.loads(self.file.read_text()) if self.file.exists() else {}
        self.done: dict[str, int] = state.get("done", {})
        self.counts = Counter(state.get("counts", {}))
        self.findings: dict[str, dict[str, Any]] = state.get("findings", {})

    def add(self, found: dict[str, Any]) -> None:
        """Count what came of an input, and keep the input if it is a new finding."""
        kind, outcome = found["kind"], found["outcome"]
        self.counts[f"{kind} {outcome}"] += 1
        self.done[kind] = found["number"] + 1
        if outcome in ("read", "refused"):
            return
        if found["key"] in self.findings:
            self.findings[found["key"]]["times"] += 1
            return
        self.findings[found["key"]] = found | {"times": 1}
        self._log(f"FINDING {outcome}: {kind} {found['number']} {found['key']}")
        kept = self.out / "findings" / hashlib.sha256(found["key"].encode()).hexdigest()[:12]
        kept.mkdir(parents=True, exist_ok=True)
        (kept / "trace.txt").write_text(f"{found['key']}\n\n{found['trace']}\n")
        source = self.out / "inputs" / kind / found["file"]
        if source.is_file():
            shutil.copyfile(source, kept / source.name)

    def save(self) -> None:
        """Keep how far it is."""
        state = {"done": self.done, "counts": self.counts, "findings": self.findings}
        partial = self.file.with_suffix(".new")
        partial.write_text(json.dumps(state, indent=1))
        partial.replace(self.file)

    def _log(self, line: str) -> None:
        with (self.out / "log.txt").open("a") as log:
            log.write(f"{time.strftime('%H:%M:%S')} {line}\n")
        print(line, flush=True)

    def run(self, name: str, count: int, first: int | None = None) -> None:
        """Try the inputs of one kind that are left."""
        start = self.done.get(name, 0) if first is None else first
        numbers = list(range(start, count))
        for i, found in enumerate(tried(name, numbers, self.out), 1):
            self.add(found)
            if i % BETWEEN_SAVES == 0 or i == len(numbers):
                self.save()
            if i % 2000 == 0:
                self._log(f"{name}: {start + i:,} of {count:,}")


def main() -> None:
    """Run the campaign."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--kind")
    parser.add_argument("--first", type=int)
    given = parser.parse_args()
    campaign = Campaign(given.out.resolve())
    for name, kind in kinds(given.out.resolve() / "fits").items():
        if given.kind in (None, name):
            campaign.run(name, round(given.inputs * kind.share), given.first)
    for name, count in sorted(campaign.counts.items()):
        print(f"{name:24} {count:8,}")
    print(f"{sum(campaign.counts.values()):,} inputs, {len(campaign.findings)} different findings")
    sys.exit(bool(campaign.findings))


if __name__ == "__main__":
    main()
