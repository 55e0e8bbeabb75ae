"""New images: dropped into the page or named by a folder, predicted, and saved as a table."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
from nicegui import run, ui
from nicegui.events import MultiUploadEventArguments

from medept.app.project import Project
from medept.app.workplace import Visit, card, note, told
from medept.errors import DataError, InputError

LIMIT = 2**30
"""Bytes that may be dropped at once."""

SHOWN = 500
"""Rows that the page shows; the file has all."""


def show_predict(visit: Visit, tabs: ui.tabs) -> None:
    """Build the tab."""
    project = visit.place.project
    with card("Predict new images"):
        note("With the latest fit. Drop image files here, or give the path of a folder or table.")
        results = ui.column().classes("w-full")

        async def predict(source: Path, given: int = 0) -> None:
            results.clear()
            with results:
                ui.spinner(size="2em")
                note("Predicting …")
            with told():
                try:
                    out, shown, count = await run.io_bound(predict_folder, project, source)
                except InputError:
                    results.clear()
                    raise
                results.clear()
                with results:
                    if given > count:
                        note(f"{given - count} of {given} files cannot be read as images.")
                    _show_results(out, shown, count)

        async def dropped(event: MultiUploadEventArguments) -> None:
            folder = project.next_folder("upload")
            with told():
                folder.mkdir(parents=True)
                for number, file in enumerate(event.files):
                    await file.save(folder / safe_name(file.name, folder, number))
                upload.reset()
                await predict(folder, len(event.files))

        upload = ui.upload(
            label="Drop images here",
            multiple=True,
            auto_upload=True,
            max_total_size=LIMIT,
            on_multi_upload=dropped,
            on_rejected=lambda: ui.notify("More than 1 GB: give the path of the folder instead."),
        ).classes("w-full")
        pick = f"() => getElement({upload.id}).pickFiles()"
        ui.button("Choose images").props("outline").on("click", js_handler=pick)
        path = ui.input("Path of a folder, a table or an image").classes("w-full")

        async def named() -> None:
            if not (path.value or "").strip():
                ui.notify("Write the path of a folder first.", type="warning")
                return
            await predict(Path(path.value.strip()).expanduser())

        path.on("keydown.enter", named)
        ui.button("Predict", on_click=named)
        results.move(target_index=-1)


def safe_name(name: str, folder: Path, number: int) -> str:
    """The name under which a dropped file is kept: no path, no hidden file, none twice.

    >>> safe_name("../../.profile", Path("dropped"), 3)
    'profile'
    >>> safe_name("a/b: c?.png", Path("dropped"), 3)
    'b_ c_.png'
    """
    plain = re.sub(r'[\x00-\x1f<>:"|?*]', "_", re.split(r"[\\/]", name)[-1]).lstrip(".")
    plain = plain.encode("utf-8", "replace").decode()[-120:] or f"image-{number}"
    return f"{number}-{plain}" if (folder / plain).exists() else plain


def predict_folder(project: Project, source: Path) -> tuple[Path, pd.DataFrame, int]:
    """Predict with the latest fit, as ``medept predict --skip-unreadable`` does.

    Returns:
        the new table; its first rows with a column ``picture`` of small data URIs; how many it has.

    Raises:
        InputError: if nothing is fitted, or nothing can be read.
    """
    from medept.classifier.classifier import FewShotClassifier
    from medept.data.find_images import find_images
    from medept.report.html import thumbnail
    from medept.workflows.predict import predict

    if not project.fits:
        raise DataError("Nothing is fitted yet: label images and press Fit.")
    found = find_images([source])
    out = project.next_folder("prediction") / "predictions.csv"
    classifier = FewShotClassifier.load(project.fits[-1])
    tables: list[pd.DataFrame] = []
    predict(classifier, found, out, skip_unreadable=True, seen=tables.append)
    places = dict(zip(found.names, found.images, strict=True))
    whole = pd.concat(tables, ignore_index=True)
    shown = whole.head(SHOWN).copy()
    images = zip(shown["image"], shown["unreadable"], strict=True)
    shown["picture"] = ["" if why else thumbnail(places[name]) for name, why in images]
    return out, shown, len(whole)


def _show_results(out: Path, table: pd.DataFrame, count: int) -> None:
    numbers = [name for name in table.columns if name.startswith("p_")]
    rows = [
        {
            "id": i,
            "picture": row["picture"],
            "image": Path(row["image"]).name,
            "predicted": row["predicted"] or row["unreadable"],
            **{name: _percent(row[name]) for name in numbers},
        }
        for i, row in enumerate(table.to_dict(orient="records"))
    ]
    columns = [
        {"name": "picture", "label": "Picture", "field": "picture", "align": "left"},
        {"name": "image", "label": "Image", "field": "image", "align": "left", "sortable": True},
        {"name": "predicted", "label": "Predicted", "field": "predicted", "align": "left",
         "sortable": True},
        *({"name": name, "label": f"{name.removeprefix('p_')} (%)", "field": name,
           "sortable": True} for name in numbers),
    ]  # fmt: skip
    first = f"; the first {len(rows)} are shown" if count > len(rows) else ""
    ui.label(f"{count:,} images predicted{first}").classes("big").props('role="status"')
    found = ui.table(rows=rows, columns=columns, row_key="id", pagination=25).classes("w-full")
    found.props("flat bordered")
    found.add_slot(
        "body-cell-picture",
        '<q-td :props="props"><img :src="props.value" :alt="props.row.image"></q-td>',
    )
    with ui.element("div").classes("line"):
        ui.button("Save as CSV", on_click=lambda: ui.download.file(out)).props("outline")

        def excel() -> None:
            with told():
                ui.download.file(write_excel(out))

        ui.button("Save as Excel", on_click=excel).props("outline")
    note(f"Kept in {out}. A research result, and no diagnosis.")


def _percent(probability: float) -> float | None:
    """None where an image could not be read."""
    return None if pd.isna(probability) else round(100 * float(probability), 1)


def write_excel(file: Path) -> Path:
    """The same table as .xlsx beside it; cells that look like formulas are text."""
    from medept.files import read_csv, write_table

    table, out = read_csv(file), file.with_suffix(".xlsx")
    numbers = [name for name in table.columns if name.startswith("p_")]
    write_table(out, table.assign(**{name: pd.to_numeric(table[name]) for name in numbers}))
    return out
