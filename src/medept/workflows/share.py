"""A fit as one file to hand on."""

from __future__ import annotations

import zipfile
from pathlib import Path

from medept.files import whole_file
from medept.fits import layout
from medept.fits.adapter import read_info

HOW_TO = """\
How to use this adapter of medept (for research; not a medical device)

    pip install 'medept[serve]'
    medept info {name}
    medept predict {name} FOLDER_OF_IMAGES --out predictions.csv
    medept serve {name}

The last one answers over HTTP: curl -F files=@image.png http://127.0.0.1:8000/v1/predict
It tells these classes apart: {classes}.
"""


def pack(fit: Path, out: Path, *, images: bool = True) -> Path:
    """Write the files of a fit and how to use them to the new zip file ``out``.

    Args:
        fit: what ``medept fit`` wrote.
        out: the file.
        images: whether the report, which shows images, and the tables that name them are inside.

    Raises:
        InputError: if the folder is no fit.
    """
    info = read_info(fit)
    needed = {layout.ADAPTER_TENSORS, layout.ADAPTER_INFO, layout.MODEL_CARD, layout.METRICS}
    text = HOW_TO.format(name=fit.name, classes=", ".join(info.classes))
    with (
        whole_file(out) as partial,
        zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for file in sorted(path for path in fit.iterdir() if path.is_file()):
            if images or file.name in needed:
                archive.write(file, f"{fit.name}/{file.name}")
        archive.writestr("HOW-TO.txt", text)
    return out
