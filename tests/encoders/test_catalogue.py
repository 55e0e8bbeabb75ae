"""The catalogue of encoders, their architectures, and snapshots that lie in a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from medept import InputError, attach, load_encoder
from medept.encoders.catalogue import MODALITIES, Entry, catalogue, find, suited_to
from medept.encoders.from_open_clip import image_tower
from medept.encoders.from_timm import arguments_of
from medept.encoders.readout import Readout

PAGE = Path(__file__).parents[2] / "docs" / "encoders.md"


def library(entry: Entry) -> str:
    prefix = entry.source.partition(":")[0]
    return prefix if prefix in ("transformers", "open_clip") else "timm"


def build(entry: Entry, depth: int) -> nn.Module:
    """The entry's architecture with so many blocks, without storage."""
    with torch.device("meta"):
        if library(entry) == "timm":
            arguments = arguments_of(entry) | {"depth": depth}
            return timm.create_model(entry.architecture, num_classes=0, **arguments)
        if library(entry) == "open_clip":
            return image_tower({"embed_dim": entry.width, "vision_cfg": entry.arguments})
        import transformers

        config = transformers.AutoConfig.for_model(
            entry.architecture, num_hidden_layers=depth, **entry.arguments
        )
        return transformers.AutoModel.from_config(config).eval()


def tokens_and_features(entry: Entry, model: nn.Module) -> tuple[Tensor, Tensor]:
    """Tokens (1, T, D) of the last block, and features (1, D)."""
    pixels = torch.zeros(1, 3, entry.input_size, entry.input_size, device="meta")
    with torch.no_grad():
        if library(entry) == "transformers":
            output = model(pixels)
            return output.last_hidden_state, output.pooler_output
        trunk: Any = model.trunk if library(entry) == "open_clip" else model
        return trunk.forward_features(pixels), model(pixels)


@pytest.mark.parametrize("entry", catalogue(), ids=lambda entry: entry.name)
def test_the_architecture_is_that_of_the_entry(entry: Entry) -> None:
    """The size of a deep model follows from those of one and of two equal blocks."""
    assert entry.verified == "architecture built and compared"
    if library(entry) == "open_clip":
        model = build(entry, entry.depth)
        parameters = sum(p.numel() for p in model.parameters())
    else:
        model, deeper = build(entry, 1), build(entry, 2)
        one, two = (sum(p.numel() for p in m.parameters()) for m in (model, deeper))
        parameters = one + (entry.depth - 1) * (two - one)
    assert parameters / 1e6 == pytest.approx(entry.parameters, abs=0.06)
    tokens, features = tokens_and_features(entry, model)
    patches = (entry.input_size // entry.patch) ** 2
    assert tokens.shape[1] == entry.prefix_tokens + patches
    assert features.shape == (1, entry.width)


def test_entries_can_be_used() -> None:
    names = [entry.name for entry in catalogue()]
    assert len({*names}) == len(names)
    for entry in catalogue():
        assert find(entry.name) is find(entry.source) is entry
        Readout.parse(entry.readout)
        if entry.source.startswith("hf-hub:"):
            assert entry.preprocessing is not None
        elif library(entry) == "timm":
            config = timm.get_pretrained_cfg(entry.source)
            assert (config.mean, config.std) == (entry.mean, entry.std)
            assert (config.interpolation, config.crop_pct) == (entry.interpolation, entry.crop)
            assert config.input_size[1] == entry.input_size
    assert all(suited_to(modality) for modality in MODALITIES)


def as_markdown() -> str:
    """The table of ``docs/encoders.md``."""
    lines = [
        "| `--encoder` | images | licence | gated | millions | pixels | width | authors read |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for e in catalogue():
        gated = {True: "yes", False: "no", None: "?"}[e.gated]
        lines.append(
            f"| {e.name} | {', '.join(e.modalities)} | {e.licence or '?'} | {gated} "
            f"| {e.parameters:,.0f} | {e.input_size} | {e.width} | {e.readout} |"
        )
    return "\n".join(lines)


def test_the_page_has_the_table_of_today() -> None:
    assert as_markdown() in PAGE.read_text(encoding="utf-8")


def test_a_short_name_builds_the_published_architecture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = find("uni2-h")
    assert entry is not None
    small = entry.arguments | {"depth": 1, "embed_dim": 48, "num_heads": 3}
    shrunken = entry.model_copy(update={"arguments": small})
    monkeypatch.setattr("medept.encoders.load.find", lambda name: shrunken)
    file = tmp_path / "w.safetensors"
    save_file(timm.create_model(entry.architecture, **arguments_of(shrunken)).state_dict(), file)
    encoder = load_encoder("uni2-h", weights=file)
    assert (encoder.name, encoder.width, encoder.sites[-1].prefix) == ("uni2-h", 48, 9)
    assert encoder.preprocessing == entry.preprocessing


def no_network(*_: object) -> str:
    raise OSError("no network")


def test_an_error_names_the_page_and_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.hf_hub_download", no_network)
    entry = find("uni2-h")
    assert entry is not None
    small = entry.arguments | {"depth": 1, "embed_dim": 48, "num_heads": 3}
    monkeypatch.setattr(
        "medept.encoders.load.find", lambda name: entry.model_copy(update={"arguments": small})
    )
    with pytest.raises(InputError, match=r"huggingface\.co/MahmoodLab/UNI2-h and set HF_TOKEN"):
        load_encoder("uni2-h")


@pytest.mark.parametrize("name", ["hf-hub:nobody/nothing", "open_clip:hf-hub:nobody/nothing"])
def test_names_of_the_hub_are_asked_for_there(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.hf_hub_download", no_network)
    with pytest.raises(InputError, match=r"huggingface\.co/nobody/nothing and set HF_TOKEN"):
        load_encoder(name)


def test_a_pickle_is_refused_with_the_way_to_convert_it() -> None:
    with pytest.raises(InputError, match=r"pickle only.*weights_only=True.*save_file"):
        load_encoder("retfound")


def timm_folder(folder: Path) -> nn.Module:
    model = timm.create_model("test_vit", num_classes=0, reg_tokens=2)
    config = {
        "architecture": "test_vit",
        "num_classes": 0,
        "model_args": {"reg_tokens": 2},
        "pretrained_cfg": {
            "input_size": [3, 160, 160],
            "fixed_input_size": True,
            "mean": [0.1] * 3,
            "std": [0.2] * 3,
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    save_file(model.state_dict(), folder / "model.safetensors")
    return model.eval()


def open_clip_folder(folder: Path) -> nn.Module:
    vision = {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8, "head_width": 32}
    text = {"hf_model_name": "nobody/nothing"}  # must not be asked for
    config = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text}
    given = {"mean": [0.1] * 3, "std": [0.2] * 3, "resize_mode": "squash"}
    model = image_tower(config)
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": given})
    )
    state = {f"visual.{name}": tensor for name, tensor in model.state_dict().items()}
    save_file(state | {"logit_scale": torch.ones(1)}, folder / "open_clip_model.safetensors")
    return model.eval()


@pytest.mark.parametrize("make", [timm_folder, open_clip_folder])
def test_a_folder_is_loaded_and_prompted(make: Any, tmp_path: Path) -> None:
    own = make(tmp_path)
    encoder = load_encoder(str(tmp_path))
    size = encoder.preprocessing.size
    pixels = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(encoder(pixels), own(pixels), rtol=1e-4, atol=1e-5)
    assert (encoder.preprocessing.mean, encoder.preprocessing.std) == ((0.1,) * 3, (0.2,) * 3)
    attach(encoder.model, image_size=size[0])
    assert encoder(pixels).shape == (2, encoder.width)


def test_a_folder_without_safetensors_or_a_model_is_refused(tmp_path: Path) -> None:
    timm_folder(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match="as safetensors, and nothing else"):
        load_encoder(str(tmp_path))
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(InputError, match="not a JSON object"):
        load_encoder(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="neither the `architecture`"):
        load_encoder(str(tmp_path))
