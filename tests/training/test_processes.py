"""Several processes share each batch, and end with the weights of one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from helpers import run
from safetensors.torch import load_file

from medept.phantoms import make_phantoms, write_phantoms


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("method", ["ept", "full"])
def test_two_processes_end_where_one_does(
    method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Batches of 3 leave the second process with fewer rows, and at times with none; with fewer
    parts, too, where each image is computed by itself. Views are encoded once. Not all of DINOv2
    is run: it has a token for masks."""
    data = make_phantoms("colon", patients=12, images_per_patient=1, size=48)
    table = write_phantoms(data, tmp_path / "data")
    options = ["fit", str(table), "--shots", "2", "--epochs", "3", "--batch-size", "3",
               "--device", "cpu", "--precision", "float32", "--seed", "1", "--method", method,
               "--set-recipe", "views=1"]  # fmt: skip
    if method == "full":
        shape = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3}
        library = pytest.importorskip("transformers")
        config = library.Dinov2Config(image_size=32, patch_size=8, **shape)
        library.Dinov2Model(config).save_pretrained(tmp_path / "dinov2")
        library.ViTImageProcessor(size=32).save_pretrained(tmp_path / "dinov2")
        options += ["--encoder", f"transformers:{tmp_path / 'dinov2'}", "--recipe", "paper"]
    launcher = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2",
                "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no",
                "--main_process_port", free_port()]  # fmt: skip
    if method == "full":
        launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    two = [*launcher, "-m", "medept", *options, "--set-recipe", "micro_batch=1"]
    done = subprocess.run(
        [sys.executable, "-m", *two, "--out", str(tmp_path / "two")],
        timeout=240, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert run(*options, "--out", tmp_path / "one") == 0
    assert done.stderr.count(", on 2 processes; ") == 1
    assert capsys.readouterr().err.count(", on 2 processes; ") == 0
    states = [load_file(tmp_path / name / "adapter.safetensors") for name in ("one", "two")]
    assert states[0].keys() == states[1].keys()
    for key, value in states[0].items():
        torch.testing.assert_close(states[1][key], value, rtol=1e-3, atol=1e-4)
    first, second = (pd.read_csv(tmp_path / name / "history.csv").loss for name in ("one", "two"))
    assert second.to_numpy() == pytest.approx(first.to_numpy(), rel=1e-4)
    assert not list(tmp_path.glob(".*"))
