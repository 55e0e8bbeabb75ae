"""What is computed once, or not at all: the same features, gradients and training as without it."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode
from torchvision.transforms import v2

from medept.classifier.classifier import FewShotClassifier
from medept.encoders.encoder import Encoder
from medept.encoders.preprocessing import Preprocessing
from medept.errors import InputError
from medept.methods import AdaptedEncoder, adapt, trained_of
from medept.training import plan, views
from medept.training.cache import TensorCache
from medept.training.device import make_accelerator
from medept.training.inference import encode_images
from medept.training.loop import train
from medept.training.prefix import Prefix, find_prefix
from medept.training.recipes import make_recipe
from medept.training.views import Views

transformers = pytest.importorskip("transformers")

LIBRARIES = ["timm", "transformers"]
UPPER = [
    ("partial", {}),
    ("partial", {"k": 2}),
    ("ept", {"layers": "3"}),
    ("ept", {"layers": "2-3"}),
    ("ept", {}),
    ("ept", {"collapsed": True, "per_head": True}),
    ("ept", {"layers": "2-3", "way": "multiply_concat"}),
    ("vpt", {"layers": "2-3", "length": 3}),
    ("vpt", {"layers": "2", "length": 3}),
    ("vp", {"layers": "3"}),
]
IMAGES = [np.random.default_rng(i).integers(0, 255, (40, 40, 3), np.uint8) for i in range(6)]
TARGETS = np.array([0, 1, 2, 0, 1, 2])
PREPROCESSING = Preprocessing((32, 32), (0.5,) * 3, (0.5,) * 3)


def make_encoder(library: str) -> Encoder:
    torch.manual_seed(0)
    model: torch.nn.Module
    if library == "timm":
        model = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=3,
                                  embed_dim=48, num_heads=3, num_classes=0)  # fmt: skip
    else:
        model = transformers.ViTModel(
            transformers.ViTConfig(hidden_size=48, num_hidden_layers=3, num_attention_heads=3,
                      intermediate_size=96, image_size=32, patch_size=8)
        )  # fmt: skip
    return Encoder(model, library, PREPROCESSING)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("first", [1, 2])
def test_going_on_from_stored_tokens_gives_the_features(library: str, first: int) -> None:
    encoder, pixels = make_encoder(library), torch.randn(4, 3, 32, 32)
    expected = encoder(pixels)
    prefix = Prefix(encoder, first)
    state = prefix.encode(pixels)
    with prefix.resumed():
        torch.testing.assert_close(encoder(prefix.feed(state)), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(encoder(pixels), expected)


@pytest.mark.parametrize(
    ("method", "settings", "first"),
    [("partial", {}, 2), ("vpt", {"layers": "2-3"}, 1), ("ept", {"layers": "2-3"}, 1),
     ("ept", {}, 0)],
)  # fmt: skip
def test_what_is_kept_is_not_computed_again(method: str, settings: dict, first: int) -> None:
    """By PyTorch's count of operations, module by module."""
    model = adapt(make_encoder("timm"), method, 3, settings)
    prefix = find_prefix(model)
    assert prefix is not None
    state = prefix.encode(torch.randn(4, 3, 32, 32))

    def operations(batch: torch.Tensor) -> dict[str, int]:
        with FlopCounterMode(display=False) as counter:
            model.features(batch)
        counted = counter.get_flop_counts().items()
        return {name.partition("model.")[2]: sum(each.values()) for name, each in counted}

    whole = operations(torch.randn(4, 3, 32, 32))
    with prefix.resumed():
        operations(prefix.feed(state))
        found = operations(prefix.feed(state))
    kept = ["patch_embed", *(f"blocks.{i}" for i in range(first))]
    kept += [f"blocks.{first}.attn.qkv"] if method == "ept" else []
    assert all(whole[name] > 0 and not found.get(name, 0) for name in kept)
    assert found["blocks.2"] > 0


SIZES = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 32,
         "intermediate_size": 96, "patch_size": 8}  # fmt: skip


def make_model(name: str) -> torch.nn.Module:
    if name == "open_clip":
        open_clip = pytest.importorskip("open_clip")
        return open_clip.model.VisionTransformer(
            image_size=32, patch_size=8, width=48, layers=2, heads=4, mlp_ratio=2.0, output_dim=32,
        )  # fmt: skip
    library, _, kind = name.partition(":")
    if library == "transformers":
        config = getattr(transformers, f"{kind}Config")(**SIZES)
        return getattr(transformers, f"{kind}Model")(config)
    return timm.create_model(
        library, img_size=32, patch_size=8, depth=2, embed_dim=48, num_heads=3, num_classes=0,
        **({"global_pool": kind} if kind else {}),
    )  # fmt: skip


READ = {
    "vit_tiny_patch16_224:token": 1, "vit_tiny_patch16_224:avg": 17,
    "deit_tiny_distilled_patch16_224": 18, "vit_tiny_patch16_224:map": 17,
    "eva02_tiny_patch14_224:token": 1, "transformers:ViT": 1, "transformers:Dinov2": 1,
    "transformers:CLIPVision": 1, "transformers:SiglipVision": 16, "open_clip": 1,
}  # fmt: skip
"""Tokens that are read of the last block, by model."""


@pytest.mark.parametrize("name", READ)
def test_the_last_block_computes_what_is_read(name: str) -> None:
    model = make_model(name)
    encoder, seen = Encoder(model, name, Preprocessing((32, 32), (0.5,) * 3, (0.5,) * 3)), []
    pixels = torch.randn(2, 3, 32, 32)
    assert encoder(pixels).isfinite().all()
    last = encoder.blocks[-1].mlp
    last.register_forward_hook(lambda m, given, out: seen.append(out.shape[1]))
    encoder(pixels)
    assert seen == [READ[name]]


@pytest.mark.parametrize(("method", "settings"), [("partial", {}), ("ept", {"layers": "3"})])
def test_nothing_is_kept_for_gradients_that_nobody_asks_for(
    method: str, settings: dict[str, Any]
) -> None:
    """No autograd below the lowest trained layer, and none of a frozen layer's inputs."""
    model = adapt(make_encoder("timm"), method, 3, settings)
    blocks, inputs_seen, saved = model.encoder.model.blocks, {}, []
    for name, module in (("block", blocks[2]), ("fc1", blocks[2].mlp.fc1)):
        module.register_forward_pre_hook(lambda m, given, name=name: inputs_seen.update(
            {name: given[0]}))  # fmt: skip
    keep = lambda tensor: saved.append(tensor.data_ptr()) or tensor  # noqa: E731
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(torch.randn(2, 3, 32, 32)).sum()
    assert loss.requires_grad
    assert not inputs_seen["block"].requires_grad
    frozen = method == "ept"
    assert inputs_seen["fc1"].requires_grad
    assert (inputs_seen["fc1"].data_ptr() in saved) != frozen


def train_once(library: str, method: str, settings: dict[str, Any]) -> dict[str, torch.Tensor]:
    return fitted(make_encoder(library), method, settings)[0]


def fitted(
    encoder: Encoder, method: str, settings: dict[str, Any], precision: str = "float32"
) -> tuple[dict[str, torch.Tensor], np.ndarray]:
    """What was trained, and the loss of every epoch."""
    if precision == "bfloat16":
        encoder.cast_to_bfloat16(except_for=trained_of(encoder, method, settings))
    model = adapt(encoder, method, 3, settings)
    recipe = make_recipe("medept", method, epochs=4, views=2, batch_size=4, lr=0.01)
    history = train(model, Views(IMAGES, encoder.preprocessing, crop_scale=0.5), TARGETS, recipe,
                    make_accelerator("cpu", precision))  # fmt: skip
    return model.trained_state(), np.array([row["loss"] for row in history])


def nothing_cached(model: AdaptedEncoder, *_: Any) -> plan.Plan:
    """Every view is drawn and run whole in each step."""
    return plan.Plan(plan.FromPixels(model), cached=False)


@contextmanager
def without(shortcut: str) -> Iterator[None]:
    """Training as it is otherwise."""
    name, instead = {
        "prefix": ("medept.training.inputs.make_plan", nothing_cached),
        "class row": ("medept.encoders.encoder.class_token_only", lambda *_: nullcontext()),
        "held": ("medept.encoders.encoder.Encoder.cast_to_bfloat16", lambda *_, **__: None),
        "ahead": (
            "medept.training.loop.prefetch",
            lambda function, items, **_: map(function, items),
        ),
    }[shortcut]
    with patch(name, instead):
        yield


ALL = [("linear", {}), ("mlp", {}), ("partial", {}), ("ept", {"layers": "2"}), ("ept", {}),
       ("vpt", {"layers": "2", "length": 3})]  # fmt: skip


@pytest.mark.parametrize("pool", ["token", "avg", "map"])
@pytest.mark.parametrize("shortcut", ["prefix", "class row", "ahead"])
@pytest.mark.parametrize(("method", "settings"), ALL)
def test_each_shortcut_changes_nothing(
    method: str, settings: dict[str, Any], shortcut: str, pool: str
) -> None:
    """Losses of all epochs and what was trained, with it and without, in float32."""
    state, losses = fitted(pooled(pool), method, settings)
    with without(shortcut):
        slow_state, slow_losses = fitted(pooled(pool), method, settings)
    np.testing.assert_allclose(losses, slow_losses, rtol=1e-5)
    for name, tensor in slow_state.items():
        torch.testing.assert_close(state[name], tensor, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("shortcut", ["prefix", "class row", "held"])
@pytest.mark.parametrize(("method", "settings"), ALL)
def test_each_shortcut_changes_little_in_bfloat16(
    method: str, settings: dict[str, Any], shortcut: str
) -> None:
    """Losses of all epochs; not at all where weights are held in what they would be cast to."""
    losses = fitted(pooled("token"), method, settings, "bfloat16")[1]
    with without(shortcut):
        slow = fitted(pooled("token"), method, settings, "bfloat16")[1]
    if shortcut == "held":
        np.testing.assert_array_equal(losses, slow)
    else:
        np.testing.assert_allclose(losses, slow, rtol=0.02)


def test_a_gate_is_computed_in_float32() -> None:
    """Though what it scales is in bfloat16: rounded once, in the end."""
    model = adapt(make_encoder("timm"), "ept", 3)
    prompt = model.first_changed_prompt()
    assert prompt is not None
    attended, logsumexp = torch.randn(2, 3, 17, 16).bfloat16(), 3 + torch.randn(2, 3, 17)
    gate = torch.sigmoid(logsumexp.double() - prompt.sink(17).double())
    expected = (attended.double() * gate[..., None]).bfloat16()
    with torch.autocast("cpu"):
        ours = prompt.gate(attended, logsumexp, 17)
    assert ours.dtype == torch.bfloat16
    assert (ours != expected).double().mean() < 0.01


def pooled(pool: str) -> Encoder:
    torch.manual_seed(0)
    return Encoder(make_model(f"vit_tiny_patch16_224:{pool}"), pool, PREPROCESSING)


@pytest.mark.parametrize("prompted", [False, True])
@pytest.mark.parametrize("library", LIBRARIES)
def test_the_last_block_asks_for_the_class_token_alone(library: str, prompted: bool) -> None:
    """One query in its attention, and its products counted: keys and values of 17 tokens, queries,
    projection and MLP of one."""
    encoder = make_encoder(library)
    model = adapt(encoder, "ept" if prompted else "linear", 3)
    pixels, queries = torch.randn(4, 3, 32, 32), []
    model.features(pixels)  # which is tried first

    def attended(query: tuple[int, ...], *_: Any, **__: Any) -> int:
        queries.append(query[-2])
        return 0

    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping={attention: attended}) as c:
        model.features(pixels)
    assert queries == [17, 17, 1]
    counted = {name: sum(each.values()) for name, each in c.get_flop_counts().items()}
    names = {module: name for name, module in encoder.named_modules()}
    last = next(v for k, v in counted.items() if k.endswith(names[encoder.blocks[-1]]))
    width, hidden = 48, 192 if library == "timm" else 96
    assert last == 2 * 4 * width * (17 * 2 * width + 2 * width + 2 * hidden)


@pytest.mark.parametrize(("method", "settings"), [*ALL, ("probe", {})])
def test_parts_of_a_set_are_trained_on_their_own_images(
    method: str, settings: dict[str, Any]
) -> None:
    """Two that share what is kept of the whole set, against each by itself with nothing kept."""
    recipe = make_recipe("medept", method, epochs=4, views=2, batch_size=4, lr=0.01)
    accelerator = make_accelerator("cpu", "float32")
    whole = Views(IMAGES, PREPROCESSING, crop_scale=0.5, seed=1)

    def state(rows: list[int], kept: TensorCache) -> dict[str, torch.Tensor]:
        model = adapt(make_encoder("timm"), method, 3, settings)
        train(model, whole.subset(np.array(rows)), TARGETS[rows], recipe, accelerator, cache=kept)
        return model.trained_state()

    with TensorCache() as kept:
        for rows in ([5, 1, 3, 0], [2, 4, 0]):
            ours = state(rows, kept)
            with without("prefix"), TensorCache() as own:
                if method == "probe":
                    alone = Views([IMAGES[i] for i in rows], PREPROCESSING)
                    model = adapt(make_encoder("timm"), method, 3, settings)
                    train(model, alone, TARGETS[rows], recipe, accelerator)
                    expected = model.trained_state()
                else:
                    expected = state(rows, own)
            for name, tensor in expected.items():
                torch.testing.assert_close(ours[name], tensor, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("fits", "kept"), [(1, False), (3, True)])
def test_views_that_are_seen_once_are_kept_for_other_fits(fits: int, kept: bool) -> None:
    model = adapt(make_encoder("timm"), "ept", 3, {"layers": "3"})
    recipe, accelerator = make_recipe("paper", "ept"), make_accelerator("cpu", "float32")
    assert plan.make_plan(model, recipe, accelerator, fits).cached == kept


def test_images_are_read_in_the_background(monkeypatch: pytest.MonkeyPatch) -> None:
    """In training, in encoding and in evaluation, which runs in large batches without autograd."""
    readers, batches, read = set(), [], Views._read

    def noting(self: Views, *args: Any, **kwargs: Any) -> Any:
        readers.add(threading.current_thread().name.rpartition("_")[0])
        return read(self, *args, **kwargs)

    monkeypatch.setattr(Views, "_read", noting)
    for shortcut in (nullcontext(), without("prefix")):
        with shortcut:
            train_once("timm", "ept", {})
    encoder = make_encoder("timm")
    encoder.register_forward_pre_hook(
        lambda _, given: batches.append((len(given[0]), torch.is_inference_mode_enabled()))
    )
    many = Views([IMAGES[i % 6] for i in range(40)], encoder.preprocessing)
    encode_images(encoder, many, make_accelerator("cpu", "float32"))
    assert readers == {"prefetch"}
    assert batches == [(32, True), (8, True)]


class Bypassed(torch.nn.Module):
    """A ViT with a second path from the pixels to the features."""

    def __init__(self) -> None:
        super().__init__()
        self.vit, self.beside = make_encoder("timm").model, torch.nn.Conv2d(3, 48, 8)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.vit(pixels) + 0.01 * self.beside(pixels).amax((-2, -1))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_what_goes_past_the_blocks_is_noticed(precision: str) -> None:
    model = adapt(Encoder(Bypassed(), "bypassed", PREPROCESSING), "ept", 3)
    if precision == "bfloat16":
        model.encoder.cast_to_bfloat16()
    with make_accelerator("cpu", precision).autocast():
        assert find_prefix(model) is None


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize(("method", "settings"), UPPER)
def test_training_is_the_same_with_and_without(
    library: str, method: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Any] = []
    monkeypatch.setattr(plan, "find_prefix", lambda m: found.append(find_prefix(m)) or found[-1])
    ours = train_once(library, method, settings)
    assert found[0] is not None
    monkeypatch.setattr(plan, "find_prefix", lambda model: None)
    whole = train_once(library, method, settings)
    for name, tensor in whole.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize(("method", "settings"), UPPER)
def test_in_bfloat16_as_much_is_computed_once(
    library: str, method: str, settings: dict[str, Any]
) -> None:
    encoder = make_encoder(library)
    encoder.cast_to_bfloat16(except_for=trained_of(encoder, method, settings))
    model = adapt(encoder, method, 3, settings)
    with make_accelerator("cpu", "bfloat16").autocast():
        assert find_prefix(model) is not None


@pytest.mark.parametrize(("method", "settings"), [("linear", {}), ("partial", {}), ("ept", {})])
def test_a_file_on_the_disk_serves_as_memory_does(
    method: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = train_once("timm", method, settings)
    monkeypatch.setattr("medept.training.cache.IN_MEMORY", 0)
    for name, tensor in train_once("timm", method, settings).items():
        assert torch.equal(tensor, kept[name])
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=10))
    with pytest.raises(InputError, match="TMPDIR"):
        train_once("timm", method, settings)


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("full", {}),
        ("bias", {}),
        ("ept", {"way": "multiply_concat"}),
        ("vpt", {"length": 3}),
        ("vpt", {"length": 3, "layers": "first"}),
        ("adapter", {}),
        ("lora", {}),
    ],
)
def test_nothing_is_passed_over_that_training_changes(
    method: str, settings: dict[str, Any]
) -> None:
    assert find_prefix(adapt(make_encoder("timm"), method, 3, settings)) is None


def test_stages_of_unlike_sizes_are_gone_on_from_too() -> None:
    """Swin merges patches between its stages, outside the blocks that are passed over."""
    model = timm.create_model(
        "swin_tiny_patch4_window7_224", num_classes=0, img_size=56, window_size=7,
        depths=(1, 1), embed_dim=24, num_heads=(2, 2),
    )  # fmt: skip
    encoder = Encoder(model, "swin", Preprocessing((56, 56), (0.5,) * 3, (0.5,) * 3))
    pixels = torch.randn(2, 3, 56, 56)
    adapted = adapt(encoder, "ept", 3, {"layers": "2"})
    expected = adapted.encoder(pixels)
    prefix = find_prefix(adapted)
    assert prefix is not None
    tokens = prefix.encode(pixels)
    with prefix.resumed():
        torch.testing.assert_close(encoder(prefix.feed(tokens)), expected)


@pytest.mark.parametrize("library", LIBRARIES)
def test_in_bfloat16_too_the_last_block_computes_what_is_read(library: str) -> None:
    """Though the encoder is tried there first."""
    encoder = make_encoder(library)
    with make_accelerator("cpu", "bfloat16").autocast():
        encoder(torch.randn(2, 3, 32, 32))
    assert encoder._last_block is not None


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("method", ["full", "ept", "vpt", "lora", "adapter", "norm", "partial"])
def test_the_last_block_for_the_class_token_alone_is_exact(method: str, library: str) -> None:
    """Features and gradients, float64, against the library's own whole forward."""
    encoder = make_encoder(library).double()
    model = adapt(encoder, method, 3, {"length": 4} if method in ("vpt", "ept") else {}).double()
    trained = [p for p in encoder.parameters() if p.requires_grad] or [
        p for n, p in model.named_parameters() if p.requires_grad and not n.startswith("head")
    ]
    pixels = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    assert encoder._last_block is not None
    whole = encoder.model(pixels)
    whole = whole if library == "timm" else whole.pooler_output
    features = {"whole": whole, "ours": encoder(pixels)}
    torch.testing.assert_close(features["ours"], features["whole"], rtol=1e-12, atol=1e-12)
    weight = torch.randn_like(features["whole"])
    pairs = zip(
        *(torch.autograd.grad((f * weight).sum(), trained, allow_unused=True)
          for f in features.values()), strict=True)  # fmt: skip
    for whole, ours in pairs:
        if whole is not None:
            torch.testing.assert_close(ours, whole, rtol=1e-10, atol=1e-12)


def test_the_last_block_runs_whole_where_all_tokens_are_read() -> None:
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, embed_dim=48, num_heads=3,
        num_classes=0, global_pool="avg",
    )  # fmt: skip
    encoder = Encoder(model, "pooled", Preprocessing((32, 32), (0.5,) * 3, (0.5,) * 3))
    pixels = torch.randn(2, 3, 32, 32)
    assert torch.equal(encoder(pixels), model(pixels))


def test_part_of_a_set_has_the_views_of_the_whole() -> None:
    preprocessing = make_encoder("timm").preprocessing
    whole = Views(IMAGES, preprocessing, crop_scale=0.5, seed=3)
    part = whole.subset(np.array([4, 1]))
    assert len(part) == 2
    assert len(part.whole()) == len(IMAGES)
    assert torch.equal(part.random_view(0, 2), whole.random_view(4, 2))
    assert torch.equal(
        part.random_views(1, 3), torch.stack([whole.random_view(1, v) for v in range(3)])
    )
    assert torch.equal(part.whole().evaluation_view(1), whole.evaluation_view(1))


def test_a_view_is_what_torchvision_draws_from_its_seed() -> None:
    reference = v2.Compose([
        v2.RandomResizedCrop(32, scale=(0.3, 1.0), interpolation=v2.InterpolationMode.BICUBIC),
        v2.RandomHorizontalFlip(), v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True),
        v2.Normalize((0.5,) * 3, (0.5,) * 3),
    ])  # fmt: skip
    ours = Views(IMAGES, PREPROCESSING, crop_scale=0.3, seed=4)
    for number, view in ((0, 0), (0, 1), (5, 2), (3, 3)):
        torch.manual_seed(views._combine(4, number, view))
        expected = reference(Image.fromarray(IMAGES[number]))
        torch.manual_seed(1)
        assert torch.equal(ours.random_view(number, view), expected)


def test_folds_share_what_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The calibration's folds encode no random view again: it costs its held-out images alone."""
    seen: list[int] = []
    forward = Encoder.forward
    monkeypatch.setattr(Encoder, "forward", lambda self, x: seen.append(len(x)) or forward(self, x))
    monkeypatch.setattr("medept.classifier.fitting.estimate_cost", lambda *_: "")
    counts = {}
    for calibrate in ("none", "temperature"):
        seen.clear()
        FewShotClassifier(
            "vit_tiny_patch16_224", "linear", encoder_weights="random", image_size=32, epochs=10,
            calibrate=calibrate, device="cpu", precision="float32",
        ).fit(IMAGES, TARGETS)  # fmt: skip
        counts[calibrate] = sum(n for n in seen if n > 1)  # without the black example images
    assert counts["none"] == 8 * len(IMAGES)
    assert counts["temperature"] == counts["none"] + len(IMAGES)


@pytest.mark.parametrize(
    ("method", "settings", "shared"),
    [
        ("linear", {}, True),
        ("ept", {}, True),
        ("partial", {}, True),
        ("ept", {"frozen": True}, False),
    ],
)
def test_seeds_share_what_is_computed_once(
    method: str, settings: dict[str, Any], shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is what it would be by itself, on images whose views are all alike."""
    drawn: list[int] = []
    original = Views._draw

    def noting(self: Views, number: int, which: Iterable[int]) -> list[torch.Tensor]:
        drawn.append(number)
        return original(self, number, which)

    monkeypatch.setattr(Views, "_draw", noting)
    halves = np.random.default_rng(0).integers(0, 255, (6, 32, 16, 3), dtype=np.uint8)
    images = list(np.concatenate([halves, halves[:, :, ::-1]], axis=2))
    classifier = FewShotClassifier(
        method=method, settings=settings, image_size=32, epochs=10, calibrate="none", device="cpu",
        precision="float32", recipe_settings={"crop_scale": 1},
    )  # fmt: skip
    three = classifier.fit_seeds(images, TARGETS, [3, 4, 5])
    assert [one.info().views_seed for one in three] == [3, 3, 3]
    together, alone = len(drawn), []
    for one in three:
        drawn.clear()
        alone.append(classifier.set_params(seed=one.seed).fit(images, TARGETS).logits(images))
        np.testing.assert_allclose(one.logits(images), alone[-1], rtol=1e-4, atol=1e-4)
    assert together == (1 if shared else 3) * len(drawn)
    assert not np.allclose(alone[0], alone[1], atol=1e-2)


@pytest.mark.parametrize("method", ["linear", "partial", "full"])
def test_an_image_is_decoded_once_for_all_its_views(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However little room there is to keep it."""
    read: list[int] = []
    original = views.read_image
    monkeypatch.setattr(views, "read_image", lambda one: read.append(id(one)) or original(one))
    monkeypatch.setattr(views._DecodedImages, "room", 0)
    train_once("timm", method, {})
    assert sorted(read) == sorted(map(id, IMAGES))


def test_an_image_that_is_not_reduced_is_kept_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever is asked for first, the image as it is evaluated or a random view of it."""
    read: list[int] = []
    original = views.read_image
    monkeypatch.setattr(views, "read_image", lambda one: read.append(id(one)) or original(one))
    pictures = [Image.fromarray(image) for image in IMAGES[:2]]  # arrays are not kept again
    ours = Views(pictures, make_encoder("timm").preprocessing)
    ours.evaluation_view(0), ours.random_view(0, 0)
    ours.random_view(1, 0), ours.evaluation_view(1)
    assert read == list(map(id, pictures))
    assert views.MEMORY_FOR_DECODED_IMAGES - ours._decoded.room == 2 * 3 * 40 * 40


def test_large_images_are_reduced_before_views_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the views are of the whole picture, so that they can be compared, nothing is lost."""
    preprocessing = make_encoder("timm").preprocessing
    y, x = np.mgrid[:1152, :1152]
    waves = np.stack([np.sin(x / 60), np.cos(y / 45), np.sin((x + y) / 70)], axis=-1)
    noise = np.random.default_rng(0).normal(0, 20, waves.shape)
    large = Image.fromarray(np.clip(128 + 60 * waves + noise, 0, 255).astype(np.uint8))
    small = Image.fromarray(IMAGES[0])
    ours = Views([small, large], preprocessing)
    ours_small, ours_large = ours.random_views(0, 4), ours.random_views(1, 4)
    assert sum(image.width for image in ours._decoded.values()) == 40 + 1152 // 18
    monkeypatch.setattr(views, "CUT_FROM", float("inf"))
    whole = Views([small, large], preprocessing)
    assert torch.equal(ours_small, whole.random_views(0, 4))
    for one, other in zip(ours_large, whole.random_views(1, 4), strict=True):
        error = min((one - seen).abs().mean() for seen in (other, other.flip(-1)))
        assert error < 0.1 * one.std()
