"""Where and in what precision to compute, through accelerate."""

from __future__ import annotations

import os
import sys
import time
from functools import cache
from threading import Lock
from typing import TYPE_CHECKING

import psutil
import torch

from medept.errors import ResourceError

if TYPE_CHECKING:
    from accelerate import Accelerator

MIXED = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}
"""What a precision is called in accelerate."""

PRECISIONS = ("auto", *MIXED)

_ONE_AT_A_TIME = Lock()
"""Threads make accelerators in turn: what is set for one is in place of accelerate's, of all."""


def make_accelerator(device: str = "auto", precision: str = "auto") -> Accelerator:
    """An accelerator on ``device``: ``auto``, ``cpu``, ``cuda`` (the first of several) or ``mps``.

    ``precision`` ``auto`` is bfloat16 on a CPU or CUDA GPU that is found to be faster in it, and
    float32 elsewhere. The encoder runs in this precision under autocast; prompts, head and whatever
    else is trained stay in float32.

    Raises:
        InputError: if the device is not there or does not offer the precision.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, PartialState

    if precision not in PRECISIONS:
        raise ResourceError(f"precision {precision!r}: use one of {', '.join(PRECISIONS)}")
    present = {
        "auto": True,
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if not present.get(device, False):
        available = ", ".join(name for name, there in present.items() if there)
        which = " (the variable CUDA_VISIBLE_DEVICES chooses a GPU)" if ":" in device else ""
        raise ResourceError(
            f"device {device!r} is not available here: use one of {available}{which}"
        )
    best = next(kind for kind in ("cuda", "mps", "cpu") if present[kind])
    kind = best if device == "auto" else device
    if precision == "float16" and kind != "cuda":
        raise ResourceError("precision 'float16' needs a CUDA device: use float32 or bfloat16")
    with _ONE_AT_A_TIME:
        # accelerate keeps the first settings for the life of the process unless told to forget them
        AcceleratorState._reset_state()
        if PartialState._shared_state:
            state = PartialState()
            if state.device.type != kind and state.num_processes == 1:
                PartialState._reset_state()
        if precision == "auto":
            several = PartialState(cpu=kind == "cpu").num_processes > 1
            found = _first_finds_bfloat16_fast if several else fast_bfloat16
            precision = "bfloat16" if kind != "mps" and found(kind) else "float32"
        accelerator = Accelerator(mixed_precision=MIXED[precision], cpu=kind == "cpu")
        accelerator.state.__dict__ = dict(vars(accelerator.state))  # which all would share
    return accelerator


def precision_of(accelerator: Accelerator) -> str:
    """What an accelerator computes in: one of :data:`PRECISIONS`, and not ``auto``."""
    return next(name for name, mixed in MIXED.items() if mixed == accelerator.mixed_precision)


def memory_in_use(device: torch.device) -> int:
    """Bytes that this process holds: in main memory, or on a GPU, of which a new peak begins."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    return psutil.Process().memory_info().rss


def peak_memory() -> int:
    """The most memory that this process has held, in bytes; 0 where it cannot be asked."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


@cache
def _first_finds_bfloat16_fast(kind: str) -> bool:
    """What :func:`fast_bfloat16` is for the first process, in all: what they measure may differ.

    All have to ask once; afterwards each may by itself.
    """
    from accelerate.utils import broadcast_object_list

    (fast,) = broadcast_object_list([fast_bfloat16(kind)])
    return fast


@cache
def fast_bfloat16(kind: str) -> bool:
    """Whether ``cpu`` or ``cuda`` multiplies matrices in bfloat16 half as fast again as in float32.

    It is measured: one layer's product of a ViT-B, some twenty times, on a GPU of a whole batch; a
    few hundredths of a second, once. GPUs that have no bfloat16 emulate it, which is slow.
    """
    seconds, rows, device = {}, 256, kind
    if kind == "cuda":  # that of this process, of those that `accelerate launch` began
        rows = 8192
        device = f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"
    for dtype in (torch.float32, torch.bfloat16):
        tokens = torch.ones(rows, 768, dtype=dtype, device=device)
        weight = torch.ones(768, 768, dtype=dtype, device=device)
        times = []
        for _ in range(10):
            began = time.perf_counter()
            torch.nn.functional.linear(tokens, weight)
            if kind == "cuda":
                torch.cuda.synchronize(device)
            times.append(time.perf_counter() - began)
        seconds[dtype] = min(times)
    return seconds[torch.float32] > 1.5 * seconds[torch.bfloat16]
