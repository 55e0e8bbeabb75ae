"""Verbs about data: check it, make it, shrink it, tile it, share support sets of it."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import typer

from medept.cli.app import DATA, app
from medept.cli.console import notes, print_json, progress_bars, results, resumable
from medept.cli.options import (
    ClassNames,
    Columns,
    Device,
    Json,
    TaskName,
    label_options,
    with_columns,
)
from medept.errors import SettingsError
from medept.files import require_new_folder


@app.command(rich_help_panel=DATA)
@with_columns
def check(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Table or folder, as for `fit`.")],
    out: Annotated[
        Path | None, typer.Option(help="New folder for check.html and findings.csv.")
    ] = None,
    *,
    columns: Columns,
    task: TaskName = None,
    classes: ClassNames = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Look for duplicates, patients on both sides of a split, and suspect labels.

    The exit code is 1 if anything would inflate a result, or if an image cannot be read.
    """
    from medept.data.sources import open_dataset
    from medept.report import check_page
    from medept.workflows.check import check as check_data

    if out is not None:
        require_new_folder(out)
    table = open_dataset(data, **columns, **label_options(task, classes))
    with progress_bars() as report:
        found = check_data(table, device=device, progress=report)
    if out is not None:
        check_page.write_check(found, data.name, out)
    if as_json:
        print_json(check_page.as_dict(found))
    else:
        results.print(check_page.as_text(found, data.name))
        if out is not None:
            notes.print(f"Written to {out}: check.html, findings.csv")
    raise typer.Exit(int(found.flatters or found.unreadable))


@app.command(rich_help_panel=DATA)
def datasets(as_json: Json = False) -> None:
    """List the data sets that medept knows: NAME:FOLDER stands for one wherever data is read."""
    from medept.data.sources import SOURCES

    if as_json:
        print_json({name: source.summary for name, source in SOURCES.items()})
        return
    for name, source in SOURCES.items():
        results.print(f"{name:24} {source.summary}", soft_wrap=True)


@app.command(rich_help_panel=DATA)
@with_columns
def episodes(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Table or folder, as for `fit`.")],
    out: Annotated[Path, typer.Option(help="New folder for the lists.")],
    shots: Annotated[
        list[str] | None,
        typer.Option(
            metavar="K", help="Shots per class, as for `fit`; repeatable. Default: 1, 5 and 10."
        ),
    ] = None,
    count: Annotated[
        int, typer.Option("--episodes", min=1, help="Support sets for each number.")
    ] = 5,
    *,
    columns: Columns,
    task: TaskName = None,
    classes: ClassNames = None,
    as_json: Json = False,
) -> None:
    """Draw support sets, and write them as lists for `fit --episode LIST`."""
    from medept.data.sources import open_dataset
    from medept.episodes.draw import parse_shots
    from medept.episodes.lists import write_episodes

    table = open_dataset(data, **columns, **label_options(task, classes))
    asked = {text: parse_shots(text) for text in shots or ["1", "5", "10"]}
    written = write_episodes(table, out, asked, count)
    if as_json:
        print_json({"out": str(out), "lists": written})
        return
    for name, (support, test) in written.items():
        results.print(f"{name}: {support} support images, {test} test images", soft_wrap=True)


@app.command(rich_help_panel=DATA)
def phantoms(
    task: Annotated[str, typer.Argument(metavar="TASK", help="colon, chest or endo; bags or ct.")],
    out: Annotated[Path, typer.Option(help="New folder for the images and labels.csv.")],
    patients: Annotated[int, typer.Option(help="Number of patients.")] = 60,
    images_per_patient: Annotated[
        int | None,
        typer.Option(
            help="Images per patient. Default: 4; of bags 24 tiles of a slide, of ct 60 slices."
        ),
    ] = None,
    size: Annotated[int, typer.Option(help="Pixels per side.")] = 96,
    difficulty: Annotated[float, typer.Option(help="From 0 (easy) to 1 (hard).")] = 0.35,
    seed: Annotated[int, typer.Option(help="The same seed makes the same images.")] = 0,
    dicom: Annotated[
        bool, typer.Option("--dicom", help="ct: folders of DICOM files, and not NIfTI.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make a synthetic data set, with patients, to try things out on.

    bags are slides cut into tiles, and ct volumes of the chest: cases of which few images show the
    tumour or the nodule.
    """
    from medept.phantoms import TASKS, make_phantoms, write_phantoms
    from medept.phantoms import cases as of_cases

    options: dict[str, Any] = {"size": size, "difficulty": difficulty, "seed": seed}
    if dicom and task != "ct":
        raise SettingsError(f"dicom= is for ct alone; leave it out for {task}")
    each = images_per_patient or of_cases.IMAGES_PER_CASE.get(task, 4)
    if task not in of_cases.CASE_TASKS:
        if task not in TASKS:
            known = ", ".join((*TASKS, *of_cases.CASE_TASKS))
            raise SettingsError(f"task {task!r} is not known; the tasks are {known}")
        data = make_phantoms(task, patients=patients, images_per_patient=each, **options)
        table, classes, more = write_phantoms(data, out), list(data.classes), ""
    elif task == "bags":
        bags = of_cases.make_bags(patients=patients, tiles=each, **options)
        table, classes = of_cases.write_bags(bags, out), list(bags.classes)
        more = " --case-column slide"
    else:
        table = of_cases.write_ct(out, patients=patients, dicom=dicom, slices=each, **options)
        classes, more = list(of_cases.CLASSES[task]), " --window lung"
    if as_json:
        print_json({"table": str(table), "images": patients * each, "classes": classes})
    else:
        notes.print(
            f"{patients * each} images of {patients} patients. Written to {out}\n"
            f"Next: medept fit {quote(str(table))} --out my-fit --shots 5{more}"
        )


@app.command(rich_help_panel=DATA)
@with_columns
def shrink(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Table or folder, as for `fit`.")],
    out: Annotated[Path, typer.Option(help="Folder for the small images and labels.csv.")],
    pixels: Annotated[int, typer.Option(help="Largest length of an image's shorter side.")] = 512,
    *,
    columns: Columns,
    task: TaskName = None,
    classes: ClassNames = None,
    as_json: Json = False,
) -> None:
    """Copy a data set with small images, which are read faster.

    Whatever the files were (DICOM, 16-bit, photographs), the copies are 8-bit RGB PNG files, as
    medept would have read them. Their table has the columns image and label, and group (such as
    patients) and split if the data have them; other columns are left out. If it is stopped, the
    same command resumes.
    """
    from medept.data.shrink import write_shrunk
    from medept.data.sources import open_dataset

    if data.is_dir() and out.resolve().is_relative_to(data.resolve()):
        raise SettingsError(f"{out}: inside the folder that is copied; name one beside it")
    images = open_dataset(data, **columns, **label_options(task, classes))
    with resumable(), progress_bars() as report:
        table = write_shrunk(images, out, pixels=pixels, progress=report)
    if as_json:
        print_json({"table": str(table), "images": len(images)})
    else:
        place = quote(str(table))
        notes.print(f"{len(images)} images. Next: medept fit {place} --out my-fit --shots 5")


@app.command(rich_help_panel=DATA)
def tiles(
    slides: Annotated[
        list[Path], typer.Argument(metavar="SLIDES", help="Whole-slide files, or folders of them.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the tiles and their tables.")],
    size: Annotated[int, typer.Option(help="Pixels along the side of a tile.")] = 224,
    mpp: Annotated[float, typer.Option(help="Micrometres per pixel of the tiles.")] = 0.5,
    slide_mpp: Annotated[
        float | None,
        typer.Option(
            help="Micrometres per pixel at the slide's finest level. Default: as the slide states."
        ),
    ] = None,
    tissue: Annotated[
        float, typer.Option(help="Smallest fraction of tissue in a tile, 0 to 1.")
    ] = 0.25,
    as_json: Json = False,
) -> None:
    """Cut the tissue of whole slides into tiles.

    Each slide gets a table, SLIDE.csv; several slides also get slides.csv, with the tiles of all.
    If it is stopped, the same command resumes.
    """
    from medept.data.slides import find_slides, write_slides

    found = find_slides(slides)
    with resumable(), progress_bars() as report:
        file, table = write_slides(
            found, out, size=size, mpp=mpp, slide_mpp=slide_mpp, tissue=tissue, progress=report
        )
    if as_json:
        print_json({"out": str(out), "tiles": len(table)})
    else:
        notes.print(f"{len(table)} tiles. Their table: {file}")
