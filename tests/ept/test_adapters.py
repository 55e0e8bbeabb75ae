"""Several adapters: under DistributedDataParallel and FSDP, and saved together."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from medept import EmbeddedPromptConfig, InputError, attach


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("held", [False, True], ids=["added", "switched"])
def test_ddp_never_trains_an_adapter_that_it_does_not_see(
    tiny_vit: nn.Module, one_process: None, held: bool
) -> None:
    handle = attach(tiny_vit, EmbeddedPromptConfig(length=3))
    if held:
        handle.add("other", EmbeddedPromptConfig(length=2, layers="2"))
    wrapped, pixels = DistributedDataParallel(tiny_vit), torch.randn(2, 3, 32, 32)
    wrapped(pixels).sum().backward()
    assert all(p.grad is not None for p in handle.parameters())
    if not held:
        handle.add("other", EmbeddedPromptConfig(length=2, layers="2"))
    handle.use("other")
    with pytest.raises(InputError, match="choose the adapter first, then wrap the model"):
        wrapped(pixels)
    with torch.no_grad():
        wrapped(pixels)  # nothing is trained
    handle.use("default")
    wrapped(pixels).sum().backward()


def test_a_wrapped_model_is_refused(tiny_vit: nn.Module, one_process: None) -> None:
    wrapped = DistributedDataParallel(tiny_vit)
    with pytest.raises(InputError, match="attach to the model first, then wrap it"):
        attach(wrapped, image_size=32)


def test_a_sharded_prompt_is_not_merged(tiny_vit: nn.Module, one_process: None) -> None:
    from torch.distributed.fsdp import fully_shard

    handle = attach(tiny_vit, EmbeddedPromptConfig(length=3))
    mesh = dist.init_device_mesh("cpu", (1,))
    fully_shard(tiny_vit, mesh=mesh)
    with pytest.raises(InputError, match="sharded by FSDP"):
        handle.merge()


def test_all_adapters_are_saved_and_loaded(tiny_vit: nn.Module) -> None:
    handle = attach(tiny_vit, EmbeddedPromptConfig(length=3))
    handle.add("v1.5 layer", EmbeddedPromptConfig(length=2, layers="2"))
    saved = {key: value.clone() for key, value in handle.state_dict(all=True).items()}
    assert saved.keys() == {*(f"default.layer.{i}" for i in range(3)), "v1.5 layer.layer.1"}
    assert handle.state_dict().keys() == {f"layer.{i}" for i in range(3)}
    for prompts in handle.adapters.values():
        for prompt in prompts.values():
            prompt.prompt.data.zero_()
    handle.load_state_dict(saved)
    again = handle.state_dict(all=True)
    assert all(torch.equal(again[key], value) for key, value in saved.items())
    saved.pop("default.layer.0")
    with pytest.raises(InputError, match="or with all adapters"):
        handle.load_state_dict(saved)
