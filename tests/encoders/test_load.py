"""Encoders by name, and weights from safetensors files alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from helpers import shared_data
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.data import create_transform, resolve_data_config

from medept import InputError, load_encoder
from medept.encoders import embedded

NAME = "vit_tiny_patch16_224"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_file(timm.create_model(NAME, num_classes=7).state_dict(), file)
    return file


def test_a_local_file_is_loaded_without_its_classifier(weights: Path) -> None:
    encoder = load_encoder(NAME, weights=weights)
    state = load_file(weights)
    assert all(torch.equal(t, state[n]) for n, t in encoder.model.state_dict().items())
    assert encoder.width == 192
    assert encoder.fingerprint == load_encoder(NAME, weights=weights).fingerprint
    assert encoder.fingerprint != load_encoder(NAME, weights="random").fingerprint


def test_evaluation_uses_the_encoders_own_transform(weights: Path) -> None:
    encoder = load_encoder(NAME, weights=weights)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8))
    own = create_transform(**resolve_data_config({}, model=encoder.model))
    assert torch.equal(encoder.preprocessing.evaluation()(image), own(image))


def test_another_image_size_interpolates_position_embeddings(weights: Path) -> None:
    encoder = load_encoder(NAME, weights=weights, image_size=96)
    assert encoder.preprocessing.size == (96, 96)
    assert encoder(torch.randn(1, 3, 96, 96)).shape == (1, 192)


def test_the_embedded_encoder_loads_and_fits_the_package() -> None:
    encoder = load_encoder()
    file = Path(embedded.__file__).with_name("encoder.safetensors")
    assert file.stat().st_size <= 12_000_000
    for size in (64, 96, 160):
        assert encoder(torch.randn(2, 3, size, size)).shape == (2, encoder.width)
    assert encoder.identity()["name"] == "embedded"


def test_damaged_embedded_weights_are_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Path(embedded.__file__).parent
    config = json.loads((home / "encoder.json").read_text()) | {"sha256": "0" * 64}
    (tmp_path / "encoder.json").write_text(json.dumps(config))
    (tmp_path / "encoder.safetensors").write_bytes((home / "encoder.safetensors").read_bytes())
    monkeypatch.setattr(embedded, "files", lambda _: tmp_path)
    with pytest.raises(InputError, match="SHA-256 differs"):
        embedded.load()


def bad_weights(folder: Path, kind: str, good: Path) -> Path:
    path = folder / ("w.pth" if kind == "pickle" else "w.safetensors")
    if kind == "pickle":
        torch.save(timm.create_model(NAME).state_dict(), path)
    elif kind == "truncated":
        path.write_bytes(good.read_bytes()[:5000])
    elif kind == "other model":
        save_file({"a": torch.zeros(2)}, path)
    elif kind == "not a number":
        state = load_file(good)
        save_file(state | {"norm.bias": state["norm.bias"] * torch.nan}, path)
    elif kind == "pickle renamed":
        torch.save({"a": torch.zeros(2)}, path)
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [("missing", "no such file"), ("pickle", "safetensors files only"),
     ("truncated", "not a readable"), ("pickle renamed", "not a readable"),
     ("other model", "another model"), ("not a number", "no numbers")],
)  # fmt: skip
def test_bad_weights(tmp_path: Path, weights: Path, kind: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_encoder(NAME, weights=bad_weights(tmp_path, kind, weights))


@pytest.mark.parametrize("name", ["vit_secret_patch3", "resnet5000", ""])
def test_unknown_names(name: str) -> None:
    with pytest.raises(InputError, match="medept encoders"):
        load_encoder(name)


def test_a_tag_that_timm_does_not_know() -> None:
    with pytest.raises(InputError, match=r"no weights 'typo' of .*: use one of augreg_in21k, "):
        load_encoder("vit_tiny_patch16_224.typo", weights="random")
    named = load_encoder("timm/vit_tiny_patch16_224.augreg_in21k", weights="random")
    assert named.name == "vit_tiny_patch16_224.augreg_in21k"


def test_a_size_that_does_not_fit(weights: Path) -> None:
    with pytest.raises(InputError, match="image_size="):
        load_encoder(NAME, weights=weights, image_size=8)


def test_real_pretrained_weights() -> None:
    file = shared_data("weights", "vit_tiny_patch16_224.fp16.safetensors")
    encoder = load_encoder(NAME, weights=file)
    assert all(p.dtype == torch.float32 for p in encoder.parameters())
    assert encoder.preprocessing.mean == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("name", [NAME, "swin_tiny_patch4_window7_224"])
def test_hub_weights_are_safetensors_and_nothing_else(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = timm.create_model(name, num_classes=1000)
    save_file(source.state_dict(), tmp_path / "model.safetensors")
    asked = []

    def download(repository: str, file: str) -> str:
        asked.append((repository, file))
        return str(tmp_path / file)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    state = load_encoder(name).model.state_dict()
    assert all(torch.equal(t, source.state_dict()[n]) for n, t in state.items())
    assert [file for _, file in asked] == ["model.safetensors"]
    assert asked[0][0].startswith(f"timm/{name}")


def test_open_clip_hub_weights_are_safetensors_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_clip = pytest.importorskip("open_clip")
    source = open_clip.create_model("ViT-S-32")
    save_file(source.state_dict(), tmp_path / "open_clip_model.safetensors")
    config = {"hf_hub": "somebody/clip/"}
    monkeypatch.setattr("open_clip.list_pretrained_tags_by_model", lambda _: ["tag"])
    monkeypatch.setattr("open_clip.get_pretrained_cfg", lambda *_: config)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda r, f: str(tmp_path / f))
    state = load_encoder("open_clip:ViT-S-32").model.state_dict()
    assert all(torch.equal(t, source.visual.state_dict()[n]) for n, t in state.items())


def test_an_open_clip_tower_computes_as_its_weights_were_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what open_clip knows of them: OpenAI's take another activation, SigLIP's other means."""
    open_clip = pytest.importorskip("open_clip")
    source = open_clip.create_model("ViT-S-32", force_quick_gelu=True).eval()
    save_file(source.state_dict(), tmp_path / "open_clip_model.safetensors")
    config = {"hf_hub": "somebody/clip/", "quick_gelu": True, "mean": (0.1, 0.2, 0.3),
              "std": (0.5, 0.6, 0.7), "interpolation": "bilinear"}  # fmt: skip
    monkeypatch.setattr("open_clip.list_pretrained_tags_by_model", lambda _: ["tag"])
    monkeypatch.setattr("open_clip.get_pretrained_cfg", lambda *_: config)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda r, f: str(tmp_path / f))
    encoder = load_encoder("open_clip:ViT-S-32")
    pixels = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        torch.testing.assert_close(encoder(pixels), source.visual(pixels), rtol=1e-4, atol=1e-5)
    seen = encoder.preprocessing
    assert (seen.mean, seen.std, seen.interpolation) == (*list(config.values())[2:4], "bilinear")


def test_a_transformers_processor_is_followed(tmp_path: Path) -> None:
    """Its interpolation, and what part of an image is cut out: pixels as it makes them."""
    transformers = pytest.importorskip("transformers")
    saved_vit("ViTModel", tmp_path)
    processor = transformers.CLIPImageProcessor(
        size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}, resample=2
    )
    processor.save_pretrained(tmp_path)
    seen = load_encoder(f"transformers:{tmp_path}").preprocessing
    assert (seen.size, seen.interpolation, seen.resized) == ((32, 32), "bilinear", (40, 40))
    ramp = np.linspace(0, 255, 80).astype(np.uint8)
    image = Image.fromarray(np.stack([np.tile(ramp, (80, 1))] * 3, axis=-1))
    theirs = processor(image, return_tensors="pt").pixel_values[0]
    torch.testing.assert_close(seen.evaluation()(image), theirs, rtol=0, atol=0.05)


@pytest.mark.parametrize("name", [NAME, "open_clip:ViT-S-32"])
def test_random_weights_are_the_same_at_each_call(name: str) -> None:
    if name.startswith("open_clip"):
        pytest.importorskip("open_clip")
    torch.manual_seed(1)
    first = load_encoder(name, weights="random")
    state = torch.get_rng_state()
    assert load_encoder(name, weights="random").fingerprint == first.fingerprint
    assert torch.equal(torch.get_rng_state(), state)


def test_an_unreachable_hub_is_an_error_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(repository: str, file: str) -> str:
        raise OSError("no route to host")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    with pytest.raises(InputError, match=r"no route to host.*encoder_weights="):
        load_encoder(NAME)


def saved_vit(kind: str, folder: Path):  # type: ignore[no-untyped-def]
    """A small model of transformers, saved with all that loading it by name asks for."""
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=3, intermediate_size=96,
        image_size=32, patch_size=8,
    )  # fmt: skip
    model = getattr(transformers, kind)(config).eval()
    model.save_pretrained(folder)
    size = {"height": 32, "width": 32}
    transformers.ViTImageProcessor(size=size).save_pretrained(folder)
    return model


@pytest.mark.parametrize("kind", ["ViTForImageClassification", "ViTModel"])
def test_two_loads_of_a_transformers_checkpoint_give_the_same_features(
    kind: str, tmp_path: Path
) -> None:
    """One with a pooler, and one without, which transformers would draw anew at each load."""
    source, pixels = saved_vit(kind, tmp_path), torch.randn(2, 3, 32, 32)
    first, second = (load_encoder(f"transformers:{tmp_path}") for _ in range(2))
    assert first.fingerprint == second.fingerprint
    assert torch.equal(first(pixels), second(pixels))
    if kind == "ViTModel":
        torch.testing.assert_close(first(pixels), source(pixels).pooler_output)
    else:
        torch.testing.assert_close(source.classifier(first(pixels)), source(pixels).logits)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_checkpoint_in_half_precision_is_computed_in_float32(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    """transformers gives a model the type of its checkpoint."""
    source, pixels = saved_vit("ViTModel", tmp_path), torch.randn(2, 3, 32, 32)
    source.to(dtype).save_pretrained(tmp_path)
    encoder = load_encoder(f"transformers:{tmp_path}")
    expected = source.float()(pixels).pooler_output
    torch.testing.assert_close(encoder(pixels), expected)
    encoder.cast_to_bfloat16()
    torch.testing.assert_close(encoder(pixels), expected, rtol=0.05, atol=0.05)


def test_a_transformers_checkpoint_that_lacks_weights_is_refused(tmp_path: Path) -> None:
    saved_vit("ViTModel", tmp_path)
    file = tmp_path / "model.safetensors"
    state = {n: t for n, t in load_file(file).items() if "layernorm_before.weight" not in n}
    save_file(state, file, {"format": "pt"})
    with pytest.raises(InputError, match=r"no weights of .*layernorm_before.weight"):
        load_encoder(f"transformers:{tmp_path}")


@pytest.mark.parametrize(
    ("prefix", "infix"),
    [
        ("module.", ""),
        ("_orig_mod.", ""),
        ("teacher.backbone.", ""),
        ("model.module.encoder.net.", ""),
        ("", "_checkpoint_wrapped_module."),
        ("module.", "_orig_mod."),
    ],
)
def test_what_frameworks_put_before_the_names_is_removed(
    prefix: str, infix: str, weights: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """However it is called; and the rest of a training state is left out, and said."""
    caplog.set_level("INFO", "medept")
    state = {
        prefix + name.replace("attn.", f"attn.{infix}"): tensor
        for name, tensor in load_file(weights).items()
    }
    if prefix == "teacher.backbone.":
        state |= {name.replace("teacher", "student"): t + 1 for name, t in state.items()}
    save_file(state, tmp_path / "named.safetensors")
    encoder = load_encoder(NAME, weights=tmp_path / "named.safetensors")
    assert encoder.fingerprint == load_encoder(NAME, weights=weights).fingerprint
    said = [record.getMessage() for record in caplog.records if "was removed" in record.msg]
    (line,) = said
    removed = " and ".join(repr(part) for part in (infix, prefix) if part)
    assert f"named.safetensors: {removed} was removed" in line
    assert ("others were left out" in line) == (prefix == "teacher.backbone.")


def test_two_models_in_one_file_are_refused_by_name(weights: Path, tmp_path: Path) -> None:
    state = load_file(weights)
    both = {f"{part}.{name}": t.clone() for part in ("left", "right") for name, t in state.items()}
    save_file(both, tmp_path / "both.safetensors")
    with pytest.raises(InputError, match=r"under several names, left\., right\."):
        load_encoder(NAME, weights=tmp_path / "both.safetensors")


@pytest.mark.parametrize("name", [NAME, "swin_tiny_patch4_window7_224", "test_vit"])
def test_weights_are_loaded_after_the_size_is_set(name: str, tmp_path: Path) -> None:
    """Those of that size to the bit, and those of the model's own size interpolated."""
    size = 96 if name != "swin_tiny_patch4_window7_224" else 112
    trained = timm.create_model(name, img_size=size, num_classes=0).eval()
    save_file(trained.state_dict(), tmp_path / "trained.safetensors")
    encoder = load_encoder(name, weights=tmp_path / "trained.safetensors", image_size=size)
    assert encoder.preprocessing.size == (size, size)
    pixels = torch.randn(2, 3, size, size)
    with torch.inference_mode():
        torch.testing.assert_close(encoder(pixels), trained(pixels))


def test_position_embeddings_of_another_size_say_so(tmp_path: Path) -> None:
    trained = timm.create_model("test_vit", img_size=96, num_classes=0)
    save_file(trained.state_dict(), tmp_path / "trained.safetensors")
    for size in (None, 128):
        with pytest.raises(InputError, match=r"images of another size.*image_size="):
            load_encoder("test_vit", weights=tmp_path / "trained.safetensors", image_size=size)
    save_file({"a": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="belong to another model"):
        load_encoder("test_vit", weights=tmp_path / "other.safetensors")


@pytest.mark.parametrize("size", [None, 64])
def test_open_clip_weights_are_interpolated_to_a_size(size: int | None, tmp_path: Path) -> None:
    open_clip = pytest.importorskip("open_clip")
    torch.manual_seed(0)
    source = open_clip.create_model("ViT-S-32").eval()
    state = {f"module.{name}": tensor for name, tensor in source.state_dict().items()}
    save_file(state, tmp_path / "clip.safetensors")
    encoder = load_encoder(
        "open_clip:ViT-S-32", weights=tmp_path / "clip.safetensors", image_size=size
    )
    same = open_clip.create_model("ViT-S-32", force_image_size=size).eval()
    state = source.state_dict()
    open_clip.model.resize_pos_embed(state, same)
    same.load_state_dict(state)
    side = size or 224
    pixels = torch.randn(2, 3, side, side)
    assert encoder.preprocessing.size == (side, side)
    with torch.inference_mode():
        torch.testing.assert_close(encoder(pixels), same.visual(pixels))


@pytest.mark.parametrize("kind", ["ViTForImageClassification", "ViTModel"])
def test_a_file_for_a_transformers_model_is_loaded_whatever_stands_around_it(
    kind: str, tmp_path: Path
) -> None:
    source, pixels = saved_vit(kind, tmp_path), torch.randn(2, 3, 32, 32)
    save_file(dict(source.state_dict()), tmp_path / "own.safetensors")
    given = load_encoder(f"transformers:{tmp_path}", weights=tmp_path / "own.safetensors")
    torch.testing.assert_close(given(pixels), load_encoder(f"transformers:{tmp_path}")(pixels))
