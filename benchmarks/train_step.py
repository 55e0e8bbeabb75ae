"""A training step of whole encoders: the floor, the formula, EPT, VPT, LoRA and full fine-tuning.

    python benchmarks/train_step.py [--quick] [--json]

Real architectures with random weights. The *floor* is the frozen model's forward and its backward
to the input activations: what any method that trains something in the first block must pay. Also
inference: with a merged adapter against the plain model. Ratios are to the floor (or the plain
model). On a CPU the grid is the part that ends in minutes; on a GPU it is whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from unittest.mock import patch

import torch
import torch.nn.functional as F
from attention import by_formula
from side_by_side import arguments, median_seconds, peak_bytes, show
from torch import Tensor

from medept import EmbeddedPromptConfig, attach
from medept.encoders import RANDOM, Encoder, load_encoder
from medept.methods import AdaptedEncoder, adapt
from medept.prompts import EmbeddedPrompt

METHODS: dict[str, tuple[str, dict]] = {
    "EPT formula, L = 100": ("ept", {"length": 100}),
    "EPT, L = 100": ("ept", {"length": 100}),
    "VPT, 10 tokens": ("vpt", {"length": 10}),
    "VPT, 50 tokens": ("vpt", {"length": 50}),
    "LoRA, r = 8 (peft)": ("lora", {"rank": 8}),
    "full": ("full", {}),
}


def formula(prompt: EmbeddedPrompt, q: Tensor, k: Tensor, v: Tensor, **_: object) -> Tensor:
    """What stands in for a prompt's forward to run the published way."""
    return by_formula(q, k, v, prompt.prompt)


def floor(encoder: Encoder, pixels: Tensor) -> None:
    """Forward, and backward to the activations that enter the first block."""
    model = encoder.model
    tokens = model._pos_embed(model.patch_embed(pixels)).detach().requires_grad_()  # type: ignore[operator]
    model.norm(model.blocks(tokens))[:, 0].sum().backward()  # type: ignore[operator]


def step(model: AdaptedEncoder, pixels: Tensor) -> None:
    """Forward and backward of a method."""
    model.zero_grad(set_to_none=True)
    targets = torch.zeros(len(pixels), dtype=torch.long, device=pixels.device)
    F.cross_entropy(model(pixels), targets).backward()


def cases(quick: bool) -> Iterator[tuple[str, int, int]]:
    """Encoder, pixels, batch."""
    if quick:
        yield "vit_tiny_patch16_224", 224, 2
        return
    if torch.cuda.is_available():
        for name in ("vit_base_patch16_224", "vit_large_patch16_224"):
            yield from ((name, size, batch) for size in (224, 384, 518) for batch in (1, 4, 16))
        return
    yield from (
        ("vit_base_patch16_224", *case) for case in ((224, 1), (224, 4), (384, 1), (518, 1))
    )


def measure(name: str, size: int, batch: int, repeats: int) -> Iterator[dict[str, object]]:
    """One row a way: seconds and peak memory of a training step, with ratios."""
    pixels = _pixels(size, batch)
    runs: dict[str, Callable[[], None]] = {"floor": partial(floor, _encoder(name, pixels), pixels)}
    for way, (method, settings) in METHODS.items():
        model = adapt(_encoder(name, pixels), method, 2, settings).to(pixels.device)
        runs[way] = partial(step, model, pixels)
    runs["EPT formula, L = 100"] = _with_formula(runs["EPT formula, L = 100"])
    yield from _rows(name, size, batch, runs, repeats)


def inference(name: str, size: int, batch: int, repeats: int) -> Iterator[dict[str, object]]:
    """The plain model against the same with a merged adapter."""
    pixels = _pixels(size, batch)
    plain, prompted = _encoder(name, pixels), _encoder(name, pixels)
    attach(prompted.model, EmbeddedPromptConfig(length=100), image_size=pixels.shape[-1]).merge()
    runs = {
        "inference, plain": partial(plain, pixels),
        "inference, merged": partial(prompted, pixels),
    }
    with torch.inference_mode():
        yield from _rows(name, size, batch, runs, repeats)


def _rows(
    name: str, size: int, batch: int, runs: dict[str, Callable[[], object]], repeats: int
) -> list[dict[str, object]]:
    seconds = median_seconds(runs, repeats)
    memory = {way: peak_bytes(run) for way, run in runs.items()}
    first = next(iter(runs))
    return [
        {
            "encoder": name,
            "pixels": size,
            "batch": batch,
            "way": way,
            "ms": seconds[way] * 1e3,
            "time ratio": seconds[way] / seconds[first],
            "peak MB": memory[way] / 1e6,
            "memory ratio": memory[way] / memory[first],
        }
        for way in runs
    ]


def _pixels(size: int, batch: int) -> Tensor:
    side = size // 16 * 16  # whole patches
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.randn(batch, 3, side, side, device=device)


def _encoder(name: str, pixels: Tensor) -> Encoder:
    encoder = load_encoder(name, weights=RANDOM, image_size=pixels.shape[-1])
    return encoder.to(pixels.device).requires_grad_(False)


def _with_formula(run: Callable[[], None]) -> Callable[[], None]:
    def patched() -> None:
        with patch.object(EmbeddedPrompt, "forward", formula):
            run()

    return patched


def main() -> None:
    """Measure the grid."""
    options = arguments(__doc__ or "")
    repeats = 3 if options.quick else 5
    rows = [
        row
        for case in cases(options.quick)
        for kind in (measure, inference)
        for row in kind(*case, repeats)
    ]
    show(rows, options.json)


if __name__ == "__main__":
    main()
