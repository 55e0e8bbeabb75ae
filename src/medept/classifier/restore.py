"""An adapter put back onto its encoder, whose weights have to be those that it was trained on."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from medept.classifier.fitted import Fitted, take_familiarity
from medept.classifier.several import Weights, pair_weights, split_state
from medept.encoders.encoder import Encoder
from medept.encoders.load import EMBEDDED, load_encoder
from medept.encoders.readout import Readout
from medept.encoders.weights import RANDOM
from medept.errors import EncoderError, InputError
from medept.fits.adapter import AdapterInfo, load_adapter
from medept.methods import (
    AdaptedEncoder,
    adapt,
    find_method,
    find_pool,
    is_known,
    plugin_of,
    read_settings,
    trained_of,
)
from medept.methods.plugins import missing
from medept.training.device import make_accelerator, precision_of
from medept.training.recipes import make_recipe

if TYPE_CHECKING:
    from accelerate import Accelerator

logger = logging.getLogger(__name__)


def restore(
    folder: Path, *, encoder_weights: Weights | Sequence[Weights], device: str, precision: str
) -> tuple[dict[str, Any], list[Fitted]]:
    """A classifier's parameters and its fitted state, one for each encoder, from a saved adapter.

    Raises:
        InputError: as :meth:`medept.FewShotClassifier.load`.
    """
    state, whole = load_adapter(folder)
    infos = [whole, *whole.others]
    names = [info.encoder.name for info in infos]
    given = pair_weights(names, encoder_weights) if encoder_weights else None
    fitted = []
    for i, (part, info) in enumerate(zip(split_state(state, len(infos)), infos, strict=True)):
        weights = (given[i][1] if given else None) or info.encoder_weights
        path = None if weights is None else str(weights)
        info = info.model_copy(update={"encoder_weights": path})
        fitted.append(_restore_one(folder, part, info, make_accelerator(device, precision)))
    usual = {"device": device, "precision": precision}
    return _parameters(whole, fitted) | usual, fitted


def _parameters(info: AdapterInfo, fitted: Sequence[Fitted]) -> dict[str, Any]:
    """The parameters of the classifier that was saved, as far as its encoders share them."""
    several = len(fitted) > 1
    names = [one.model.encoder.name for one in fitted]
    weights = [one.encoder_weights for one in fitted]
    sizes = {
        height if height == width else None  # others are an encoder's own
        for name, (height, width) in zip(names, map(_size, fitted), strict=True)
        if not (several and name == EMBEDDED)
    }
    views = {one.tta for one in fitted}
    return {
        "encoder": names if several else names[0],
        "method": info.method,
        "encoder_weights": weights if several else weights[0],
        "image_size": sizes.pop() if len(sizes) == 1 else None,
        "settings": info.settings,
        "recipe_settings": info.recipe,
        "calibrate": "temperature" if info.calibration.note else info.calibration.kind,
        "readout": info.encoder.readout,
        "symmetry": info.symmetry,
        "tta": views.pop() if len(views) == 1 else None,
        "pool": info.pool,
        "fit_image": info.fit_image,
        "prevalence": info.prevalence,
        "coverage": info.prediction_sets.coverage if info.prediction_sets else 0.9,
        "false_alarms": info.familiarity.false_alarms if info.familiarity else 0.05,
        "seed": info.seed,
    }


def _size(fitted: Fitted) -> tuple[int, int]:
    return fitted.model.encoder.preprocessing.size


def _restore_one(
    folder: Path, state: dict[str, Tensor], info: AdapterInfo, accelerator: Accelerator
) -> Fitted:
    check_method(str(folder), info)
    weights = info.encoder_weights
    if weights not in (None, RANDOM) and not _is_file(Path(weights)):
        raise EncoderError(
            f"{folder}: its encoder's weights, {weights}, are not there; say where they are "
            "now with encoder_weights="
        )
    try:
        info.encoder.preprocessing.evaluation()(Image.new("RGB", (2, 2)))
    except Exception as error:  # whatever the transforms do not accept
        raise EncoderError(
            f"{folder}: damaged (no image can be prepared as it says: {error}); copy it again, or "
            "fit again"
        ) from error
    encoder = frozen_encoder(info)
    height, width = info.encoder.preprocessing.size
    if encoder.preprocessing.size != (height, width):
        raise EncoderError(
            f"{folder}: damaged (its encoder takes no input of {height} x {width} pixels); copy "
            "it again, or fit again"
        )
    known = take_familiarity(state, info)
    model = restored_model(encoder, state, info, str(folder), accelerator)
    if known is not None and not known.fits(model.encoder.width):
        raise EncoderError(
            f"{folder}: damaged (what it knows of its training images does not fit); copy it "
            "again, or fit again"
        )
    return replace(Fitted.of_adapter(model, info), familiarity=known)


def check_method(where: str, info: AdapterInfo) -> None:
    """Refuse an adapter whose method is not here, and warn where its code may have changed.

    Raises:
        EncoderError: if there is no such method, or it has no such settings.
    """
    try:
        method = find_method(info.method)
        read_settings(info.method, info.settings)
        find_pool(info.pool, info.method)
        make_recipe(**info.recipe)
    except InputError as error:
        raise EncoderError(f"{where}: {_why_not(info, error)}") from error
    here = plugin_of(method)
    if here != info.plugin:
        logger.warning(
            "%s: its method %r came from %s, and here it is from %s: predictions may differ",
            where, info.method, info.plugin or "medept", here or "medept",
        )  # fmt: skip


def _why_not(info: AdapterInfo, error: InputError) -> str:
    if info.plugin is not None and not is_known(info.method):
        return missing(info.method, info.plugin)
    other = info.plugin.name if info.plugin else "medept"
    return f"it was fitted by another version of {other} ({error}); fit again"


def frozen_encoder(info: AdapterInfo) -> Encoder:
    """The encoder that an adapter was trained on, loaded by its name and not yet verified."""
    height, width = info.encoder.preprocessing.size
    side = height if height == width else None  # others are an encoder's own
    return load_encoder(info.encoder.name, weights=info.encoder_weights, image_size=side)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long, or with a null character
        return False


def restored_model(
    encoder: Encoder,
    state: dict[str, Tensor],
    info: AdapterInfo,
    where: str,
    accelerator: Accelerator | None,
) -> AdaptedEncoder:
    """The adapted encoder of a saved adapter, in the precision it will compute in, if known.

    Raises:
        EncoderError: if the encoder's weights are not those it was trained on.
    """
    if encoder.fingerprint != info.encoder.sha256:
        raise EncoderError(
            f"{where}: this adapter was trained on other weights of {encoder.name!r} "
            f"(SHA-256 {info.encoder.sha256[:12]}..., here {encoder.fingerprint[:12]}...): "
            "give the right file with encoder_weights="
        )
    encoder.preprocessing = info.encoder.preprocessing  # the library's own may have changed since
    encoder.read_as(Readout.parse(info.encoder.readout))
    if accelerator is not None and precision_of(accelerator) == "bfloat16":
        encoder.cast_to_bfloat16(except_for=trained_of(encoder, info.method, info.settings))
    with torch.random.fork_rng(devices=[]):  # initial values, all of which are replaced
        model = adapt(encoder, info.method, len(info.classes), info.settings, info.pool)
    model.load_trained_state(state)
    return model


def in_precision(fitted: Fitted, accelerator: Accelerator) -> Fitted:
    """The same with its model as the accelerator's precision needs it.

    Weights are cast down where they are, and loaded again for a precision that is higher than
    that of the weights in memory.
    """
    encoder = fitted.model.encoder
    if precision_of(accelerator) == "bfloat16":
        if not encoder.in_bfloat16:
            encoder.cast_to_bfloat16(p for p in encoder.parameters() if p.requires_grad)
        return fitted
    if not encoder.in_bfloat16:
        return fitted
    state, info = fitted.model.trained_state(), fitted.info()
    where = "the fitted classifier"
    model = restored_model(frozen_encoder(info), state, info, where, accelerator)
    return replace(fitted, model=model)
