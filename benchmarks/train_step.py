"""A training step of whole encoders: the floor, the formula, EPT, VPT, LoRA and full fine-tuning.

    python benchmarks/train_step.py [--quick] [--bf16] [--json]

The architectures are real, the weights random. The *floor* is the frozen model's forward pass and
its backward pass to the input activations: what any method that trains something in the first block
must pay. Inference with a merged adapter is compared with the plain model. Ratios are to the floor,
or to the plain model. With ``--bf16`` the frozen weights are held in bfloat16, and everything runs
under autocast. On a GPU the grid is complete; on a CPU it is the part that two cores finish within
fifteen minutes. A second table shows how the ratios change with the image size.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from unittest.mock import patch

import torch
import torch.nn.functional as F
from attention import by_formula
from side_by_side import arguments, peak_bytes, show, table, time_in_turn
from torch import Tensor

from medept import EmbeddedPromptConfig, attach
from medept.encoders.encoder import Encoder
from medept.encoders.load import load_encoder
from medept.encoders.weights import RANDOM
from medept.ept.prompts import EmbeddedPrompt
from medept.methods import AdaptedEncoder, adapt

METHODS: dict[str, tuple[str, int, dict]] = {
    "EPT formula, L = 100": ("ept", 2, {"length": 100}),
    "EPT, L = 100": ("ept", 2, {"length": 100}),
    "VPT, 10 tokens": ("vpt", 2, {"length": 10}),
    "VPT, 50 tokens": ("vpt", 2, {"length": 50}),
    "LoRA, r = 8 (peft)": ("lora", 2, {"rank": 8}),
    "full": ("full", 2, {}),
}


def formula(prompt: EmbeddedPrompt, q: Tensor, k: Tensor, v: Tensor, **_: object) -> Tensor:
    """Replaces the forward of a prompt, to compute it the published way."""
    return by_formula(q, k, v, prompt.prompt[: q.shape[-2]])


def floor(encoder: Encoder, pixels: Tensor) -> None:
    """Forward pass, and backward pass to the activations that enter the first block."""
    model = encoder.model
    tokens = model._pos_embed(model.patch_embed(pixels)).detach().requires_grad_()  # type: ignore[operator]
    model.norm(model.blocks(tokens))[:, 0].sum().backward()  # type: ignore[operator]


def step(model: AdaptedEncoder, pixels: Tensor) -> None:
    """Forward and backward pass of a method; the gradients are dropped."""
    targets = torch.zeros(len(pixels), dtype=torch.long, device=pixels.device)
    F.cross_entropy(model(pixels), targets).backward()
    model.zero_grad(set_to_none=True)


def twin(encoder: Encoder) -> Encoder:
    """A copy with its own modules, whose weights share the memory of the original's."""
    copied = copy.deepcopy(encoder)
    for ours, original in zip(copied.parameters(), encoder.parameters(), strict=True):
        ours.data = original.data
    return copied


def cases(quick: bool) -> Iterator[tuple[str, int, tuple[int, ...], float]]:
    """Yield encoder, pixels, batches, and least seconds to measure for."""
    base, large = "vit_base_patch16_224", "vit_large_patch16_224"
    if quick:
        yield "vit_tiny_patch16_224", 224, (2,), 0
    elif torch.cuda.is_available():
        for name in (base, large):
            yield from ((name, size, (1, 4, 16), 4) for size in (224, 384, 518))
    else:
        yield base, 224, (1, 4), 75
        yield base, 384, (1,), 75
        yield base, 518, (1,), 75
        yield large, 224, (1,), 75


def measure(
    name: str, size: int, batches: tuple[int, ...], seconds: float, dtype: torch.dtype
) -> Iterator[dict[str, object]]:
    """Yield a row for each batch and way: time and peak memory, with ratios."""
    size = size // 16 * 16  # whole patches
    device = "cuda" if torch.cuda.is_available() else "cpu"
    plain = load_encoder(name, weights=RANDOM, image_size=size).requires_grad_(False)
    plain.to(device, dtype)
    models = {way: adapt(twin(plain), *how).to(device) for way, how in METHODS.items()}
    merged = twin(plain)
    attach(merged.model, EmbeddedPromptConfig(length=100), image_size=size).merge()
    for batch in batches:
        pixels = torch.randn(batch, 3, size, size, device=device, dtype=dtype)
        runs = {"floor": partial(floor, plain, pixels)}
        runs |= {way: partial(step, model, pixels) for way, model in models.items()}
        runs["EPT formula, L = 100"] = _with_formula(runs["EPT formula, L = 100"])
        autocast = torch.autocast(device, dtype, enabled=dtype != torch.float32)
        with autocast:
            yield from _rows(name, size, batch, runs, seconds)
        both = {
            "inference, plain": partial(plain, pixels),
            "inference, merged": partial(merged, pixels),
        }
        with torch.inference_mode(), autocast:
            yield from _rows(name, size, batch, both, seconds)


def _rows(
    name: str, size: int, batch: int, runs: Mapping[str, Callable[[], object]], least: float
) -> list[dict[str, object]]:
    seconds, ratios = time_in_turn(runs, 3, least)
    memory = {way: peak_bytes(run) for way, run in runs.items()}
    first = next(iter(runs))
    return [
        {
            "encoder": name,
            "pixels": size,
            "batch": batch,
            "way": way,
            "ms": seconds[way] * 1e3,
            "time ratio": ratios[way],
            "peak MB": memory[way] / 1e6,
            "memory ratio": memory[way] / memory[first],
        }
        for way in runs
    ]


def by_resolution(rows: list[dict[str, object]]) -> Iterator[dict[str, object]]:
    """The ratios of each method by image size, for the first encoder and batch."""
    first = rows[0]
    alike = [r for r in rows if all(r[key] == first[key] for key in ("encoder", "batch"))]
    for way in METHODS:
        yield {"way": way} | {
            f"{ratio}, {row['pixels']}": row[ratio]
            for ratio in ("time ratio", "memory ratio")
            for row in alike
            if row["way"] == way
        }


def _with_formula(run: Callable[[], None]) -> Callable[[], None]:
    def patched() -> None:
        with patch.object(EmbeddedPrompt, "forward", formula):
            run()

    return patched


if __name__ == "__main__":
    options = arguments(__doc__ or "", bf16="compute in bfloat16")
    dtype = torch.bfloat16 if options.bf16 else torch.float32
    grid = (measure(*case, dtype) for case in cases(options.quick))
    rows = show(itertools.chain.from_iterable(grid), options.json)
    if not options.json:
        print()
        table(by_resolution(rows))
