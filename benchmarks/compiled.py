"""A training step with the encoder's blocks compiled by torch.compile, and as they are.

    python benchmarks/compiled.py [--quick] [--float32] [--json]

EPT-deep in batches of 4 at 224 pixels, going on from what is computed once, in the precision that
medept takes here. ``warm-up (s)`` is the first compiled step of a new process, with an empty cache;
``pays from (min)`` is the length of training from which what is saved is more than that, infinite
where nothing is saved: ``medept.training.compiled`` decides by the like.
"""

from __future__ import annotations

import math
import os
import tempfile
import time
from contextlib import ExitStack
from functools import partial
from multiprocessing import get_context

import torch
import torch.nn.functional as F
from side_by_side import arguments, peak_bytes, show, time_in_turn
from torch._dynamo.utils import counters

from medept.encoders.encoder import Encoder
from medept.encoders.load import load_encoder
from medept.encoders.weights import RANDOM
from medept.methods import adapt
from medept.training.compiled import CACHE, compiled
from medept.training.device import make_accelerator, precision_of
from medept.training.prefix import find_prefix

BATCH = 4


class Step:
    """A step of EPT-deep on an encoder of its own, of the same weights."""

    def __init__(self, encoder: Encoder, precision: str) -> None:
        self.accelerator = make_accelerator(precision=precision)
        self.model = adapt(encoder, "ept", 2, {"length": 100}).to(self.accelerator.device)
        pixels = torch.randn(BATCH, 3, 224, 224, device=self.accelerator.device)
        self.targets = torch.arange(BATCH, device=pixels.device) % 2
        self.stack = ExitStack()
        with torch.no_grad(), self.accelerator.autocast():
            prefix = find_prefix(self.model)
            assert prefix is not None
            self.state = prefix.encode(pixels)
        self.feed = self.stack.enter_context(prefix.resumed())

    def compile(self) -> float:
        """Seconds of its first step, from which on it is compiled."""
        began = time.perf_counter()
        self.stack.enter_context(compiled(self.model.encoder))
        self()
        seconds = time.perf_counter() - began
        if counters["stats"]["unique_graphs"] < 2:  # one is a small trial
            raise SystemExit("torch.compile does not work here")
        return seconds

    def __call__(self) -> None:
        with self.accelerator.autocast():
            logits = self.model(self.feed(self.state))
        F.cross_entropy(logits.float(), self.targets).backward()
        self.model.zero_grad(set_to_none=True)


def measure(name: str, precision: str, seconds: float) -> dict[str, object]:
    """The row of an encoder."""
    encoder = load_encoder(name, weights=RANDOM)
    if precision == "bfloat16":
        encoder.hold_in_bfloat16()
    plain, fast = (Step(encoder.twin(), precision) for _ in range(2))
    with tempfile.TemporaryDirectory() as cache:
        os.environ[CACHE] = cache
        warm_up = fast.compile()
    ways = {"plain": plain, "compiled": fast}
    times, ratios = time_in_turn(ways, 3, seconds)
    memory = {way: peak_bytes(step) for way, step in ways.items()}
    saved = 1 - ratios["compiled"]
    return {
        "encoder": name,
        "precision": precision,
        "as it is (ms)": times["plain"] * 1e3,
        "compiled (ms)": times["compiled"] * 1e3,
        "time ratio": ratios["compiled"],
        "memory ratio": memory["compiled"] / memory["plain"],
        "warm-up (s)": warm_up,
        "pays from (min)": warm_up / saved / 60 if saved > 0 else math.inf,
    }


if __name__ == "__main__":
    options = arguments(__doc__ or "", float32="in float32, though bfloat16 is fast")
    asked = "float32" if options.float32 else "auto"
    precision = precision_of(make_accelerator(precision=asked))
    names = [f"vit_{size}_patch16_224" for size in ("tiny", "small", "base")]
    names, seconds = (names[:1], 0.0) if options.quick else (names, 90.0)
    with get_context("spawn").Pool(1, maxtasksperchild=1) as processes:
        rows = processes.imap(partial(measure, precision=precision, seconds=seconds), names)
        show(rows, options.json)
