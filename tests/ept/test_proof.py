"""No prompt stays without effect in silence: at attach, and in every pass after it."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable

import pytest
import timm
import torch
from equation_5 import forward_by_formula
from odd_models import IMAGE, Attends, Patches, traces
from small_encoders import SMALL, make_model
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from medept import EmbeddedPromptConfig, InputError, attach


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("norm_first", [False, True])
def test_the_fused_path_of_torch_layers_does_not_pass_prompts_by(
    activation: str, norm_first: bool
) -> None:
    """In ``eval()`` without gradients, PyTorch runs the whole layer as one operator."""
    layers = [
        nn.TransformerEncoderLayer(
            8, 2, 16, 0.0, activation, batch_first=True, norm_first=norm_first
        )
        for _ in range(2)
    ]
    model, pixels = Patches(*layers).eval(), torch.randn(2, 3, IMAGE, IMAGE)
    plain = model(pixels).detach()
    handle = attach(model, EmbeddedPromptConfig(length=3, init="kaiming"), image_size=IMAGE)
    found = []
    for mode, grad in ((False, False), (False, True), (True, True)):
        model.train(mode)
        with torch.set_grad_enabled(grad):
            found.append(model(pixels).detach())
    assert (found[0] - plain).abs().max() > 1e-3
    for each in found[1:]:
        torch.testing.assert_close(each, found[0], rtol=1e-5, atol=1e-6)
    handle.detach()
    assert torch.equal(model.eval()(pixels), plain)


def shared() -> nn.Module:
    block = Attends()
    return Patches(block, Attends(), block)


@pytest.mark.parametrize(
    ("make", "left"),
    [
        (lambda: Patches(Attends(2)), None),
        (lambda: Patches(*[Attends()] * 4), None),
        (lambda: Patches(Attends(2), Attends()), 1),
        (shared, 1),
    ],
    ids=["twice inside", "one block run four times", "beside another", "shared beside another"],
)
def test_a_module_that_attends_twice_gets_no_prompt(
    make: Callable[[], nn.Module], left: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    model = make()
    before = traces(model)
    if left is None:
        with pytest.raises(InputError, match="with several calls in one pass"):
            attach(model, image_size=IMAGE)
    else:
        with caplog.at_level(logging.WARNING):
            handle = attach(model, EmbeddedPromptConfig(init="zeros"), image_size=IMAGE)
        assert f"{left} of 2 attentions prompted" in repr(handle)
        assert "left out: 1 with several calls in one pass (blocks.0)" in repr(handle)
        assert "without prompts: 1 with several calls in one pass (blocks.0)" in caplog.text
        handle.detach()
    assert traces(model) == before


def test_a_prompt_that_changes_nothing_is_refused_with_the_model_intact() -> None:
    model = Patches(Attends(), Attends(read=False))
    before = traces(model)
    with pytest.raises(InputError, match=r"prompts in blocks\.1 of Patches would change nothing"):
        attach(model, EmbeddedPromptConfig(init="zeros", length=2), image_size=IMAGE)
    assert traces(model) == before
    assert attach(model, EmbeddedPromptConfig(layers="1"), image_size=IMAGE).prompts.keys() == {0}


@pytest.mark.parametrize("config", [
    {"way": "add", "init": "zeros"}, {"way": "multiply", "init": "zeros"},
    {"way": "multiply_concat", "init": "zeros"}, {"init": "identity"}, {"init": "zeros"},
    {"way": "keys", "init": "zeros"}, {"init": "zeros", "per_head": True},
    {"init": "zeros", "frozen": True},
], ids=str)  # fmt: skip
def test_attach_leaves_no_trace_but_the_prompts(config: dict) -> None:
    """Modes one by one (frozen BatchNorms), statistics, random numbers, gradients."""
    model = timm.create_model("coatnet_pico_rw_224", img_size=64, num_classes=0,
                              depths=(1, 1, 1, 1), embed_dim=(16, 32, 32, 32))  # fmt: skip
    model.train()
    frozen = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)][::2]
    for norm in frozen:
        norm.eval()
    before = traces(model)
    with torch.no_grad():
        handle = attach(model, EmbeddedPromptConfig(**config), image_size=64)
    assert model.training
    assert sum(not m.training for m in frozen) == len(frozen) > 0
    assert all(p.requires_grad != config.get("frozen", False) for p in handle.parameters())
    handle.detach()
    assert traces(model)[1:] == before[1:]


def test_a_prompted_attention_that_goes_another_way_raises() -> None:
    model = Patches(Attends(), Attends())
    handle = attach(model, EmbeddedPromptConfig(layers="2"), image_size=IMAGE)
    pixels = torch.randn(2, 3, IMAGE, IMAGE)
    model.blocks[0].fused_attn = False  # holds no prompt
    model(pixels)
    model.blocks[1].fused_attn = False
    with pytest.raises(InputError, match=r"ran without its prompt.*fused_attn = True"):
        model(pixels)
    model.blocks[1].fused_attn = True
    model(pixels)
    handle.detach()


@pytest.mark.parametrize("kind", ["ViT", "Dinov2", "CLIPVision", "SiglipVision"])
def test_a_switch_to_eager_attention_raises(kind: str) -> None:
    model = make_model(f"transformers:{kind}").eval()
    handle = attach(model, EmbeddedPromptConfig(length=2))
    pixels = torch.randn(1, 3, 32, 32)
    model(pixels)
    model.set_attn_implementation("eager")
    with pytest.raises(InputError, match="ran without its prompt"):
        model(pixels)
    handle.detach()
    model(pixels)


LEFT_OUT = [
    ("pvt_v2_b0", 64, "2 of 8", "6 with fewer keys than queries"),
    ("nextvit_small", 64, "1 of 4", "3 with fewer keys than queries"),
    ("hieradet_small", 64, "13 of 16", "3 with more keys than queries"),
]


@pytest.mark.parametrize(("name", "size", "counts", "reason"), LEFT_OUT)
def test_what_is_left_out_is_told(name: str, size: int, counts: str, reason: str) -> None:
    model = timm.create_model(name, num_classes=0).eval()
    handle = attach(model, EmbeddedPromptConfig(length=2), image_size=size)
    assert f": {counts} attentions prompted" in repr(handle)
    assert reason in repr(handle)


REFUSED = [
    ("xcit_nano_12_p16_224", "with attention over channels"),
    ("nest_tiny", "queries of 5 dimensions"),
    ("samvit_base_patch16_224", "queries of 3 dimensions"),
]


@pytest.mark.parametrize(("name", "reason"), REFUSED)
def test_what_cannot_be_prompted_is_refused_in_words(name: str, reason: str) -> None:
    """Which of the dimensions are heads, and which windows or blocks, a query does not say."""
    options = {} if name == "nest_tiny" else {"depth": 1}
    model = timm.create_model(name, num_classes=0, **options)
    before = traces(model)
    with pytest.raises(InputError, match=reason):
        attach(model)
    assert traces(model) == before


def test_tokens_without_a_grid_serve_one_size_which_is_told() -> None:
    """NaFlexViT's patches come from a linear layer, which does not say how they lie."""
    model = timm.create_model("naflexvit_base_patch16_gap", depth=1, embed_dim=48, num_heads=3)
    handle = attach(model.eval(), EmbeddedPromptConfig(length=2), image_size=(64, 32))
    assert "1 of 1 attentions prompted" in repr(handle)
    assert "images of 64 x 32 pixels alone, as its tokens form no grid" in repr(handle)
    model(torch.zeros(1, 3, 64, 32))
    with pytest.raises(InputError, match=r"of a size that .*attach\(model, image_size="):
        model(torch.zeros(1, 3, 64, 64))
    handle.add("keys", EmbeddedPromptConfig(length=2, way="keys"))
    handle.use("keys")
    assert "alone" not in repr(handle)
    model(torch.zeros(1, 3, 64, 64))


SIDES = [((32, 32), (16, 64)), ((64, 32), (32, 64)), ((32, 64), (32, 64)), ((32, 32), (48, 24))]


@pytest.mark.parametrize(("made", "given"), SIDES, ids=str)
def test_prompts_follow_the_sides_of_the_image(
    made: tuple[int, int], given: tuple[int, int]
) -> None:
    """As position embeddings do, also where the number of patches stays the same."""
    model = timm.create_model("vit_tiny_patch16_224", img_size=made, patch_size=8, depth=2,
                              embed_dim=48, num_heads=3, num_classes=0,
                              dynamic_img_size=True).double().eval()  # fmt: skip
    handle = attach(model, EmbeddedPromptConfig(length=4, init="kaiming"))
    handle.adapters["default"] = {i: p.double() for i, p in handle.prompts.items()}
    pixels = torch.randn(1, 3, *given, dtype=torch.float64)
    old, new = ([side // 8 for side in sides] for sides in (made, given))
    sinks = {i: p.prompt.detach().logsumexp(-1) for i, p in handle.prompts.items()}
    found = model(pixels)
    expected = forward_by_formula(model, pixels, {
        i: resample_abs_pos_embed(s[None, :, None], new, old, num_prefix_tokens=1)[0]
        for i, s in sinks.items()
    })  # fmt: skip
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-7)  # timm resamples in float32


def test_dropped_patches_are_refused_in_training() -> None:
    """Prompts have a place for each patch, and would not know which are left."""
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=4, depth=1,
                              embed_dim=48, num_heads=3, patch_drop_rate=0.75,
                              num_classes=0)  # fmt: skip
    attach(model, EmbeddedPromptConfig(length=2))
    pixels = torch.randn(2, 3, 32, 32)
    model.eval()(pixels)
    with pytest.raises(InputError, match=r"17 tokens, where 65.*patch dropout"):
        model.train()(pixels)


@pytest.mark.parametrize("channels", [1, 4])
def test_images_of_other_channels(channels: int) -> None:
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=1,
                              in_chans=channels, embed_dim=48, num_heads=3)  # fmt: skip
    assert attach(model).sites[0].grid == (4, 4)


def test_a_compiled_model_is_refused_in_words(tiny_vit: nn.Module) -> None:
    with pytest.raises(InputError, match="attach to the model first, then compile it"):
        attach(torch.compile(tiny_vit, backend="eager"))


def test_queries_that_are_not_the_keys_are_projected_by_their_own_weights() -> None:
    """As in DETR: positions are added to queries and keys, not to values; and separate weights."""

    class Detr(nn.Module):
        def __init__(self, separate: bool) -> None:
            super().__init__()
            self.attn = nn.MultiheadAttention(8, 2, batch_first=True)
            self.place = nn.Parameter(torch.randn(1, 16, 8))
            if separate:
                self.attn._qkv_same_embed_dim = False
                for name, weight in zip("qkv", self.attn.in_proj_weight.chunk(3), strict=True):
                    setattr(self.attn, f"{name}_proj_weight", nn.Parameter(weight.detach()))
                self.attn.register_parameter("in_proj_weight", None)

        def forward(self, x: Tensor) -> Tensor:
            qk = x + self.place
            return x + self.attn(qk, qk, x, need_weights=False)[0]

    pixels = torch.randn(2, 3, IMAGE, IMAGE)
    for separate in (False, True):
        model = Patches(Detr(separate)).eval()
        twin = copy.deepcopy(model)
        config = EmbeddedPromptConfig(length=1, init="zeros")
        handle = attach(model, config, image_size=IMAGE)
        with torch.no_grad():
            next(handle.parameters()).fill_(-60.0)  # a gate of one
        torch.testing.assert_close(model(pixels), twin(pixels), rtol=1e-5, atol=1e-6)


def test_a_small_configuration_of_transformers_is_found_whole() -> None:
    transformers = pytest.importorskip("transformers")
    model = transformers.Dinov2WithRegistersModel(
        transformers.Dinov2WithRegistersConfig(**SMALL, num_register_tokens=4)
    )
    assert [(s.prefix, s.grid) for s in attach(model).sites] == [(5, (14, 14))] * 2
