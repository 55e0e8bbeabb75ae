"""Checkpoints: the state as it was, of the same fit alone, and nothing left behind."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from medept.training.checkpoint import Checkpoint, Trials, remove_checkpoint

Parts = tuple[list[nn.Parameter], torch.optim.Optimizer, torch.Generator]


def make_parts(optimizer: str, seed: int) -> Parts:
    torch.manual_seed(seed)
    parameters = [nn.Parameter(torch.randn(3, 2)), nn.Parameter(torch.randn(4))]
    if optimizer == "sgd":
        return parameters, torch.optim.SGD(parameters, 0.1, momentum=0.9), torch.Generator()
    return parameters, torch.optim.AdamW(parameters, 0.1), torch.Generator()


def step(parts: Parts) -> list[Tensor]:
    """The parameters after one step, on gradients that the generator draws."""
    parameters, optimizer, order = parts
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=order)
    optimizer.step()
    return [parameter.detach().clone() for parameter in parameters]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_restored_state_continues_to_the_bit(optimizer: str, tmp_path: Path) -> None:
    file, parts = tmp_path / "fit.safetensors", make_parts(optimizer, seed=1)
    step(parts)
    Checkpoint(file, {"lr": 1}).save(*parts, [{"epoch": 1, "loss": 0.5}])
    expected = step(parts)
    other = make_parts(optimizer, seed=2)
    assert Checkpoint(file, {"lr": 1}).restore(*other) == [{"epoch": 1, "loss": 0.5}]
    assert all(torch.equal(a, b) for a, b in zip(step(other), expected, strict=True))


@pytest.mark.parametrize("kind", ["missing", "of another fit", "damaged"])
def test_nothing_is_restored_from_another_file(kind: str, tmp_path: Path) -> None:
    file, parts = tmp_path / "fit.safetensors", make_parts("sgd", seed=1)
    if kind == "of another fit":
        Checkpoint(file, {"lr": 2}).save(*make_parts("sgd", seed=2), [{"epoch": 1}])
    if kind == "damaged":
        file.write_bytes(b"no tensors")
    before = [parameter.detach().clone() for parameter in parts[0]]
    assert Checkpoint(file, {"lr": 1}).restore(*parts) == []
    assert all(torch.equal(a, b) for a, b in zip(parts[0], before, strict=True))


@pytest.mark.parametrize("text", ["", "no json", "[]", '{"key": 1}'])
def test_damaged_losses_of_trials_are_not_read(text: str, tmp_path: Path) -> None:
    (tmp_path / "fit.trials.json").write_text(text)
    assert Trials(tmp_path / "fit.safetensors", "key").losses == {}


def test_a_finished_fit_leaves_no_checkpoint(tmp_path: Path) -> None:
    file = tmp_path / "fit.safetensors"
    Checkpoint(file, "key").save(*make_parts("sgd", seed=1), [])
    Trials(file, "key").add(0, 0.5)
    assert len(list(tmp_path.iterdir())) == 2
    for _ in range(2):
        remove_checkpoint(file)
        assert list(tmp_path.iterdir()) == []
