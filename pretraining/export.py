"""Write a checkpoint into the package: ``encoder.safetensors`` (float16) and ``encoder.json``.

    python pretraining/export.py --work WORK --pixels 64 --checkpoint last.pt

Weights are the run's moving average. ``--pixels`` is the default input size of the encoder.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import torch
import yaml
from safetensors.torch import save

from medept.encoders import embedded
from medept.files import whole_file, write_text

PACKAGE = Path(embedded.__file__).parent


def main() -> None:
    """Read the command line and write both files into the package."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--pixels", type=int, required=True)
    parser.add_argument("--checkpoint", default="last.pt", help="last.pt or cooled.pt")
    parser.add_argument("--config", type=Path, default=Path(__file__).with_name("config.yaml"))
    arguments = parser.parse_args()
    config = yaml.safe_load(arguments.config.read_text())
    checkpoint = torch.load(
        arguments.work / arguments.checkpoint, map_location="cpu", weights_only=True
    )
    before = checkpoint["before"]  # the training of the encoder that the run started from
    weights = {
        name.removeprefix("encoder."): tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in checkpoint["average"].items()
        if name.startswith("encoder.")
    }
    data = save({name: tensor.contiguous() for name, tensor in weights.items()})
    description = {
        "name": "embedded",
        "architecture": config["architecture"],
        "transform": config["transform"]
        | {"input_size": arguments.pixels, "interpolation": "bicubic", "crop_pct": 1.0},
        "sha256": hashlib.sha256(data).hexdigest(),
        "training": {
            "steps": before["steps"] + checkpoint["step"],
            "hours": round(before["hours"] + checkpoint["seconds"] / 3600, 2),
        },
    }
    with whole_file(PACKAGE / "encoder.safetensors") as partial:
        partial.write_bytes(data)
    write_text(PACKAGE / "encoder.json", json.dumps(description, indent=2) + "\n")
    print(f"{len(data) / 1e6:.1f} MB, SHA-256 {description['sha256']}")


if __name__ == "__main__":
    main()
