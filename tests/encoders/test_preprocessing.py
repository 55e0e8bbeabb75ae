"""Images as an encoder sees them, against what its own library makes of them.

Every processor that a library has weights for is swept, on pictures of four proportions, with no
weights at all. timm and open_clip resize as Pillow does, and are met to the bit; transformers
resizes tensors, and may differ by two levels of 255.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config
from torch import Tensor

from medept import InputError, load_encoder
from medept.encoders import from_open_clip, from_timm
from medept.encoders.preprocessing import Preprocessing
from medept.encoders.processors import follow

LEVELS, LARGEST = 2.01, 448


def picture(width: int, height: int, contrast: int = 128) -> Image.Image:
    """Coarse noise: an edge every few pixels, wherever a crop begins."""
    low, shape = 128 - contrast, (height // 3 + 1, width // 3 + 1, 3)
    noise = np.random.default_rng(width).integers(low, 256 - low, shape, dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


PICTURES = [picture(120, 120), picture(123, 82), picture(160, 90), picture(51, 153)]
"""1:1, 3:2, 16:9 and 1:3."""

SMOOTHER = [picture(*image.size, contrast=60) for image in PICTURES]
"""Without overshoot at black and white, which Pillow cuts off twice and PyTorch once."""


def timm_configurations() -> Iterator[dict[str, Any]]:
    """What all pretrained weights of timm ask for: each geometry once, each colour once."""
    geometries, colours = set(), set()
    for name in timm.list_pretrained():
        config = resolve_data_config({}, pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
        shape = [config[key] for key in ("input_size", "crop_pct", "crop_mode", "interpolation")]
        colour = config["mean"], config["std"]
        if str(shape) not in geometries or colour not in colours:
            yield config
        geometries.add(str(shape))
        colours.add(colour)


def test_every_configuration_of_timm_is_followed_to_the_bit() -> None:
    modes = set()
    for i, config in enumerate(timm_configurations()):
        own, ours = create_transform(**config), from_timm.preprocessing_of(config).evaluation()
        image = PICTURES[i % len(PICTURES)]
        assert torch.equal(ours(image), own(image)), config
        modes.add(config["crop_mode"])
    assert modes == {"center", "squash", "border"}
    assert i > 100


@pytest.mark.parametrize("size", [(96, 96), (96, 64), (63, 96)])
@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("share", [1.0, 0.875, 0.77, 1.15])
def test_timm_in_other_proportions(size: tuple[int, int], mode: str, share: float) -> None:
    """Of inputs and of pictures, and a crop larger than the picture."""
    config = {
        "input_size": (3, *size), "crop_pct": share, "crop_mode": mode,
        "interpolation": "bilinear", "mean": (0.1, 0.5, 0.9), "std": (0.2, 0.3, 0.4),
    }  # fmt: skip
    own, ours = create_transform(**config), from_timm.preprocessing_of(config).evaluation()
    for image in (*PICTURES, picture(40, 41)):
        assert torch.equal(ours(image), own(image))


def test_another_way_of_timm_is_refused_by_name() -> None:
    config = resolve_data_config({}, model=timm.create_model("test_vit"))
    with pytest.raises(InputError, match="crop_mode='corner'"):
        from_timm.preprocessing_of(config | {"crop_mode": "corner"})


def open_clip_configurations() -> list[tuple[dict[str, Any], tuple[int, int]]]:
    """What all pretrained weights of open_clip ask for, each once, and what they might."""
    open_clip = pytest.importorskip("open_clip")
    found = {}
    for model, tag in open_clip.list_pretrained():
        config = dict(open_clip.get_pretrained_cfg(model, tag))
        own = {key: config.get(key) for key in open_clip.transform.PreprocessCfg().__dict__}
        found[str(own)] = own
    each = [(own, (96, 96)) for own in found.values()]
    longest = {"resize_mode": "longest", "fill_color": 7, "interpolation": "bilinear"}
    bilinear = {"resize_mode": "shortest", "interpolation": "bilinear"}
    return [*each, (longest, (96, 96)), (longest, (64, 96)), (bilinear, (96, 64))]


def test_every_configuration_of_open_clip_is_followed_to_the_bit() -> None:
    open_clip = pytest.importorskip("open_clip")
    configurations = open_clip_configurations()
    assert len(configurations) > 8
    for config, size in configurations:
        whole = open_clip.transform.merge_preprocess_dict(
            open_clip.transform.PreprocessCfg(), config | {"size": size}
        )
        own = open_clip.transform.image_transform_v2(
            open_clip.transform.PreprocessCfg(**whole), is_train=False
        )
        ours = from_open_clip.preprocessing_of(config, size).evaluation()
        for image in PICTURES:
            assert torch.equal(ours(image), own(image)), config


def test_another_way_of_open_clip_is_refused_by_name() -> None:
    pytest.importorskip("open_clip")
    with pytest.raises(InputError, match="resize_mode='tile'"):
        from_open_clip.preprocessing_of({"resize_mode": "tile"}, (96, 96))


def processors_of_transformers() -> list[Any]:
    """Each image processor that transformers has, as it is by default, but for large images."""
    pytest.importorskip("transformers")
    from transformers.models.auto import image_processing_auto as auto

    kinds = {kind for both in auto.IMAGE_PROCESSOR_MAPPING_NAMES.values() for kind in both.values()}
    found = []
    for kind in sorted(filter(None, kinds)):
        try:
            processor = auto.get_image_processor_class_from_name(kind)()
        except Exception:  # it has no default values, or needs a package that is not installed
            continue
        sides = [side for side in dict(getattr(processor, "size", None) or {}).values() if side]
        if max(sides, default=0) <= LARGEST:
            found.append(processor)
    return found


def differ(processor: Any, ours: Preprocessing, image: Image.Image) -> float:
    """By how many levels of 255 a picture is prepared otherwise than the processor does."""
    theirs = processor(image, return_tensors="pt")["pixel_values"]
    found: Tensor = ours.evaluation()(image)
    assert theirs.shape == (1, *found.shape)
    levels = 255 * torch.tensor(ours.std)[:, None, None]
    return float(((theirs[0] - found) * levels).abs().max())


def test_every_processor_of_transformers_is_followed_or_refused_by_name() -> None:
    followed, refused = set(), set()
    for processor in processors_of_transformers():
        kind = type(processor).__name__
        try:
            ours = follow(processor, kind)
        except InputError as error:
            refused.add(kind if kind in str(error) else "")
            continue
        followed.add(kind)
        for image in SMOOTHER:
            assert differ(processor, ours, image) <= LEVELS, kind
    usual = {"ViT", "CLIP", "Siglip", "Bit", "DeiT", "Beit", "Blip", "ConvNext", "DINOv3ViT"}
    assert {f"{name}ImageProcessor" for name in usual} <= followed
    assert "" not in refused
    odd = {"MobileViT", "EfficientNet", "ImageGPT", "Siglip2", "LlavaNext"}
    assert {f"{name}ImageProcessor" for name in odd} <= refused


SQUARE, EDGE = {"height": 48, "width": 48}, {"shortest_edge": 60}


@pytest.mark.parametrize(
    ("kind", "switches"),
    [
        ("ViTImageProcessor", {"size": SQUARE, "do_normalize": False}),
        ("ViTImageProcessor", {"size": SQUARE, "do_rescale": False}),
        ("ViTImageProcessor", {"size": SQUARE, "do_rescale": False, "do_normalize": False}),
        ("ViTImageProcessor", {"size": SQUARE, "rescale_factor": 1 / 127.5}),
        ("ViTImageProcessor", {"size": {"height": 32, "width": 80}, "resample": 3}),
        ("CLIPImageProcessor", {"size": EDGE, "crop_size": {"height": 31, "width": 45}}),
        ("CLIPImageProcessor", {"size": {"shortest_edge": 40}, "crop_size": SQUARE}),
        ("CLIPImageProcessor", {"size": SQUARE, "do_center_crop": False}),
        ("BitImageProcessor", {"size": EDGE, "crop_size": SQUARE, "resample": 1}),
        ("ConvNextImageProcessor", {"size": {"shortest_edge": 96}, "crop_pct": 0.7}),
        ("LevitImageProcessor", {"size": {"shortest_edge": 56}, "crop_size": SQUARE}),
        ("DeiTImageProcessor", {"size": {"height": 55, "width": 66}, "crop_size": SQUARE}),
    ],
)
@pytest.mark.parametrize("backend", ["", "Pil"])
def test_switches_of_a_processor_are_followed(
    kind: str, switches: dict[str, Any], backend: str
) -> None:
    transformers = pytest.importorskip("transformers")
    processor = getattr(transformers, kind + backend)(**switches)
    ours = follow(processor, kind)
    for image in SMOOTHER:
        assert differ(processor, ours, image) <= LEVELS


@pytest.mark.parametrize(
    ("kind", "switches", "why"),
    [
        ("ViTImageProcessor", {"do_resize": False}, "does not resize"),
        ("ViTImageProcessor", {"size": {"shortest_edge": 30, "longest_edge": 90}}, "longest_edge"),
        ("BitImageProcessor", {"do_center_crop": False}, "different sizes"),
        ("CLIPImageProcessor", {"do_pad": True, "pad_size": {"height": 300, "width": 300}}, "pad"),
        ("MobileViTImageProcessor", {"size": {"height": 64, "width": 64}}, "do_flip_channel_order"),
    ],
)
def test_what_is_not_followed_is_refused_by_name(
    kind: str, switches: dict[str, Any], why: str
) -> None:
    transformers = pytest.importorskip("transformers")
    with pytest.raises(InputError, match=rf"{kind}.*{why}"):
        follow(getattr(transformers, kind)(**switches), "a model")


def test_code_of_a_checkpoints_own_is_refused() -> None:
    """Nothing in its values says that it mirrors images."""
    transformers = pytest.importorskip("transformers")

    class Mirrored(transformers.ViTImageProcessor):
        def resize(self, image: Tensor, *args: Any, **options: Any) -> Tensor:
            return super().resize(image.flip(-1), *args, **options)

    with pytest.raises(InputError, match="Mirrored"):
        follow(Mirrored(), "a model")


def two_halves(width: int, height: int) -> Image.Image:
    """Black on the left, white on the right, with a red edge of twelve pixels all around."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, width // 2 :] = 255
    for edge in (np.s_[:12], np.s_[-12:], np.s_[:, :12], np.s_[:, -12:]):
        pixels[edge] = (255, 0, 0)
    return Image.fromarray(pixels)


PLAIN = Preprocessing((40, 40), (0.0,) * 3, (1.0,) * 3, resized=(48, 48))


def test_the_whole_image_is_seen_where_it_is_squeezed_or_padded() -> None:
    image = two_halves(160, 80)
    red = {
        fit: [bool((view[0] > 0.5).logical_and(view[1] < 0.2)[edge].any())
              for edge in (np.s_[15:25, :3], np.s_[15:25, -3:])]
        for fit in ("crop", "squeeze", "pad")
        for view in [PLAIN.with_fit(fit).evaluation()(image)]
    }  # fmt: skip
    assert red == {"crop": [False, False], "squeeze": [True, True], "pad": [True, True]}
    padded = PLAIN.with_fit("pad").evaluation()(image)
    assert (padded[:, :8] == 0).all()
    assert (padded[:, -8:] == 0).all()


def test_random_views_are_of_the_image_as_it_is_squeezed_or_padded() -> None:
    """With the largest crops, the edges of a wide image are in views of every kind but ``crop``."""
    image = two_halves(320, 80)
    for fit, seen in (("crop", False), ("squeeze", True), ("pad", True)):
        draw = PLAIN.with_fit(fit).training(0.98, lambda _, view: view)
        torch.manual_seed(0)
        views = torch.stack([draw(image)() for _ in range(8)])
        red = (views[:, 0] > 0.5) & (views[:, 1] < 0.2)
        assert bool(red[:, 15:25, :3].any() or red[:, 15:25, -3:].any()) == seen, fit


@pytest.mark.parametrize(("size", "fit", "cut"), [
    ((160, 90), "crop", 1 - 90 / 160 * (40 / 48) ** 2), ((90, 160), "squeeze", 0.0),
    ((160, 90), "pad", 0.0), ((48, 48), "crop", 1 - (40 / 48) ** 2),
])  # fmt: skip
def test_how_much_is_cut(size: tuple[int, int], fit: str, cut: float) -> None:
    assert PLAIN.with_fit(fit).share_cut(size) == pytest.approx(cut, abs=0.01)


def test_what_is_given_replaces_the_encoders_own_fit() -> None:
    own = load_encoder("embedded").preprocessing
    assert own.fit == "crop"
    assert load_encoder("embedded", fit_image="crop").preprocessing == own
    given = load_encoder("embedded", image_size=80, fit_image="pad").preprocessing
    assert (given.size, given.fit, given.fill) == ((80, 80), "pad", (128, 128, 128))
    with pytest.raises(InputError, match="fit_image='stretch'"):
        load_encoder("embedded", fit_image="stretch")
