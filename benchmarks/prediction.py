"""Does reading keep up with the model? Images per second of prediction from files beside those of
the same model on batches that are decoded already, in turn, for each kind of file.

A ratio below 1 is the time that the model waited for files. Reading and the model share the CPU's
cores, so on a CPU the ratio also holds the reading itself; on a GPU it does not. Measure on a
machine that does nothing else. The encoder is the embedded one, or ``--large``: a ViT-B at 224
pixels with random weights, beside which reading weighs less.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from side_by_side import arguments, show, time_in_turn

from medept.data.images import read_image
from medept.encoders.encoder import Encoder
from medept.encoders.load import load_encoder
from medept.phantoms import make_phantoms
from medept.training.device import make_accelerator
from medept.training.inference import EVALUATION_BATCH, encode_images, run_batches

SIDES = {"JPEG, 512 px": 512, "JPEG, 12 megapixels": 3464, "PNG, 512 px": 512, "DICOM, 512 px": 512}


def write_images(folder: Path, count: int, side: int, kind: str) -> list[Path]:
    """Files of phantoms, enlarged to this side."""
    data = make_phantoms("colon", patients=4, images_per_patient=1, size=256)
    pictures = [read_image(image).resize((side, side)) for image in data.images]
    files = []
    for i in range(count):
        picture = pictures[i % len(pictures)]
        if kind == "DICOM":
            files.append(_write_dicom(folder / f"{i}.dcm", picture))
            continue
        files.append(folder / f"{i}.{kind.lower()}")
        picture.save(files[-1], kind)
    return files


def _write_dicom(file: Path, picture: Image.Image) -> Path:
    """A CT image without compression."""
    import pydicom
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    pixels = np.asarray(picture.convert("L"), dtype=np.uint16) * 16
    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = CTImageStorage
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    data.Rows, data.Columns = pixels.shape
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 0
    data.WindowCenter, data.WindowWidth = 2048, 4096
    data.PixelData = pixels.tobytes()
    data.save_as(file, enforce_file_format=True)
    return file


def compare(encoder: Encoder, files: list[Path], repeats: int) -> dict[str, object]:
    """Images per second of the bare model and of prediction from files, and the ratio of these."""
    accelerator = make_accelerator("auto", "auto")
    encoder.to(accelerator.device)
    prepare = encoder.preprocessing.evaluation()
    pixels = torch.stack([prepare(read_image(file)) for file in files])
    batches = list(pixels.split(EVALUATION_BATCH))

    def bare() -> None:
        for output in run_batches(encoder, batches, accelerator):
            output.float().cpu()

    seconds, ratios = time_in_turn(
        {"bare": bare, "read": lambda: encode_images(encoder, files, accelerator)}, repeats
    )
    found = {name: len(files) / value for name, value in seconds.items()}
    return {
        "bare, images/s": found["bare"],
        "from files, images/s": found["read"],
        "ratio": 1 / ratios["read"],
    }


def rows(encoder: Encoder, *, quick: bool) -> Iterator[dict[str, object]]:
    """A row for each kind of file."""
    for kind, side in SIDES.items():
        with tempfile.TemporaryDirectory() as folder:
            count = 2 if quick else 8 * EVALUATION_BATCH
            size = min(side, 1024) if quick else side
            files = write_images(Path(folder), count, size, kind.split(",")[0])
            yield {"files": kind} | compare(encoder, files, 1 if quick else 5)


def main() -> None:
    """Run it."""
    options = arguments(__doc__ or "", large="a ViT-B with random weights")
    name = "vit_base_patch16_224" if options.large else "embedded"
    encoder = load_encoder(name, weights="random" if options.large else None)
    show(rows(encoder, quick=options.quick), options.json)


if __name__ == "__main__":
    main()
