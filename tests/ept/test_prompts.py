"""Prompts: initial values, merging, gates, other resolutions, loading."""

from __future__ import annotations

import copy

import pytest
import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from medept import EmbeddedPromptConfig, InputError, attach
from medept.ept.prompts import EmbeddedPrompt


@pytest.mark.parametrize("init", ["normal", "uniform", "zeros", "kaiming"])
def test_initial_values(tiny_vit: nn.Module, init: str) -> None:
    """The paper's normal 0.02; uniform within 0.08, or Kaiming's sqrt(6 / L)."""
    length = 400
    bound = {"normal": None, "uniform": 0.08, "zeros": 0.0, "kaiming": (6 / length) ** 0.5}[init]
    for way in ("concat", "multiply"):
        handle = attach(tiny_vit, EmbeddedPromptConfig(length=length, init=init, way=way))
        values = torch.cat([p.flatten() for p in handle.parameters()]).detach()
        values -= float(way == "multiply")
        handle.detach()
        if bound is None:
            assert values.std() == pytest.approx(0.02, rel=0.1)
        elif way == "concat":
            assert 0.98 * bound <= values.abs().max() <= bound
            assert values.std() == pytest.approx(bound / 3**0.5, rel=0.1)
        else:
            assert abs(values.mean()) < 0.1
    torch.manual_seed(0)
    full = attach(tiny_vit, EmbeddedPromptConfig(length=length, init=init))
    sums = [p.detach().logsumexp(-1) for p in full.parameters()]
    full.detach()
    torch.manual_seed(0)
    collapsed = attach(tiny_vit, EmbeddedPromptConfig(length=length, init=init, collapsed=True))
    for ours, expected in zip(collapsed.parameters(), sums, strict=True):
        torch.testing.assert_close(ours.detach(), expected)


def test_keys_start_apart_and_with_the_gate_of_their_number(tiny_vit: nn.Module) -> None:
    """So far apart that gradients differ; keys of zero have the gate of as many prompts of zero."""
    handle = attach(tiny_vit, EmbeddedPromptConfig(way="keys", length=300))
    values = torch.cat([p.detach().flatten() for p in handle.parameters()])
    assert values.std() == pytest.approx(0.5, rel=0.05)
    handle.detach()
    gates = []
    for way in ("keys", "concat"):
        handle = attach(tiny_vit, EmbeddedPromptConfig(way=way, length=4, init="zeros"))
        with handle.recording():
            tiny_vit(torch.ones(1, 3, 32, 32))
        gates.append(handle.gates())
        handle.detach()
    torch.testing.assert_close(*gates)


@pytest.mark.parametrize("per_head", [False, True])
@pytest.mark.parametrize("size", [32, 48])
def test_merging_keeps_the_output_and_leaves_one_number_per_token(
    tiny_vit: nn.Module, per_head: bool, size: int
) -> None:
    pixels = torch.randn(2, 3, size, size)
    handle = attach(tiny_vit, EmbeddedPromptConfig(length=50, init="kaiming", per_head=per_head))
    before = tiny_vit(pixels)
    merged = handle.merge()
    assert all(s.shape == ((3, 17) if per_head else (17,)) for s in merged.values())
    torch.testing.assert_close(tiny_vit(pixels), before, rtol=1e-5, atol=1e-6)


def test_identity_start_changes_little_whatever_the_length(tiny_vit: nn.Module) -> None:
    pixels = torch.randn(2, 3, 32, 32)
    plain = tiny_vit(pixels)
    change = {}
    for init in ("identity", "zeros"):
        handle = attach(tiny_vit, EmbeddedPromptConfig(length=100, init=init))
        with handle.recording():
            change[init] = (tiny_vit(pixels) - plain).norm().item()
        mean = torch.stack([g.mean() for g in handle.gates().values()]).mean()
        assert (mean > 0.95) if init == "identity" else (mean < 0.3)
        handle.detach()
    assert change["identity"] < change["zeros"] / 5


def test_gates_are_the_share_of_the_softmax_that_the_tokens_keep(tiny_vit: nn.Module) -> None:
    handle = attach(tiny_vit, EmbeddedPromptConfig(length=4, init="zeros"))
    with pytest.raises(InputError, match="recording"):
        handle.gates()
    seen = []
    hook = tiny_vit.blocks[0].attn.qkv.register_forward_hook(lambda m, i, o: seen.append(o))
    with handle.recording():
        tiny_vit(torch.randn(2, 3, 32, 32))
    hook.remove()
    q, k, _ = seen[0].reshape(2, 17, 3, 3, 16).permute(2, 0, 3, 1, 4)
    total = (q @ k.transpose(-1, -2) / 4).exp().sum(-1)
    torch.testing.assert_close(handle.gates()[0], total / (total + 4), rtol=1e-5, atol=1e-6)


def test_prompts_follow_another_resolution_with_the_class_token_kept_apart(
    tiny_vit: nn.Module,
) -> None:
    handle = attach(tiny_vit, EmbeddedPromptConfig(length=6, init="zeros"))
    with torch.no_grad():
        for prompt in handle.prompts.values():
            prompt.prompt[0] = -30.0  # no gate on the class token, gate of 6 prompts elsewhere
    with handle.recording():
        tiny_vit(torch.randn(1, 3, 64, 64))
    gates = handle.gates()[0]
    assert gates.shape == (1, 3, 65)
    assert gates[..., 0].min() > 0.999
    assert gates[..., 1:].max() < 0.95


@pytest.mark.parametrize("way", ["concat", "multiply_concat", "add"])
@pytest.mark.parametrize("grid", [(6, 6), (4, 4), (3, 6)])
def test_resizing_is_that_of_position_embeddings(way: str, grid: tuple[int, int]) -> None:
    """timm's ``resample_abs_pos_embed``: of s, of the prompt's rows, of its rows and columns."""
    old = (4, 4) if grid[0] == grid[1] else (2, 4)
    config = EmbeddedPromptConfig(length=5, way=way, init="kaiming")
    prompt = EmbeddedPrompt(config, heads=2, width=8, prefix=1, grid=old)
    tokens = 1 + grid[0] * grid[1]

    def resampled(rows: Tensor) -> Tensor:
        return resample_abs_pos_embed(rows[None], list(grid), list(old), num_prefix_tokens=1)[0]

    values = prompt.prompt
    if way == "concat":
        torch.testing.assert_close(
            prompt.sink(tokens), resampled(values.exp().sum(-1).log()[:, None])[:, 0]
        )
    elif way == "multiply_concat":
        torch.testing.assert_close(prompt.sized(tokens), resampled(values))
    else:
        torch.testing.assert_close(prompt.sized(tokens), resampled(resampled(values).mT).mT)


@pytest.mark.parametrize("per_head", [False, True])
@pytest.mark.parametrize("form", ["full", "merged", "collapsed"])
def test_prompts_of_another_grid_are_loaded(tiny_vit: nn.Module, per_head: bool, form: str) -> None:
    """Into a model that is attached at 48 pixels, from one at 32: as they act there."""
    config = EmbeddedPromptConfig(
        length=4, init="kaiming", per_head=per_head, collapsed=form == "collapsed"
    )
    pixels, twin = torch.randn(2, 3, 48, 48), copy.deepcopy(tiny_vit)
    handle = attach(tiny_vit, config)
    if form == "merged":
        handle.merge()
    other = attach(twin, config, image_size=48)
    other.load_state_dict(handle.state_dict())
    torch.testing.assert_close(twin(pixels), tiny_vit(pixels), rtol=1e-5, atol=1e-6)
    before = other.state_dict()
    for wrong in ([3, 12], [3, 13], [6, 17]):  # no grid, one of other proportions, other heads
        if not per_head and wrong[-1] == 17:
            continue
        values = dict.fromkeys(before, torch.zeros(wrong if per_head else wrong[1:]))
        with pytest.raises(InputError, match="grid|do not fit"):
            other.load_state_dict(values)
    assert all(torch.equal(other.state_dict()[name], tensor) for name, tensor in before.items())


def test_keys_serve_every_resolution_as_they_are(tiny_vit: nn.Module) -> None:
    """Merged or not, and loaded into a model that is attached at another one."""
    config = EmbeddedPromptConfig(way="keys", length=3)
    twin, pixels = copy.deepcopy(tiny_vit), torch.randn(2, 3, 48, 48)
    handle, other = attach(tiny_vit, config), attach(twin, config, image_size=48)
    assert {tuple(p.shape) for p in other.parameters()} == {(3, 3, 16)}
    expected, before = tiny_vit(pixels), list(handle.state_dict().values())
    assert all(torch.equal(a, b) for a, b in zip(handle.merge().values(), before, strict=True))
    assert torch.equal(tiny_vit(pixels), expected)
    other.load_state_dict(handle.state_dict())
    torch.testing.assert_close(twin(pixels), expected)
    with pytest.raises(InputError, match="do not fit"):
        other.load_state_dict(dict.fromkeys(other.state_dict(), torch.zeros(3, 2, 16)))


def test_gates_of_keys_are_the_share_that_the_tokens_keep(tiny_vit: nn.Module) -> None:
    handle = attach(tiny_vit, EmbeddedPromptConfig(way="keys", length=4))
    seen = []
    hook = tiny_vit.blocks[0].attn.qkv.register_forward_hook(lambda m, i, o: seen.append(o))
    with handle.recording():
        tiny_vit(torch.randn(2, 3, 32, 32))
    hook.remove()
    q, k, _ = seen[0].reshape(2, 17, 3, 3, 16).permute(2, 0, 3, 1, 4)
    tokens, keys = (
        (q @ each.transpose(-1, -2) / 4).exp().sum(-1) for each in (k, handle.prompts[0].prompt)
    )
    torch.testing.assert_close(handle.gates()[0], tokens / (tokens + keys), rtol=1e-5, atol=1e-6)


def test_a_refused_prompt_changes_nothing(tiny_vit: nn.Module) -> None:
    """Of other heads: shared into one a head, and the other way."""
    for per_head, shape in ((True, (2, 17)), (False, (3, 17)), (False, (3, 17, 4))):
        handle = attach(tiny_vit, EmbeddedPromptConfig(length=4, per_head=per_head))
        before = {name: tensor.clone() for name, tensor in handle.state_dict().items()}
        with pytest.raises(InputError):
            handle.load_state_dict(dict.fromkeys(before, torch.zeros(shape)))
        after = handle.state_dict()
        assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
        handle.detach()
