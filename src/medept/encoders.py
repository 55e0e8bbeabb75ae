"""One small view of an encoder, whichever library it comes from.

An encoder turns pixels (B, 3, H, W) into features (B, D). It is loaded by name: ``embedded``
(ships inside medept), any timm vision transformer (``vit_base_patch16_224``), a transformers
model (``transformers:google/vit-base-patch16-224`` or a local folder), or an open_clip tower
(``open_clip:ViT-B-16``). Weights come from the hub, or from a local safetensors file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from medept.class_row import class_row_only
from medept.errors import InputError
from medept.survey import AttentionSite, find_attentions, use_sdpa

if TYPE_CHECKING:
    from PIL import Image

EMBEDDED = "embedded"
RANDOM = "random"


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes an encoder's input."""

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"
    crop_pct: float = 1.0

    def evaluation(self) -> Callable[[Image.Image], Tensor]:
        """RGB image -> normalised (3, H, W): resize, centre crop (timm's evaluation transform)."""
        from timm.data import create_transform

        return create_transform(
            (3, *self.size),
            is_training=False,
            interpolation=self.interpolation,
            mean=self.mean,
            std=self.std,
            crop_pct=self.crop_pct,
        )

    def training(self, crop_scale: float) -> Callable[[Image.Image], Tensor]:
        """RGB image -> normalised (3, H, W) of a random resized crop, flipped half of the time.

        Args:
            crop_scale: the smallest part of the image's area that a crop may have.
        """
        from torchvision.transforms import v2

        return v2.Compose(
            [
                v2.RandomResizedCrop(
                    self.size,
                    scale=(crop_scale, 1.0),
                    interpolation=v2.InterpolationMode(self.interpolation),
                ),
                v2.RandomHorizontalFlip(),
                v2.PILToTensor(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(self.mean, self.std),
            ]
        )


class Encoder(nn.Module):
    """A vision transformer and what medept has to know of it.

    Attributes:
        model: the library's own module.
        name: the name it was loaded by.
        preprocessing: its input size and normalisation.
    """

    def __init__(self, model: nn.Module, name: str, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.model, self.name, self.preprocessing = model, name, preprocessing
        self.model.eval()

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) -> features (B, D): what the model's classifier would read.

        They are in float32, in whatever lower precision the encoder computes.
        """
        with class_row_only(self.model):
            output = self.model(pixels)
        if not isinstance(output, Tensor):
            pooled = getattr(output, "pooler_output", None)
            output = pooled if pooled is not None else output.last_hidden_state[:, 0]
        return output.to(torch.promote_types(output.dtype, torch.float32))

    def train(self, mode: bool = True) -> Encoder:
        """The encoder stays in evaluation mode: frozen means no dropout and no drop path."""
        return super().train(False)

    @cached_property
    def width(self) -> int:
        """The number D of features."""
        with torch.inference_mode():
            return self(self.example()).shape[-1]

    def example(self) -> Tensor:
        """A black input image (1, 3, H, W) on the encoder's device."""
        reference = next(self.parameters())
        return torch.zeros(
            1, 3, *self.preprocessing.size, device=reference.device, dtype=reference.dtype
        )

    @cached_property
    def sites(self) -> tuple[AttentionSite, ...]:
        """The self-attentions, in order of execution."""
        with ExitStack() as stack:
            use_sdpa(self.model, stack)
            return find_attentions(self.model, self.preprocessing.size)

    @cached_property
    def block_names(self) -> tuple[str, ...]:
        """Names of the transformer blocks, in order of execution.

        Raises:
            InputError: if the encoder's attentions do not sit in numbered blocks.
        """
        names = [_enclosing_block(site.name) for site in self.sites]
        if not all(names) or len(set(names)) != len(names):
            raise InputError(
                f"the blocks of {self.name!r} are of a kind that this method cannot use"
            )
        return tuple(names)

    @property
    def blocks(self) -> list[nn.Module]:
        """The transformer blocks, each with an attention and an ``mlp``."""
        return [self.model.get_submodule(name) for name in self.block_names]

    @property
    def mlps(self) -> list[nn.Module]:
        """The MLP of each block.

        Raises:
            InputError: if a block has none under that name.
        """
        if not all(hasattr(block, "mlp") for block in self.blocks):
            raise InputError(
                f"the blocks of {self.name!r} have no `mlp` that this method could use"
            )
        return [block.get_submodule("mlp") for block in self.blocks]

    def identity(self) -> dict[str, Any]:
        """Name, preprocessing and the hash of the weights: what an adapter must be loaded onto."""
        return {
            "name": self.name,
            "sha256": self.fingerprint,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "preprocessing": asdict(self.preprocessing),
        }

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the names and bytes of all weights, in the order of their names."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            data = tensor.detach().cpu().contiguous()
            digest.update(data.reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()


def load_encoder(
    name: str = EMBEDDED,
    *,
    weights: str | Path | None = None,
    image_size: int | None = None,
) -> Encoder:
    """Load an encoder by name.

    Args:
        name: ``embedded``, a timm name, ``transformers:NAME`` or ``open_clip:NAME``.
        weights: a local safetensors file; ``"random"`` for untrained weights; by default those
            that ship with medept (``embedded``) or those of the hub.
        image_size: pixels a side, where it should differ from the encoder's own; position
            embeddings are interpolated.

    Raises:
        InputError: if the name is unknown, the weights cannot be had or do not fit.
    """
    library, _, rest = name.rpartition(":")
    if name == EMBEDDED:
        encoder = _load_embedded(weights)
    elif library == "transformers":
        encoder = _load_transformers(rest, weights)
    elif library == "open_clip":
        encoder = _load_open_clip(rest, weights)
    else:
        encoder = _load_timm(name, weights)
    return encoder if image_size is None else resized(encoder, image_size)


def _enclosing_block(name: str) -> str:
    """``encoder.layer.3.attention`` -> ``encoder.layer.3``; empty where nothing is numbered."""
    parts = name.split(".")
    numbered = [i for i, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[: numbered[-1] + 1]) if numbered else ""


def resized(encoder: Encoder, image_size: int) -> Encoder:
    """The same encoder for another input size; its position embeddings are interpolated."""
    model = encoder.model
    if not hasattr(model, "set_input_size"):
        raise InputError(
            f"the encoder {encoder.name!r} takes {encoder.preprocessing.size[0]} pixels only: "
            "leave the image size out"
        )
    try:
        model.set_input_size(img_size=(image_size, image_size))  # type: ignore[operator]
        model(torch.zeros(1, 3, image_size, image_size))
    except (AssertionError, RuntimeError) as error:
        raise InputError(
            f"image size {image_size} does not fit {encoder.name!r}: {error}"
        ) from error
    values = asdict(encoder.preprocessing) | {"size": (image_size, image_size)}
    return Encoder(model, encoder.name, Preprocessing(**values))


def _load_embedded(weights: str | Path | None) -> Encoder:
    from medept import embedded

    if weights is not None:
        raise InputError("the encoder 'embedded' has its own weights: leave --encoder-weights out")
    model, config = embedded.load()
    transform = dict(config["transform"])
    size = transform.pop("input_size")
    encoder = Encoder(model, EMBEDDED, Preprocessing(size=(size, size), **_tuples(transform)))
    return encoder


def _load_timm(name: str, weights: str | Path | None) -> Encoder:
    import timm

    if not timm.is_model(name.split(".")[0].removeprefix("timm/")):
        close = timm.list_models(f"*{name.split('_')[0]}*patch*")[:5]
        raise InputError(
            f"no encoder is named {name!r}: use 'embedded' or a timm name"
            + (f", such as {', '.join(close)}" if close else "")
            + ". `medept encoders` lists them"
        )
    if weights is None:
        repository = getattr(timm.get_pretrained_cfg(name), "hf_hub_id", None)
        source = {"file": _from_hub(name, repository, "model"), "custom_load": False}
        model = timm.create_model(
            name, pretrained=True, num_classes=0, pretrained_cfg_overlay=source
        )
    else:
        model = timm.create_model(name, num_classes=0)
    if weights is not None and weights != RANDOM:
        load_weights(model, Path(weights))
    config = timm.data.resolve_data_config({}, model=model)
    transform = {key: config[key] for key in ("mean", "std", "interpolation", "crop_pct")}
    return Encoder(
        model, name, Preprocessing(size=tuple(config["input_size"][1:]), **_tuples(transform))
    )


def _load_transformers(name: str, weights: str | Path | None) -> Encoder:
    transformers = _optional("transformers", "transformers")
    local = Path(name).is_dir()
    try:
        config = transformers.AutoConfig.from_pretrained(name)
        config = getattr(config, "vision_config", config)
        if weights is None:
            model, found = transformers.AutoModel.from_pretrained(
                name,
                config=config,
                use_safetensors=True,
                attn_implementation="sdpa",
                output_loading_info=True,
            )
            _leave_out_pooler(model, found["missing_keys"])
        else:
            model = transformers.AutoModel.from_config(config, attn_implementation="sdpa")
        processor = transformers.AutoImageProcessor.from_pretrained(name).to_dict()
    except (OSError, ValueError) as error:
        raise InputError(
            f"the transformers model {name!r} could not be loaded ({error})"
            + ("" if local else "; give a local folder that holds it: transformers:FOLDER")
        ) from error
    if weights is not None and weights != RANDOM:
        load_weights(model, Path(weights))
    side = config.image_size if isinstance(config.image_size, int) else config.image_size[0]
    mean, std = processor.get("image_mean"), processor.get("image_std")
    return Encoder(
        model,
        f"transformers:{name}",
        Preprocessing(
            size=(side, side), mean=tuple(mean or (0.5,) * 3), std=tuple(std or (0.5,) * 3)
        ),
    )


def _leave_out_pooler(model: Any, missing: Collection[str]) -> None:
    """Take away a pooler that the checkpoint has no weights of: it is drawn anew at each load.

    Features are then the class token behind the final norm, which such a model's own classifier
    reads.

    Raises:
        ValueError: if weights of another part are missing, which are drawn likewise.
    """
    others = sorted(name for name in missing if not name.startswith("pooler."))
    if others:
        raise ValueError(f"its checkpoint has no weights of {shorten(', '.join(others), 200)}")
    if missing:
        model.pooler = None


def _load_open_clip(name: str, weights: str | Path | None) -> Encoder:
    open_clip = _optional("open_clip", "open-clip")
    if name not in open_clip.list_models():
        raise InputError(f"open_clip has no model {name!r}; open_clip.list_models() names them")
    file = None
    if weights is None:
        tags = open_clip.list_pretrained_tags_by_model(name)
        found = open_clip.get_pretrained_cfg(name, tags[0]).get("hf_hub", "") if tags else ""
        file = _from_hub(name, found.rpartition("/")[0], "open_clip_model")
    clip = open_clip.create_model(name, pretrained=file)
    if weights is not None and weights != RANDOM:
        load_weights(clip, Path(weights))
    model = clip.visual
    mean, std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    size = model.image_size if isinstance(model.image_size, tuple) else (model.image_size,) * 2
    return Encoder(
        model, f"open_clip:{name}", Preprocessing(size=size, mean=tuple(mean), std=tuple(std))
    )


def _from_hub(encoder: str, repository: str | None, stem: str) -> str:
    """The path of STEM.safetensors, downloaded; a repository that has pickles alone is refused."""
    from huggingface_hub import hf_hub_download

    remedy = "Give a local file with --encoder-weights FILE.safetensors"
    if not repository:
        raise InputError(f"the hub has no weights of {encoder!r}. {remedy}")
    try:
        return hf_hub_download(repository, f"{stem}.safetensors")
    except Exception as error:  # of the network, the hub or the disk: the remedy is the same
        raise InputError(
            f"{stem}.safetensors of {encoder!r} could not be had from {repository} on the hub "
            f"({error}). {remedy}, or use the encoder 'embedded'"
        ) from error


def _optional(module: str, extra: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise InputError(f"this encoder needs an extra: pip install 'medept[{extra}]'") from error


def _tuples(transform: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in transform.items()}


def load_weights(model: nn.Module, file: Path) -> None:
    """Load a safetensors file into ``model``; a classifier in the file is left out.

    Raises:
        InputError: if the file is missing, no safetensors file, or made for another model.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if file.suffix != ".safetensors":
        raise InputError(f"{file}: weights are read from .safetensors files alone")
    try:
        state = load_file(file)
    except FileNotFoundError as error:
        raise InputError(f"{file}: no such file") from error
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file}: not a readable safetensors file ({error})") from error
    heads = (getattr(model, "pretrained_cfg", None) or {}).get("classifier") or ()
    heads = (heads,) if isinstance(heads, str) else tuple(heads)
    state = {k: v for k, v in state.items() if not k.startswith(tuple(f"{h}." for h in heads))}
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        why = shorten(str(error), 300)
        raise InputError(f"{file}: these weights belong to another model: {why}") from error
