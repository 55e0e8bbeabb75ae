"""Writes a fitted classifier as an ONNX file or a PyTorch program, verified before it appears.

The graph is that of :mod:`medept.serving.graph`. Beside ``model.onnx`` stands ``model.json``: how
an image becomes the inputs, what the output is, and by how much it differs from medept's own on the
images that the file was verified with.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from medept.classifier.classifier import FewShotClassifier
from medept.data.cases import Case
from medept.data.images import ImageLike, read_image
from medept.data.labelled_images import LabelledImages
from medept.errors import (
    DataError,
    EncoderError,
    InputError,
    ResourceError,
    SettingsError,
    is_out_of_memory,
)
from medept.evaluation.metrics import evaluate
from medept.evaluation.predictions import decide
from medept.files import whole_file
from medept.fits.adapter import current_versions
from medept.fits.training_images import exclude_training_images
from medept.serving.graph import ProbabilityGraph, inputs_of

Quantity = Literal["float32", "float16", "int8"]
SUFFIXES = (".onnx", ".pt2")

TOLERANCE = 1e-4
"""By how much a probability in float32 may differ from medept's own."""

DRAWN = 16
"""How many images of noise verify a file for which no others are given."""

LIMIT = 500
"""How many given images verify a file at most."""

BATCH = 32

Run = Callable[[Sequence[np.ndarray]], np.ndarray]
"""Inputs of a batch -> probabilities."""


def export(
    folder: Path,
    out: Path,
    *,
    data: LabelledImages | None = None,
    number_format: str = "float32",
    tta: int | None = None,
    encoder_weights: Path | None = None,
) -> dict[str, Any]:
    """Write an adapter to ``out``, and what it expects and gives to a JSON beside it.

    Args:
        folder: of a fit with one encoder.
        out: a new file, ``.onnx`` or ``.pt2`` (``torch.export``).
        data: images to verify the file with: at most 500, drawn at random, and none that the
            adapter was fitted to. Without any it is verified with noise.
        number_format: ``float32``; for ONNX also ``float16``, half as large, or ``int8``, a third
            as large, whose weights are quantised (dynamic quantisation of onnxruntime).
        tta: how many views a prediction averages over; None as in the fit.
        encoder_weights: where the encoder's weights are, if they have moved.

    Returns:
        the content of the JSON.

    Raises:
        DataError: if ``out`` exists or has another suffix.
        SettingsError: if the adapter cannot be exported, or not in that format.
        EncoderError: if the exporter does not serve the encoder.
        ResourceError: if onnxruntime is missing, or a float32 file differs from medept by more
            than :data:`TOLERANCE`; then nothing is written.
    """
    beside = out.with_suffix(".json")
    _refuse(out, beside, number_format)
    if data is not None:
        data = exclude_training_images(data, [folder]).sample(LIMIT, seed=0)
    classifier = FewShotClassifier.load(
        folder, encoder_weights=encoder_weights, tta=tta, device="cpu", precision="float32"
    )
    graph, info = ProbabilityGraph(classifier).eval(), classifier.info()
    images = _noise(graph) if data is None else list(map(_read, data.images))
    inputs = {
        name: torch.stack([preprocessing.evaluation()(image) for image in images])
        for name, preprocessing in inputs_of(graph).items()
    }
    expected = classifier.predict_proba(images)
    with whole_file(out) as partial, whole_file(beside) as description:
        try:
            if out.suffix == ".pt2":
                run = _write_torch(graph, inputs, partial)
            else:
                run = _write_onnx(graph, inputs, partial, number_format)
        except (AttributeError, RuntimeError, TypeError, ValueError) as error:
            if isinstance(error, InputError) or is_out_of_memory(error):
                raise
            raise EncoderError(
                f"the exporter of PyTorch {torch.__version__} does not serve {info.method!r} on "
                f"{info.encoder.name!r}: {str(error).strip().splitlines()[0]}"
            ) from error
        found = _in_batches(run, inputs)
        verified = _compared(expected, found, classifier, data)
        if number_format == "float32" and not verified["largest_difference"] <= TOLERANCE:
            raise ResourceError(
                f"the exported file's probabilities differ from medept's by "
                f"{verified['largest_difference']:.2g}, more than {TOLERANCE:g}, so it is not "
                f"written: the exporter of PyTorch {torch.__version__} does not serve this encoder"
            )
        about = _about(classifier, graph, number_format) | {
            "file": out.name,
            "sha256": hashlib.sha256(partial.read_bytes()).hexdigest(),
            "verified": verified,
        }
        description.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    return about


def _refuse(out: Path, beside: Path, number_format: str) -> None:
    if out.suffix not in SUFFIXES:
        raise DataError(f"{out}: a model is exported as {' or '.join(SUFFIXES)}")
    for file in (out, beside):
        if file.exists():
            raise DataError(f"{file}: exists already; name another or remove it")
    if number_format not in get_args(Quantity):
        raise SettingsError(
            f"number_format={number_format!r}: use one of {', '.join(get_args(Quantity))}"
        )
    if out.suffix == ".pt2" and number_format != "float32":
        raise SettingsError(f"number_format={number_format!r} is for .onnx files")


def _read(image: ImageLike | Case) -> Image.Image:
    if isinstance(image, Case):
        raise DataError("a file looks at single images: give images, not volumes or cases")
    return read_image(image)


def _noise(graph: ProbabilityGraph) -> list[Image.Image]:
    """Images that are smooth as photographs are, and differ."""
    height, width = graph.preprocessing.size
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (DRAWN, 8, 8, 3), dtype=np.uint8)
    return [Image.fromarray(x).resize((width, height), Image.Resampling.BICUBIC) for x in coarse]


def _runner(module: Callable[..., Tensor]) -> Run:
    """A module as a function of arrays."""

    def run(batch: Sequence[np.ndarray]) -> np.ndarray:
        with torch.inference_mode():
            return module(*map(torch.from_numpy, batch)).numpy()

    return run


def _in_batches(run: Run, inputs: dict[str, Tensor]) -> np.ndarray:
    """Probabilities (n, C) of all inputs."""
    arrays = [tensor.numpy() for tensor in inputs.values()]
    starts = range(0, len(arrays[0]), BATCH)
    return np.concatenate([run([x[i : i + BATCH] for x in arrays]) for i in starts])


def _dynamic(inputs: dict[str, Tensor]) -> tuple[tuple[Tensor, ...], tuple[Any, ...]]:
    """Example inputs of two images, and that their number may be any."""
    batch = torch.export.Dim("batch")
    return tuple(x[:2] for x in inputs.values()), tuple({0: batch} for _ in inputs)


def _write_torch(graph: ProbabilityGraph, inputs: dict[str, Tensor], file: Path) -> Run:
    examples, dynamic = _dynamic(inputs)
    with torch.no_grad():
        program = torch.export.export(graph, examples, dynamic_shapes=dynamic)
    with file.open("wb") as opened:  # by its name, PyTorch would want the suffix
        torch.export.save(program, opened)
    with file.open("rb") as opened:
        return _runner(torch.export.load(opened).module())


def _write_onnx(
    graph: ProbabilityGraph, inputs: dict[str, Tensor], file: Path, number_format: str
) -> Run:
    try:
        import onnxruntime
        import onnxscript  # noqa: F401, which torch.onnx needs
    except ImportError as error:
        raise ResourceError("ONNX needs an extra: pip install 'medept[export]'") from error
    examples, dynamic = _dynamic(inputs)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="# The axis name")  # of inputs that share one
        torch.onnx.export(
            graph,
            examples,
            file,
            dynamo=True,
            verbose=False,
            input_names=list(inputs),
            output_names=["probabilities"],
            dynamic_shapes=dynamic,
            external_data=False,
        )
    if number_format == "float16":
        _halve(file)
    elif number_format == "int8":
        from onnxruntime.quantization import QuantType, quantize_dynamic

        quantize_dynamic(file, file, weight_type=QuantType.QInt8)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    if isinstance(session.get_inputs()[0].shape[0], int):
        raise EncoderError(
            "the exporter fixed the number of images in a batch: this encoder or method is not "
            "exported to ONNX; try a .pt2 file"
        )
    return lambda batch: session.run(None, dict(zip(inputs, batch, strict=True)))[0]


def _halve(file: Path) -> None:
    """Weights and computation in float16; inputs and outputs stay float32."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    onnx.save(convert_float_to_float16(onnx.load(file), keep_io_types=True), file)


def _compared(
    expected: np.ndarray,
    found: np.ndarray,
    classifier: FewShotClassifier,
    data: LabelledImages | None,
) -> dict[str, Any]:
    """By how much the file's probabilities (n, C) differ from medept's; with data, its metrics."""
    same = decide(expected, classifier.task_) == decide(found, classifier.task_)
    compared = {
        "images": len(expected),
        "of": "noise" if data is None else "data that the adapter was not fitted to",
        "largest_difference": float(np.abs(found - expected).max()),
        "changed_decisions": int((~same.reshape(len(same), -1).all(axis=1)).sum()),
    }
    if data is None:
        return compared
    both = [
        evaluate(values, data.targets, classes=data.classes, resamples=0).metrics
        for values in (expected, found)
    ]
    names = {name: [metrics[name].value for metrics in both] for name in both[0]}
    return compared | {"metrics": names}


def _about(
    classifier: FewShotClassifier, graph: ProbabilityGraph, number_format: str
) -> dict[str, Any]:
    """What the file expects and gives."""
    info, sets = classifier.info(), classifier.prediction_sets_
    return {
        "inputs": {name: asdict(one) for name, one in inputs_of(graph).items()},
        "output": "probabilities",
        "classes": info.classes,
        "task": info.task,
        "views": graph.count,
        "calibration": str(info.calibration),
        "prevalence": info.prevalence,
        "operating_points": [point.model_dump() for point in classifier.operating_points_],
        "prediction_sets": sets and sets.model_dump(),
        "number_format": number_format,
        "method": info.method,
        "encoder": {"name": info.encoder.name, "sha256": info.encoder.sha256},
        "versions": current_versions(),
    }
