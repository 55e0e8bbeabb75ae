"""Decode Tiny ImageNet once, and compute the teacher's tokens of each image once."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from rich.progress import track
from safetensors.torch import load_file

from medept.files import write_text
from medept.training.device import fast_bfloat16

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def bfloat16_pays() -> bool:
    """Whether to compute in bfloat16 here."""
    return DEVICE == "cuda" or fast_bfloat16("cpu")


def decode(data: Path, work: Path) -> None:
    """Turn ``train*.parquet`` and ``val*.parquet`` into uint8 arrays (n, 64, 64, 3) and labels."""

    def pixels(image: bytes) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(image)).convert("RGB"))

    for part in ("train", "val"):
        if (work / f"{part}_labels.npy").exists():
            continue
        table = pq.read_table(sorted(data.glob(f"{part}*.parquet"))).to_pydict()
        with ThreadPoolExecutor() as threads:
            decoded = threads.map(pixels, table["image"])
            images = list(track(decoded, f"decoding {part}", total=len(table["image"])))
        np.save(work / f"{part}_images.npy", np.stack(images))
        np.save(work / f"{part}_labels.npy", np.asarray(table["label"]))


@torch.inference_mode()
def teach(weights: Path, work: Path, teacher: dict[str, Any], grid: int, batch: int = 250) -> None:
    """Write the teacher's class tokens (n, D), and patch tokens (n, grid^2, D) for the student.

    Images are processed in a random order, which is kept in ``order.npy``. ``cache_done.txt`` says
    how many are done, so that the work can resume and training can start on those.
    """
    images = np.load(work / "train_images.npy", mmap_mode="r")
    done_file = work / "cache_done.txt"
    done = int(done_file.read_text()) if done_file.exists() else 0
    if done >= len(images):
        return
    model = timm.create_model(teacher["name"], num_classes=1000)
    model.load_state_dict(load_file(weights))
    model.reset_classifier(0)
    model.set_input_size(img_size=(teacher["pixels"],) * 2)
    dtype = torch.bfloat16 if bfloat16_pays() else torch.float32
    model.to(DEVICE, dtype).eval()
    if done == 0:
        np.save(work / "order.npy", np.random.default_rng(0).permutation(len(images)))
    order = np.load(work / "order.npy")
    shapes = {"cls": (len(images), model.embed_dim),
              "patches": (len(images), grid**2, model.embed_dim)}  # fmt: skip
    files = {
        name: np.lib.format.open_memmap(
            work / f"teacher_{name}.npy", mode="r+" if done else "w+", dtype=np.float16,
            shape=None if done else shape,
        )
        for name, shape in shapes.items()
    }  # fmt: skip
    side = model.patch_embed.grid_size[0]
    for start in track(range(done, len(images), batch), "teacher"):
        rows = np.sort(order[start : start + batch])
        pixels = torch.from_numpy(images[rows]).to(DEVICE).permute(0, 3, 1, 2) / 127.5 - 1
        pixels = F.interpolate(pixels, size=teacher["pixels"], mode="bicubic").clamp(-1, 1)
        tokens = model.forward_features(pixels.to(dtype)).float()
        patches = tokens[:, 1:].transpose(1, 2).reshape(len(rows), -1, side, side)
        patches = F.interpolate(patches, size=grid, mode="bilinear", antialias=True)
        files["cls"][rows] = tokens[:, 0].half().cpu().numpy()
        files["patches"][rows] = patches.flatten(2).transpose(1, 2).half().cpu().numpy()
        write_text(done_file, str(start + len(rows)))
