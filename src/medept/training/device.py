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

from medept.errors import ResourceError, SettingsError

if TYPE_CHECKING:
    from accelerate import Accelerator

ACCELERATE_NAMES = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}
"""What accelerate calls each precision."""

PRECISIONS = ("auto", *ACCELERATE_NAMES)

_CREATION_LOCK = Lock()
"""Serialises accelerator creation, because accelerate's settings are process-global."""


def make_accelerator(device: str = "auto", precision: str = "auto") -> Accelerator:
    """An accelerator: where to compute, and in what precision.

    The encoder runs in this precision under autocast; prompts, head and whatever else is trained
    stay in float32.

    Args:
        device: ``cpu``, ``cuda`` (the first of several GPUs), ``mps``, or ``auto``: a GPU if there
            is one.
        precision: ``float32``, ``bfloat16``, ``float16`` (on CUDA), or ``auto``: bfloat16 on a CPU
            or CUDA GPU that is measured to be faster in it (:func:`fast_bfloat16`), else float32.

    Raises:
        SettingsError: if the precision is unknown.
        ResourceError: if the device is not there, or does not offer the precision.

    >>> accelerator = make_accelerator("cpu", "bfloat16")
    >>> accelerator.device.type, precision_of(accelerator)
    ('cpu', 'bfloat16')
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, PartialState

    if precision not in PRECISIONS:
        raise SettingsError(f"precision={precision!r}: use one of {', '.join(PRECISIONS)}")
    kind = _find_device(device)
    if precision == "float16" and kind != "cuda":
        raise ResourceError("precision='float16' needs a CUDA device: use float32 or bfloat16")
    with _CREATION_LOCK:
        # accelerate keeps its first settings for the life of the process unless they are reset
        AcceleratorState._reset_state()
        if PartialState._shared_state:
            state = PartialState()
            if state.device.type != kind and state.num_processes == 1:
                PartialState._reset_state()
        if precision == "auto":
            several = PartialState(cpu=kind == "cpu").num_processes > 1
            is_fast = _fast_bfloat16_of_first_process if several else fast_bfloat16
            precision = "bfloat16" if kind != "mps" and is_fast(kind) else "float32"
        accelerator = Accelerator(mixed_precision=ACCELERATE_NAMES[precision], cpu=kind == "cpu")
        # its own copy of the settings, which accelerate lets all accelerators share
        accelerator.state.__dict__ = dict(vars(accelerator.state))
    return accelerator


def _find_device(device: str) -> str:
    """``cpu``, ``cuda`` or ``mps``.

    Raises:
        ResourceError: if the device is not there.
    """
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
            f"device={device!r} is not available here: use one of {available}{which}"
        )
    best = next(kind for kind in ("cuda", "mps", "cpu") if present[kind])
    return best if device == "auto" else device


def precision_of(accelerator: Accelerator) -> str:
    """The precision an accelerator computes in: ``float32``, ``bfloat16`` or ``float16``."""
    names = {theirs: ours for ours, theirs in ACCELERATE_NAMES.items()}
    return names[accelerator.mixed_precision]


def memory_in_use(device: torch.device) -> int:
    """Bytes of memory in use: on the CPU by this process, on a GPU by its tensors.

    On a GPU, the peak is measured anew from here on.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    return psutil.Process().memory_info().rss


def peak_memory() -> int:
    """The most main memory that this process has used so far, in bytes; 0 on Windows."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


@cache
def _fast_bfloat16_of_first_process(kind: str) -> bool:
    """:func:`fast_bfloat16` as the first process measures it, for all of them: they may differ.

    Every process has to call it once; the result is then known.
    """
    from accelerate.utils import broadcast_object_list

    (fast,) = broadcast_object_list([fast_bfloat16(kind)])
    return fast


@cache
def fast_bfloat16(kind: str) -> bool:
    """Whether ``cpu`` or ``cuda`` multiplies matrices in bfloat16 at 1.5 times float32's speed.

    Measured once, in a few hundredths of a second: one layer's product of a ViT-B, ten times in
    each type, on a GPU for a whole batch. GPUs without bfloat16 emulate it, which is slow.
    """
    seconds, rows, device = {}, 256, kind
    if kind == "cuda":  # this process's GPU, if `accelerate launch` began several
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
