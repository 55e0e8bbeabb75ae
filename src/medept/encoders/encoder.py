"""One small view of an encoder, whichever library it comes from.

:func:`medept.encoders.load.load_encoder` makes one from a name.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import asdict
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from medept.encoders.class_token import LastBlock, class_token_only, find_last_block
from medept.encoders.preprocessing import Preprocessing
from medept.encoders.readout import Readout
from medept.encoders.tensors import fingerprint
from medept.ept.sites import AttentionSite, find_attentions
from medept.errors import EncoderError

LAYERS = (nn.Linear, nn.Conv2d, nn.MultiheadAttention)
"""Layers whose products autocast computes in lower precision."""


class Encoder(nn.Module):
    """A vision transformer, and what medept has to know about it: pixels (B, 3, H, W) -> (B, D).

    It stays in evaluation mode, whatever is trained inside it: no dropout and no drop path.

    Args:
        model: the library's own module; switched to evaluation mode.
        name: the name it was loaded by.
        preprocessing: its input size and normalisation.

    Attributes:
        readout: what is read of it (:meth:`read_as`); at first what its own classifier would read.
        in_bfloat16: whether its matrices are stored in bfloat16 (:meth:`cast_to_bfloat16`).
        unread: projections whose output nothing reads, while a cached prefix is in use
            (:mod:`medept.encoders.shortcuts`).

    >>> import timm
    >>> vit = timm.create_model("test_vit", num_classes=0)
    >>> square = Preprocessing(size=(160, 160), mean=(0.5,) * 3, std=(0.5,) * 3)
    >>> encoder = Encoder(vit, "test_vit", square)
    >>> encoder(torch.zeros(2, 3, 160, 160)).shape
    torch.Size([2, 64])
    >>> encoder.width, len(encoder.blocks)
    (64, 6)
    """

    in_bfloat16: bool = False
    unread: Collection[nn.Module] = ()

    def __init__(self, model: nn.Module, name: str, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.model, self.name, self.preprocessing = model, name, preprocessing
        self.readout = Readout()
        self.model.eval()

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) -> features (B, D): what its readout says.

        They are float32 (or float64), in whatever lower precision the encoder computes.
        """
        with self.autocast(), class_token_only(self._last_block, self.unread):
            return self.whole_forward(pixels)

    def read_as(self, readout: Readout) -> Encoder:
        """Let its features be what ``readout`` says; returns the encoder.

        Raises:
            EncoderError: if that cannot be read of this encoder.
        """
        readout.check(self)
        self.readout = readout
        for found in ("_last_block", "width"):  # which depend on what is read
            self.__dict__.pop(found, None)
        return self

    def whole_forward(self, pixels: Tensor) -> Tensor:
        """:meth:`forward` in float32, and without the shortcut in the last block."""
        if self.readout.parts:
            return self.readout.read(self, pixels)
        output = self.model(pixels)
        if not isinstance(output, Tensor):
            pooled = getattr(output, "pooler_output", None)
            output = pooled if pooled is not None else output.last_hidden_state[:, 0]
        return output.to(torch.promote_types(output.dtype, torch.float32))

    def cast_to_bfloat16(self, except_for: Iterable[nn.Parameter] = ()) -> None:
        """Store the matrices of its layers in bfloat16 alone, but for those of ``except_for``.

        From then on it computes in bfloat16, with the same outputs as under autocast, to the bit:
        autocast would cast the same weights at every pass. (Code that reads the type of a weight
        may round more: the rotary embeddings of transformers' DINOv3.) Norms, biases and position
        embeddings stay in float32, and the fingerprint is that of the weights as they came.
        """
        _ = self.fingerprint, self.width  # found before the cast, and kept
        exceptions = {id(parameter) for parameter in except_for}
        layers = [module for module in self.modules() if isinstance(module, LAYERS)]
        for parameter in (p for layer in layers for p in layer.parameters(recurse=False)):
            matrix = parameter.dtype == torch.float32 and parameter.ndim > 1
            if matrix and id(parameter) not in exceptions:
                parameter.data = parameter.data.bfloat16()
        self.in_bfloat16 = True

    def autocast(self) -> AbstractContextManager[Any]:
        """A context in which it computes in bfloat16, if its matrices are stored in that."""
        if not self.in_bfloat16:
            return nullcontext()
        return torch.autocast(next(self.parameters()).device.type, torch.bfloat16)

    def train(self, mode: bool = True) -> Encoder:
        """Stay in evaluation mode, whatever is asked for."""
        return super().train(False)

    @cached_property
    def _last_block(self) -> LastBlock | None:
        """The last block, if its class token is all that is read of it."""
        try:
            last = LastBlock(self.blocks[-1], self.sites[-1].module)
        except EncoderError:
            return None
        return find_last_block(self.whole_forward, last, self.example())

    @cached_property
    def width(self) -> int:
        """The number D of features an image has."""
        with torch.inference_mode():
            return self(self.example()).shape[-1]

    def copy_with_shared_weights(self) -> Encoder:
        """A copy whose weights are in the same memory; do not change them in place.

        Modules are its own: what a method puts into it does not appear here. What was found out by
        trial (:attr:`sites`, :attr:`width`, shortcuts) is copied.
        """
        memo: dict[int, Any] = {id(buffer): buffer for buffer in self.buffers()}
        for parameter in self.parameters():
            memo[id(parameter)] = nn.Parameter(parameter.data, parameter.requires_grad)
        return deepcopy(self, memo)

    def example(self) -> Tensor:
        """A black input image (1, 3, H, W) on the encoder's device."""
        reference = next(self.parameters())
        dtype = torch.promote_types(reference.dtype, torch.float32)
        return torch.zeros(1, 3, *self.preprocessing.size, device=reference.device, dtype=dtype)

    @cached_property
    def sites(self) -> tuple[AttentionSite, ...]:
        """The self-attentions, in order of execution."""
        with self.autocast():
            return find_attentions(self.model, self.preprocessing.size)

    @cached_property
    def block_names(self) -> tuple[str, ...]:
        """Names of the transformer blocks, in order of execution.

        Raises:
            EncoderError: if its attentions are not in numbered blocks, one in each.
        """
        names = [_enclosing_block(site.name) for site in self.sites]
        if not all(names) or len(set(names)) != len(names):
            raise EncoderError(
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
            EncoderError: if a block has none under that name.
        """
        if not all(hasattr(block, "mlp") for block in self.blocks):
            raise EncoderError(
                f"the blocks of {self.name!r} have no `mlp` that this method could use"
            )
        return [block.get_submodule("mlp") for block in self.blocks]

    def identity(self) -> dict[str, Any]:
        """Name, number of parameters, hash of the weights, and preprocessing.

        An adapter can be loaded only onto an encoder with the same hash.
        """
        return {
            "name": self.name,
            "sha256": self.fingerprint,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "preprocessing": asdict(self.preprocessing),
            "readout": str(self.readout),
        }

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all weights."""
        return fingerprint(self.model.state_dict())


def _enclosing_block(name: str) -> str:
    """``encoder.layer.3.attention`` -> ``encoder.layer.3``; empty where nothing is numbered."""
    parts = name.split(".")
    numbered = [i for i, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[: numbered[-1] + 1]) if numbered else ""
