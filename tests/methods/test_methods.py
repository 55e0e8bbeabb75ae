"""Methods: what is trained, what is kept, and that nothing else changes."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
import timm
import torch
from torch import nn

from medept import InputError
from medept.encoders.encoder import Encoder
from medept.encoders.preprocessing import Preprocessing
from medept.methods import METHODS, adapt
from medept.methods.features import FeatureMethod
from medept.methods.heads import LinearHead

TRAINED = [name for name, method in METHODS.items() if not issubclass(method, FeatureMethod)]
"""Methods that are trained step by step; the others are in test_features.py."""

PREPROCESSING = Preprocessing(size=(32, 32), mean=(0.5,) * 3, std=(0.5,) * 3)


@pytest.fixture
def encoder(tiny_vit: nn.Module) -> Encoder:
    return Encoder(tiny_vit, "tiny", PREPROCESSING)


@pytest.mark.parametrize("name", METHODS)
def test_every_setting_says_what_it_means(name: str) -> None:
    fields = METHODS[name].Settings.model_fields
    assert [setting for setting, field in fields.items() if not field.description] == []


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("multilabel", [False, True])
def test_training_changes_what_is_trainable_and_nothing_else(
    encoder: Encoder, name: str, multilabel: bool
) -> None:
    model = adapt(encoder, name, 4)
    trainable = {id(p) for group in model.parameter_groups().values() for p in group}
    frozen = {n: t.clone() for n, t in model.named_parameters() if id(t) not in trainable}
    with torch.no_grad():  # away from zero, where half of LoRA's gradients vanish
        for parameter in (p for p in model.parameters() if id(p) in trainable):
            parameter += 0.01 * torch.randn_like(parameter)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    assert {id(p) for p in model.parameters() if p.requires_grad} == trainable
    logits = model(torch.randn(3, 3, 32, 32))
    assert logits.shape == (3, 4)
    if multilabel:
        target = torch.tensor([[0, 1, 1, 0]] * 3).float()
        nn.functional.binary_cross_entropy_with_logits(logits, target).backward()
    else:
        nn.functional.cross_entropy(logits, torch.tensor([0, 1, 3])).backward()
    for n, p in model.named_parameters():
        has_gradient = p.grad is not None and bool(p.grad.abs().sum() > 0)
        assert has_gradient == (id(p) in trainable), n
    optimizer.step()
    for n, p in model.named_parameters():
        if n in frozen:
            assert torch.equal(p, frozen[n]), n


@pytest.mark.parametrize("name", METHODS)
def test_removing_a_method_gives_the_encoder_back(encoder: Encoder, name: str) -> None:
    pixels = torch.randn(2, 3, 32, 32)
    before, keys = encoder(pixels), list(encoder.state_dict())
    adapt(encoder, name, 3).remove()
    assert torch.equal(encoder(pixels), before)
    assert list(encoder.state_dict()) == keys


KEPT = [
    *((name, {}) for name in TRAINED),
    ("ept", {"layers": "2-3", "per_head": True}),
    ("ept", {"collapsed": True}),
    ("ept", {"way": "multiply_concat"}),
    ("ept", {"way": "add"}),
    ("ept", {"way": "multiply"}),
    ("vpt", {"layers": "first"}),
    ("vpt", {"layers": "2-3"}),
    ("vpt", {"layers": [1, 3], "frozen": True}),
    ("vpt-ept", {"layers": "2-3", "length": 2}),
    ("vp", {"layers": 2}),
    ("partial", {"k": 2}),
]


@pytest.mark.parametrize(("name", "settings"), KEPT)
@pytest.mark.parametrize("library", ["timm", "transformers"])
def test_what_is_kept_is_enough(encoder: Encoder, library: str, name: str, settings: dict) -> None:
    encoder = encoder if library == "timm" else transformers_encoder()
    pixels = torch.randn(2, 3, 32, 32)
    model = adapt(encoder, name, 3, settings)
    disturb(model)
    model.head.standardise(torch.randn(10, 48) * 3 + 1)
    expected, state = model(pixels), {k: t.clone() for k, t in model.trained_state().items()}
    model.remove()
    again = adapt(encoder, name, 3, settings)
    again.load_trained_state(state)
    torch.testing.assert_close(again(pixels), expected, rtol=1e-4, atol=1e-5)
    kept = sum(t.numel() for t in state.values())
    frozen = sum(p.numel() for p in getattr(again, "prompts", [])) if settings.get("frozen") else 0
    if name != "ept":  # whose prompts are kept merged
        assert kept == again.trainable_count() + frozen


def disturb(model: nn.Module) -> None:
    """Move what is trained away from its start, where much of it is zero."""
    with torch.no_grad():
        for parameter in (p for p in model.parameters() if p.requires_grad):
            parameter += 0.05 * torch.randn_like(parameter)


def transformers_encoder() -> Encoder:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=48, num_hidden_layers=3, num_attention_heads=3, intermediate_size=96,
        image_size=32, patch_size=8,
    )  # fmt: skip
    model = transformers.ViTModel(config, add_pooling_layer=False)
    return Encoder(model, "transformers:tiny", PREPROCESSING)


@pytest.mark.parametrize("name", TRAINED)
def test_every_method_trains_a_transformers_encoder(name: str) -> None:
    encoder = transformers_encoder()
    pixels = torch.randn(2, 3, 32, 32)
    before, keys = encoder(pixels), list(encoder.state_dict())
    model = adapt(encoder, name, 3)
    disturb(model)
    model(pixels).square().sum().backward()
    trainable = {id(p) for group in model.parameter_groups().values() for p in group}
    for n, p in model.named_parameters():
        assert (p.grad is not None and bool(p.grad.abs().sum() > 0)) == (id(p) in trainable), n
    model.remove()
    torch.testing.assert_close(encoder(pixels), before)
    assert list(encoder.state_dict()) == keys


@pytest.mark.parametrize(
    "name", ["lora", "dora", "ia3", "adapter", "bias", "norm", "partial", "full"]
)
def test_what_starts_as_the_identity_is_the_identity(encoder: Encoder, name: str) -> None:
    pixels = torch.randn(2, 3, 32, 32)
    before = encoder(pixels)
    model = adapt(encoder, name, 3)
    torch.testing.assert_close(model.encoder(pixels), before, rtol=1e-5, atol=1e-6)


def test_prompts_are_not_put_where_there_are_some(encoder: Encoder) -> None:
    model = adapt(encoder, "ept", 2)
    with pytest.raises(InputError, match="already holds prompts"):
        adapt(encoder, "ept", 3)
    model.remove()
    adapt(encoder, "ept", 3)


@pytest.mark.parametrize("library", ["timm", "transformers"])
@pytest.mark.parametrize("name", TRAINED)
def test_a_twin_has_the_same_memory_and_may_be_adapted(
    encoder: Encoder, library: str, name: str
) -> None:
    encoder = encoder if library == "timm" else transformers_encoder()
    pixels = torch.randn(2, 3, 32, 32)
    before, twin = encoder(pixels), encoder.copy_with_shared_weights()
    places = [p.data_ptr() for p in encoder.parameters()]
    assert [p.data_ptr() for p in twin.parameters()] == places
    assert twin.identity() == encoder.identity()
    model = adapt(twin, name, 3)
    disturb(model)
    assert model.trains_encoder != torch.equal(twin(pixels), before)
    assert torch.equal(encoder(pixels), before)
    assert all(p.requires_grad for p in encoder.parameters()), "as it came"
    model.remove()
    assert [p.data_ptr() for p in twin.parameters()] == places
    torch.testing.assert_close(twin(pixels), before)


@pytest.mark.parametrize(
    ("layers", "chosen", "tokens"),
    [
        ("all", {0, 1, 2}, [22, 22, 22, 17]),
        ("first", {0}, [22, 22, 22, 17]),
        ("2-3", {1, 2}, [17, 22, 22, 17]),
        ("2", {1}, [17, 22, 22, 17]),
        ("3", {2}, [17, 17, 22, 17]),
        ("1,3", {0, 2}, [22, 22, 22, 17]),
    ],
)
def test_vpt_is_the_papers_equations(
    encoder: Encoder, layers: str, chosen: set[int], tokens: list[int]
) -> None:
    """Their equations 4 to 8 written out over the blocks, in float64; and how many tokens are in
    each block and in the norm behind them."""
    model, vit = adapt(encoder, "vpt", 3, {"length": 5, "layers": layers}).double(), encoder.model
    prompts = dict(zip(sorted(chosen), model.prompts, strict=True))
    pixels, seen = torch.randn(2, 3, 32, 32, dtype=torch.float64), []
    with ExitStack() as stack:
        for module in (*(block.attn for block in vit.blocks), vit.norm):
            hook = module.register_forward_hook(lambda m, i, o: seen.append(i[0].shape[1]))
            stack.callback(hook.remove)
        features = encoder(pixels)
    assert seen == tokens
    model.remove()

    x = vit._pos_embed(vit.patch_embed(pixels))
    token, extra, patches = x[:, :1], x[:, :0], x[:, 1:]
    for i, block in enumerate(vit.blocks):
        extra = prompts[i].expand(2, -1, -1) if i in prompts else extra
        x = block(torch.cat([token, extra, patches], dim=1))
        token, extra, patches = x[:, :1], x[:, 1:-16], x[:, -16:]
    torch.testing.assert_close(features, vit.norm(token)[:, 0])


def test_adaptformer_is_beside_the_mlp(encoder: Encoder) -> None:
    """Its equations 2 to 4 written out over the blocks, in float64."""
    model = adapt(encoder, "adapter", 3, {"reduction": 4, "scale": 0.7})
    disturb(model)
    vit, pixels = encoder.model.double(), torch.randn(2, 3, 32, 32, dtype=torch.float64)
    model.double()
    features = encoder(pixels)
    model.remove()
    x = vit._pos_embed(vit.patch_embed(pixels))
    for block, bottleneck in zip(vit.blocks, model.bottlenecks, strict=True):
        x = x + block.attn(block.norm1(x))
        read = block.norm2(x)
        hidden = (read @ bottleneck.down.weight.T + bottleneck.down.bias).relu()
        x = x + block.mlp(read) + 0.7 * (hidden @ bottleneck.up.weight.T + bottleneck.up.bias)
    torch.testing.assert_close(features, vit.norm(x)[:, 0])


@pytest.mark.parametrize(("layers", "chosen"), [("all", [0, 1, 2]), ("1,3", [0, 2])])
def test_added_prompts_go_into_each_chosen_block(
    encoder: Encoder, layers: str, chosen: list[int]
) -> None:
    model, vit = adapt(encoder, "vp", 3, {"layers": layers}).double(), encoder.model
    disturb(model)
    pixels = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    features = encoder(pixels)
    model.remove()
    x, prompts = (
        vit._pos_embed(vit.patch_embed(pixels)),
        dict(zip(chosen, model.prompts, strict=True)),
    )
    for i, block in enumerate(vit.blocks):
        x = block(x + prompts[i] if i in prompts else x)
    torch.testing.assert_close(features, vit.norm(x)[:, 0])


@pytest.mark.parametrize("name", ["vpt", "vp"])
def test_prompts_of_tokens_start_as_jia_et_al_have_it(encoder: Encoder, name: str) -> None:
    """Uniform within sqrt(6 / (3 p^2 + D)): p = 8, D = 48."""
    bound = (6 / (3 * 8**2 + 48)) ** 0.5
    values = torch.cat([p.detach().flatten() for p in adapt(encoder, name, 3).prompts])
    assert values.abs().max() <= bound
    assert float(values.std()) == pytest.approx(bound / 3**0.5, rel=0.1)
    for init, deviation in (("normal", 0.02), ("zeros", 0)):
        prompts = adapt(encoder, name, 3, {"init": init}).prompts
        values = torch.cat([p.detach().flatten() for p in prompts])
        assert float(values.std()) == pytest.approx(deviation, rel=0.1)


@pytest.mark.parametrize(
    ("init", "deviation"), [("kaiming", (1 / 48) ** 0.5 / 3**0.5), ("gaussian", 1 / 8)]
)
def test_loras_lower_matrix_starts_as_its_code_or_its_paper_has_it(
    encoder: Encoder, init: str, deviation: float
) -> None:
    """Kaiming's uniform with a slope of sqrt(5), within 1 / sqrt(D); peft's Gaussian of 1 / r."""
    model = adapt(encoder, "lora", 3, {"init": init})
    parts = {end: torch.cat([p.detach().flatten() for n, p in model.named_parameters() if end in n])
             for end in ("lora_A", "lora_B")}  # fmt: skip
    assert float(parts["lora_A"].std()) == pytest.approx(deviation, rel=0.1)
    assert not parts["lora_B"].any()


def test_tokens_and_embedded_prompts_are_both_there(encoder: Encoder) -> None:
    """With its gates wide open it is VPT."""
    vpt, pixels = adapt(encoder, "vpt", 3, {"length": 5}), torch.randn(2, 3, 32, 32)
    disturb(vpt)
    prompts = [prompt.detach().clone() for prompt in vpt.prompts]
    expected = encoder(pixels)
    vpt.remove()
    both = adapt(encoder, "vpt-ept", 3, {"length": 5})
    with torch.no_grad():
        for own, prompt in zip(both.prompts, prompts, strict=True):
            own.copy_(30 * prompt)
        gated = encoder(pixels)
        for logits in both.handle.parameters():
            assert logits.shape == (1 + 5 + 16,)
            logits.fill_(-torch.inf)
    torch.testing.assert_close(encoder(pixels), expected)
    assert not torch.allclose(gated, expected, rtol=1e-2)


def test_vpt_serves_rotary_embeddings() -> None:
    backbone = timm.create_model("eva02_tiny_patch14_224", num_classes=0, depth=2, img_size=56)
    encoder = Encoder(backbone, "eva", Preprocessing((56, 56), (0.5,) * 3, (0.5,) * 3))
    model = adapt(encoder, "vpt", 3, {"length": 4, "layers": "2"})
    assert [block.attn.num_prefix_tokens for block in backbone.blocks] == [1, 5]
    assert model(torch.randn(2, 3, 56, 56)).shape == (2, 3)
    model.remove()
    assert [block.attn.num_prefix_tokens for block in backbone.blocks] == [1, 1]
    assert backbone(torch.randn(1, 3, 56, 56)).shape == (1, 192)


@pytest.mark.parametrize(("size", "layers", "tokens", "width"), [
    ("vit_base_patch16_224", 12, 197, 768), ("vit_large_patch16_224", 24, 197, 1024),
])  # fmt: skip
def test_trainable_parameters_at_the_size_of_the_paper(
    size: str, layers: int, tokens: int, width: int
) -> None:
    """The real architectures, without memory for their weights."""
    with torch.device("meta"):
        check_trainable_parameters(size, layers, tokens, width)


def check_trainable_parameters(size: str, layers: int, tokens: int, width: int) -> None:
    backbone = timm.create_model(size, num_classes=0)
    real = Encoder(backbone, size, Preprocessing((224, 224), (0.5,) * 3, (0.5,) * 3))
    real.__dict__ |= {"width": width, "fingerprint": "of nothing"}
    head = width * 19 + 19
    linear = adapt(real, "linear", 19)
    assert linear.trainable_count() == head
    block = 12 * width**2 + 13 * width  # qkv, projection, MLP of ratio 4, two norms
    own = sum(p.numel() for p in backbone.parameters())
    biases = layers * (3 + 1 + 4 + 1 + 2) * width + 2 * width  # and patch embedding, final norm
    table = (
        ("vpt", {"length": 10}, layers * 10 * width),
        ("vpt", {"length": 100, "layers": "first"}, 100 * width),
        ("vpt", {"length": 100, "layers": "9-12"}, 4 * 100 * width),
        ("vpt-ept", {"length": 5}, layers * (5 * width + tokens + 5)),
        ("vp", {}, layers * tokens * width),
        ("lora", {"rank": 1}, layers * 2 * 2 * width),
        ("lora", {"rank": 64}, layers * 2 * 2 * width * 64),
        ("dora", {"rank": 8}, layers * (2 * 2 * width * 8 + 2 * width)),
        ("ia3", {}, layers * (width + width + 4 * width)),
        ("adapter", {"reduction": 8}, layers * (2 * width * width // 8 + width // 8 + width)),
        ("adapter", {"reduction": 64}, layers * (2 * width * width // 64 + width // 64 + width)),
        ("bias", {}, biases),
        ("norm", {}, (2 * layers + 1) * 2 * width),
        ("partial", {"k": 1}, block),
        ("partial", {"k": 2}, 2 * block),
        ("mlp", {"k": 2}, width**2 + width),
        ("mlp", {"k": 3}, 2 * (width**2 + width)),
        ("full", {}, own),
    )
    assert {name for name, *_ in table} == {*TRAINED} - {"linear", "ept"}  # which have their own
    for name, changes, count in table:
        model = adapt(real, name, 19, changes)
        assert model.trainable_count() == head + count, (name, changes)
        model.remove()
    for settings, prompts in (
        ({"length": 100}, layers * tokens * 100),
        ({"length": 100, "layers": "first"}, tokens * 100),
        ({"length": 20}, layers * tokens * 20),
        ({"length": 100, "collapsed": True}, layers * tokens),
    ):
        ept = adapt(real, "ept", 19, settings)
        assert ept.trainable_count() == head + prompts
        kept = ept.trained_state()
        merged = sum(t.numel() for name, t in kept.items() if name.startswith("prompt."))
        assert merged == (tokens if settings.get("layers") == "first" else layers * tokens)
        if size == "vit_base_patch16_224":
            assert merged * 4 < 16_000  # bytes without the head
        ept.remove()


def test_a_folded_head_is_the_same_head() -> None:
    head, features = LinearHead(5, 3), torch.randn(20, 5) * 4 + 2
    head.standardise(features)
    plain = LinearHead(5, 3)
    plain.load_folded(head.folded())
    torch.testing.assert_close(plain(features), head(features))
    standardised = (features - head.mean) / head.scale
    assert standardised.mean(0).abs().max() < 1e-5
    with pytest.raises(InputError, match="not those of a head for 4 features"):
        LinearHead(4, 3).load_folded(head.folded())


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [("nothing", {}, "use one of adapter, bias"),
     ("linear", {"length": 3}, "no setting length .*none.*one of ept, vpt"),
     ("lora", {"ranks": 3}, "no setting ranks .*rank, alpha, init.$"),
     ("ept", {"length": 0}, "at least 1"), ("ept", {"way": "divide"}, "concat"),
     ("ept", {"layers": "2-9"}, "layers 1 to 3"), ("ept", {"layers": "x"}, "cannot be read"),
     ("vpt", {"layers": "4"}, "layers 1 to 3"),
     ("ept", {"collapsed": True, "way": "add"}, "only the way 'concat'")],
)  # fmt: skip
def test_clear_errors(encoder: Encoder, name: str, settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        adapt(encoder, name, 3, settings)


def test_a_method_has_a_file_of_its_own() -> None:
    assert len({method.__module__ for method in METHODS.values()}) == len(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_a_search_can_come_upon_the_defaults(name: str) -> None:
    defaults = METHODS[name].Settings().model_dump()
    for setting, choices in METHODS[name].search.items():
        assert defaults[setting] in choices
        for choice in choices:
            METHODS[name].Settings(**{setting: choice})


@pytest.mark.parametrize("backbone", ["eva02_tiny_patch14_224", "beit_base_patch16_224"])
@pytest.mark.parametrize("name", ["lora", "ia3"])
def test_a_fused_projection_with_biases_beside_it_is_split(backbone: str, name: str) -> None:
    model = timm.create_model(backbone, num_classes=0, depth=1)
    attention = model.blocks[0].attn
    for bias in (attention.q_bias, attention.v_bias):
        nn.init.normal_(bias)
    encoder = Encoder(model, backbone, Preprocessing((224, 224), (0.5,) * 3, (0.5,) * 3))
    pixels = torch.randn(1, 3, 224, 224)
    before, keys = encoder(pixels), list(encoder.state_dict())
    adapted = adapt(encoder, name, 2)
    torch.testing.assert_close(encoder(pixels), before, rtol=1e-4, atol=1e-5)
    adapted.remove()
    torch.testing.assert_close(encoder(pixels), before, rtol=1e-5, atol=1e-6)
    assert list(encoder.state_dict()) == keys
    assert attention.qkv_bias_separate is False


def test_keys_are_untouched_by_lora(encoder: Encoder) -> None:
    """Inside a fused projection: what is added to queries and values leaves keys as they were."""
    attention = encoder.blocks[0].attn
    tokens = torch.randn(2, 5, 48)
    before = attention.qkv(tokens).chunk(3, dim=-1)
    disturb(adapt(encoder, "lora", 3))
    query, key, value = attention.qkv(tokens).chunk(3, dim=-1)
    torch.testing.assert_close(key, before[1])
    assert (query - before[0]).abs().max() > 1e-3
    assert (value - before[2]).abs().max() > 1e-3


def test_alpha_scales_what_lora_adds(encoder: Encoder) -> None:
    """By alpha / r, written out: W x + (alpha / r) B A x."""
    model = adapt(encoder, "lora", 3, {"rank": 4, "alpha": 6.0})
    disturb(model)
    layer = encoder.blocks[1].attn.qkv.v_proj
    down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    tokens = torch.randn(2, 5, 48)
    expected = layer.base_layer(tokens) + 6.0 / 4 * tokens @ down.T @ up.T
    torch.testing.assert_close(layer(tokens), expected)


def test_an_encoder_that_takes_no_more_tokens_is_refused_by_vpt() -> None:
    backbone = timm.create_model("vit_relpos_small_patch16_224", num_classes=0, depth=1)
    encoder = Encoder(backbone, "relpos", Preprocessing((224, 224), (0.5,) * 3, (0.5,) * 3))
    with pytest.raises(InputError, match="no tokens beside its own"):
        adapt(encoder, "vpt", 2)
    assert backbone(torch.randn(1, 3, 224, 224)).shape == (1, 384)


def test_mlp_is_linear_layers_on_standardised_features(encoder: Encoder) -> None:
    """Written out in float64; and features are computed once, since none of them change."""
    model, features = adapt(encoder, "mlp-3", 3), torch.randn(20, 48) * 4 + 2
    model.head.standardise(features)
    assert not model.trains_encoder
    x = (features.double() - features.double().mean(0)) / (
        features.double().std(0, correction=0) + 1e-3
    )
    first, second, last = (m for m in model.head if isinstance(m, nn.Linear))
    for layer in (first, second):
        x = (x @ layer.weight.double().T + layer.bias.double()).relu()
    x = x @ last.weight.double().T + last.bias.double()
    torch.testing.assert_close(model.logits(features).double(), x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["ept", "vpt", "vp"])
def test_frozen_prompts_train_the_head_alone(encoder: Encoder, name: str) -> None:
    model = adapt(encoder, name, 3, {"frozen": True})
    assert model.trainable_count() == 48 * 3 + 3
    assert not model.trains_encoder
    prompts = {k: t for k, t in model.trained_state().items() if k.startswith("prompt")}
    assert prompts  # and are kept: they are drawn, and act
    plain = adapt(encoder, "linear", 3).encoder(torch.ones(1, 3, 32, 32))
    model.remove()
    assert not torch.allclose(plain, encoder(torch.ones(1, 3, 32, 32)))


def test_k_may_stand_in_the_name(encoder: Encoder) -> None:
    assert adapt(encoder, "mlp-2", 3).trainable_count() == 48 * 48 + 48 + 48 * 3 + 3
    assert adapt(encoder, "partial-2", 3).settings.k == 2
