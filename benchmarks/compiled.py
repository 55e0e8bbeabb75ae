"""A training step with the encoder's blocks compiled by torch.compile, and as they are.

    python benchmarks/compiled.py [--quick] [--float32] [--json]

EPT-deep in batches of 4 at 224 pixels, going on from what is computed once, in the precision that
medept takes here. ``warm-up (s)`` is the first compiled step, with an empty cache; ``pays from
(min)`` is the length of training from which what is saved is more than that, infinite where nothing
is saved: ``medept.training.compiled`` decides by the like.
"""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

import torch
import torch.nn.functional as F
from side_by_side import arguments, peak_bytes, show, time_in_turn

from medept.encoders import Encoder
from medept.loading import RANDOM, load_encoder
from medept.methods import adapt
from medept.training.compiled import compiled
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
        self.stack.enter_context(compiled(self.model.encoder, self.accelerator, math.inf))
        self()
        return time.perf_counter() - began

    def __call__(self) -> None:
        with self.accelerator.autocast():
            logits = self.model(self.feed(self.state))
        F.cross_entropy(logits.float(), self.targets).backward()
        self.model.zero_grad(set_to_none=True)


def measure(names: list[str], precision: str, seconds: float) -> Iterator[dict[str, object]]:
    """One row an encoder."""
    for name in names:
        torch._dynamo.reset()
        encoder = load_encoder(name, weights=RANDOM)
        if precision == "bfloat16":
            encoder.hold_in_bfloat16()
        plain, fast = (Step(encoder.twin(), precision) for _ in range(2))
        with tempfile.TemporaryDirectory() as cache:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
            warm_up = fast.compile()
        ways = {"plain": plain, "compiled": fast}
        times, ratios = time_in_turn(ways, 3, seconds)
        memory = {way: peak_bytes(partial(step)) for way, step in ways.items()}
        saved = 1 - ratios["compiled"]
        yield {
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
    show(measure(names, precision, seconds), options.json)
