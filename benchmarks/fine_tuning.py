"""Fine-tuning a ViT-B/16 at 224 pixels, side by side: the straightforward ways, and medept's.

    python benchmarks/fine_tuning.py [--quick] [--float32] [--json]

Batches are of 4 (the paper's), weights random, images PNG files. The whole job has 234 images, 20
epochs and 4,355 images to evaluate on, which takes hours on a laptop. So a few epochs of two steps
are timed, each way in turn, and the job is extrapolated from them: ``decode`` + ``encode`` (what is
computed once) + ``train`` + ``evaluate``. The straightforward loops encode everything in every
step, in float32, as the published code does; LoRA runs through peft and transformers' own Trainer,
in float32 too. medept keeps as many views of each image as its recipe says, and computes in the
precision that it finds to be fast; ``--float32`` forces float32.

``peak MB`` is the memory of computing. The kept views of all images of the job, which are in a file
if they exceed 2 GiB, are counted beside it.

The JSON has ``ratios``: how many times faster than the straightforward float32 one a training step
is, or for ``linear`` an epoch after the first; ``precision``: what medept computed in; and
``bf16_fast``: whether bfloat16 was found to be fast.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from side_by_side import arguments, machine, others_to_stderr, peak_bytes, show, synchronise
from torch.utils.flop_counter import (
    FlopCounterMode,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)
from train_step import formula

from medept.encoders.load import load_encoder
from medept.encoders.weights import RANDOM
from medept.ept.prompts import EmbeddedPrompt
from medept.methods import AdaptedEncoder, adapt
from medept.training.cache import TensorCache
from medept.training.device import fast_bfloat16, make_accelerator, precision_of
from medept.training.inference import predict_logits
from medept.training.loop import train
from medept.training.prefix import find_prefix
from medept.training.recipes import MEDEPT, PAPER, Recipe
from medept.training.views import Views

BATCH, EPOCHS = 4, 3
SUPPORT, JOB_EPOCHS, TEST = 234, 20, 4355
"""Colon at 10 shots: images to learn from, the paper's epochs, images to evaluate on."""

RECIPE = PAPER.model_copy(update={"epochs": EPOCHS, "batch_size": BATCH, "views": 1})
"""One view is timed; the job counts ``MEDEPT.views`` of them."""


class TimedCache(TensorCache):
    """Counts the seconds spent on computing what is kept."""

    seconds = 0.0

    def get(self, *args: Any) -> list[torch.Tensor]:
        """The same, timed."""
        began = time.perf_counter()
        try:
            return super().get(*args)
        finally:
            self.seconds += time.perf_counter() - began


@dataclass
class Job:
    """One way to do the job, with its times in seconds over rounds."""

    run: Callable[[], dict[str, float]]
    rounds: list[dict[str, float]]

    def median(self, what: str) -> float:
        return statistics.median(one[what] for one in self.rounds)


class Bench:
    """The ways for one encoder, on the same images."""

    def __init__(self, name: str, steps: int, folder: Path, precision: str) -> None:
        self.name, self.steps, self.precision = name, steps, precision
        self.pixels = 112 if "tiny" in name else 224
        random = np.random.default_rng(0)
        self.images = []
        for i in range(BATCH * steps):
            file = folder / f"{i}.png"
            noise = random.integers(0, 255, (256, 256, 3), dtype=np.uint8)
            Image.fromarray(noise).save(file)
            self.images.append(file)
        self.targets = np.arange(len(self.images)) % 2

    def model(self, method: str, settings: dict[str, Any], held: bool = False) -> AdaptedEncoder:
        encoder = load_encoder(self.name, weights=RANDOM, image_size=self.pixels)
        if held and precision_of(make_accelerator(precision=self.precision)) == "bfloat16":
            encoder.cast_to_bfloat16()
        return adapt(encoder, method, 2, settings)

    def ways(self) -> dict[str, Callable[[], dict[str, float]]]:
        """Functions that run a way once and return its times in seconds, by name."""
        deep = {"length": 100}
        some = deep | {"layers": self.upper_third()}
        vpt = self.model("vpt", {"length": 50})
        return {
            "EPT, formula": partial(self.straight, self.model("ept", deep), by_formula=True),
            "VPT, 50 tokens": partial(self.straight, vpt),
            "LoRA, peft and Trainer": LoraTrainer(self).run,
            "linear": partial(self.straight, self.model("linear", {})),
            "medept, EPT": partial(self.fit, self.model("ept", deep, held=True)),
            "medept, EPT in the upper third": partial(self.fit, self.model("ept", some, held=True)),
            "medept, linear": partial(self.fit, self.model("linear", {}, held=True)),
        }

    def upper_third(self) -> str:
        depth = len(load_encoder(self.name, weights=RANDOM, image_size=self.pixels).blocks)
        return f"{depth - depth // 3 + 1}-{depth}"

    def fit(
        self, model: AdaptedEncoder, *, recipe: Recipe = RECIPE, precision: str | None = None
    ) -> dict[str, float]:
        """medept's own loop."""
        accelerator = make_accelerator(precision=precision or self.precision)
        views = Views(self.images, model.encoder.preprocessing, crop_scale=recipe.crop_scale)
        began, cpu = time.perf_counter(), time.process_time()
        with TimedCache() as kept:
            history = train(model, views, self.targets, recipe, accelerator, cache=kept)
            stored, encoding = kept.bytes, kept.seconds
        synchronise()
        whole, cpu = time.perf_counter() - began, time.process_time() - cpu
        epochs = [row["seconds"] for row in history]
        began = time.perf_counter()
        predict_logits(model, self.images, accelerator)
        evaluating = time.perf_counter() - began
        return {
            "step": statistics.median(epochs[1:]) / self.steps,
            "set up": whole - encoding - sum(epochs),
            "once": encoding / len(self.images),
            "cpu": cpu / whole,
            "stored": stored / len(self.images),
            "evaluate": evaluating / len(self.images),
        }

    def straight(self, model: AdaptedEncoder, *, by_formula: bool = False) -> dict[str, float]:
        """The plain loop: each view new, each block run whole in each step, in float32."""
        recipe = RECIPE.model_copy(update={"views": EPOCHS})
        with ExitStack() as stack:
            stack.enter_context(
                patch("medept.encoders.encoder.class_token_only", lambda *_: nullcontext())
            )
            if by_formula:
                stack.enter_context(patch.object(EmbeddedPrompt, "forward", formula))
            found = self.fit(model, recipe=recipe, precision="float32")
        if not model.trains_encoder:  # its steps were computed before they were taken
            found["step"] += found["once"] * len(self.images) / EPOCHS / self.steps
            found["once"] = found["stored"] = 0.0
        return found | {"set up": 0.0}

    def decode(self) -> float:
        """Seconds to read one image and make a view of it."""
        model = self.model("linear", {})
        views = Views(self.images, model.encoder.preprocessing, crop_scale=RECIPE.crop_scale)
        began = time.perf_counter()
        for i in range(len(views)):
            views.random_view(i, 0)
        return (time.perf_counter() - began) / len(views)


class LoraTrainer:
    """LoRA on query and value of transformers' ViT, by peft, with the Trainer."""

    def __init__(self, bench: Bench) -> None:
        from peft import LoraConfig, get_peft_model
        from transformers import ViTConfig, ViTForImageClassification

        self.bench = bench
        tiny = {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768}
        shape = tiny if "tiny" in bench.name else {}
        config = ViTConfig(image_size=bench.pixels, num_labels=2, **shape)
        chosen = LoraConfig(
            r=8, target_modules=r".*\.(query|value|q_proj|v_proj)", modules_to_save=["classifier"]
        )
        self.model = get_peft_model(ViTForImageClassification(config), chosen)
        preprocessing = bench.model("linear", {}).encoder.preprocessing
        self.views = Views(bench.images, preprocessing, crop_scale=RECIPE.crop_scale)

    def __len__(self) -> int:
        return len(self.views)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {"pixel_values": self.views.random_view(i, 0), "labels": int(self.bench.targets[i])}

    def run(self) -> dict[str, float]:
        from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

        ends: list[float] = []

        class Watch(TrainerCallback):
            def on_step_end(self, *_: Any, **__: Any) -> None:
                synchronise()
                ends.append(time.perf_counter())

        with tempfile.TemporaryDirectory() as folder:
            options = TrainingArguments(
                folder, per_device_train_batch_size=BATCH, num_train_epochs=EPOCHS, report_to=[],
                save_strategy="no", logging_strategy="no", disable_tqdm=True, optim="sgd",
                dataloader_pin_memory=False,
            )  # fmt: skip
            trainer = Trainer(self.model, options, train_dataset=self, callbacks=[Watch()])
            trainer.remove_callback(PrinterCallback)
            cpu, began = time.process_time(), time.perf_counter()
            trainer.train()
            spent = (time.process_time() - cpu) / (time.perf_counter() - began)
        began = time.perf_counter()
        pixels = torch.stack([self.views.evaluation_view(i) for i in range(len(self))])
        with torch.inference_mode():
            self.model.eval()(pixel_values=pixels.to(self.model.device))
        synchronise()
        seconds = (time.perf_counter() - began) / len(self)
        step = statistics.median(np.diff(ends)[1:].tolist())
        nothing = dict.fromkeys(("set up", "once", "stored"), 0.0)
        return nothing | {"step": step, "cpu": spent, "evaluate": seconds}


def matmul_peak(precision: str) -> float:
    """FLOP per second of a large matrix product, in the precision that medept takes here."""
    accelerator = make_accelerator(precision=precision)
    dtype = torch.bfloat16 if accelerator.mixed_precision == "bf16" else torch.float32
    a = torch.randn(2048, 2048, device=accelerator.device).to(dtype)
    times = []
    for _ in range(8):
        began = time.perf_counter()
        (a @ a).sum().item()
        times.append(time.perf_counter() - began)
    return 2 * 2048**3 / min(times)


def step_flop(model: AdaptedEncoder, pixels: torch.Tensor) -> int:
    """Floating-point operations of a step, forward and backward, above what is computed once."""
    aten = torch.ops.aten
    attention: dict[Any, Callable[..., int]] = {  # of the CPU, which PyTorch's counter leaves out
        aten._scaled_dot_product_flash_attention_for_cpu: (
            lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v)
        ),
        aten._scaled_dot_product_flash_attention_for_cpu_backward: (
            lambda grad, q, k, v, *_, **__: sdpa_backward_flop_count(grad, q, k, v)
        ),
    }
    prefix = find_prefix(model)
    assert prefix is not None
    state = prefix.encode(pixels)
    with prefix.resumed():
        model(prefix.feed(state))  # after which the black image is embedded
        with FlopCounterMode(display=False, custom_mapping=attention) as counter:
            model(prefix.feed(state)).sum().backward()
    return counter.get_total_flops()


def rows(jobs: dict[str, Job], bench: Bench) -> Iterator[dict[str, object]]:
    """The whole job, extrapolated from the times of each way.

    medept decodes and encodes each image once; the other ways do so in every epoch.
    """
    steps = JOB_EPOCHS * -(-SUPPORT // BATCH)
    decode = bench.decode()
    for name, job in jobs.items():
        once = job.median("once")  # to decode an image and encode one view of it
        if name.startswith("medept"):
            decode_s = SUPPORT * decode
            encode_s = job.median("set up") + SUPPORT * max(0.0, MEDEPT.views * once - decode)
            train_s = steps * job.median("step")
        else:
            decode_s, encode_s = SUPPORT * JOB_EPOCHS * decode, 0.0
            train_s = steps * job.median("step") - decode_s
        evaluate_s = TEST * job.median("evaluate")
        minutes = (decode_s + encode_s + train_s + evaluate_s) / 60
        yield {
            "way": name,
            "step (s)": job.median("step"),
            "decode (s)": decode_s,
            "encode (s)": encode_s,
            "train (s)": train_s,
            "evaluate (s)": evaluate_s,
            "whole job (min)": minutes,
            "CPU (min)": minutes * job.median("cpu"),
            "peak MB": job.median("peak") / 1e6,
            "encoded views (MB)": SUPPORT * MEDEPT.views * job.median("stored") / 1e6,
        }


def main() -> None:
    options = arguments(__doc__ or "", float32="make medept compute in float32")
    precision = "float32" if options.float32 else "auto"
    name = "vit_tiny_patch16_224" if options.quick else "vit_base_patch16_224"
    with others_to_stderr(), tempfile.TemporaryDirectory() as folder:
        bench = Bench(name, 1 if options.quick else 2, Path(folder), precision)
        jobs = {way: Job(run, []) for way, run in bench.ways().items()}
        for _ in range(2):
            for job in jobs.values():
                job.rounds.append(job.run())
        for job in jobs.values():
            peak = float(peak_bytes(job.run))
            for one in job.rounds:
                one["peak"] = peak
        table = list(rows(jobs, bench))
        peak = matmul_peak(precision)
        flop = step_flop(
            bench.model("ept", {"length": 100}), torch.randn(BATCH, 3, *[bench.pixels] * 2)
        )
    step = {way: job.median("step") for way, job in jobs.items()}
    ratios = {
        "ept_deep_vs_formula": step["EPT, formula"] / step["medept, EPT"],
        "ept_9_12_vs_formula": step["EPT, formula"] / step["medept, EPT in the upper third"],
        "linear_cached_vs_uncached": step["linear"] / step["medept, linear"],
    }
    facts = {
        "ratios": ratios,
        "precision": precision_of(make_accelerator(precision=precision)),
        "bf16_fast": fast_bfloat16("cuda" if torch.cuda.is_available() else "cpu"),
        "matmul_gflops": peak / 1e9,
        "share_of_matmul_peak": flop / step["medept, EPT"] / peak,
    }
    if options.json:
        print(json.dumps({"machine": machine(), "encoder": name, "rows": table} | facts))
        return
    show(table, as_json=False)
    print(json.dumps(facts, indent=2))


if __name__ == "__main__":
    main()
