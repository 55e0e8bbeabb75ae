"""The images of the project, a screenful at a time, and labels that are there already."""

from __future__ import annotations

import html
from pathlib import Path

from nicegui import run, ui

from medept.app.project import Project
from medept.app.workplace import Visit, card, framed, note, picture, told
from medept.labelling.store import Answer

PAGE = 60
"""Images that are shown at once."""


def show_data(visit: Visit, tabs: ui.tabs) -> None:
    """Build the tab."""
    project = visit.place.project
    pool, count = project.pool, len(project.pool)
    what = "cases" if pool.has_cases else "images"
    with card(f"{count:,} {what}"):
        patients = "" if pool.groups is None else f", of {len(set(pool.groups)):,} patients"
        note(
            f"From {pool.source}{patients}. Everything you do here is kept in {project.folder}; "
            "the images themselves stay as they are."
        )
        ui.button("Start to label", on_click=lambda: tabs.set_value("Label"))
        grid = ui.element("div").classes("grid")

        def turn(page: int) -> None:
            grid.clear()
            answers = project.store.agreed()
            with grid:
                for row in range((page - 1) * PAGE, min(page * PAGE, count)):
                    name = pool.subjects[row].name
                    caption = html.escape(answers.get(name) or Path(name).name)
                    with ui.element("div").classes("tile"):
                        ui.html(f"{picture(row, name)}<span>{caption}</span>", sanitize=False)

        turn(1)
        if count > PAGE:
            ui.pagination(
                1, -(-count // PAGE), direction_links=True, on_change=lambda e: turn(e.value)
            ).props("max-pages=5 boundary-numbers")
    _show_check(visit)
    _show_import(visit)
    _show_export(visit)


def _show_export(visit: Visit) -> None:
    project = visit.place.project
    with card("Labels to hand on"):
        note("The labels that readers agree on, as a table or as tasks of Label Studio.")

        def save(suffix: str) -> None:
            from medept.workflows.label import write_labels

            with told():
                out = project.next_folder("export") / f"labels{suffix}"
                write_labels(project.pool, project.store.agreed(), out)
                ui.download.file(out)

        with ui.element("div").classes("line"):
            ui.button("Save as CSV", on_click=lambda: save(".csv")).props("outline")
            ui.button("Save for Label Studio", on_click=lambda: save(".json")).props("outline")


def _show_check(visit: Visit) -> None:
    project = visit.place.project
    with card("Check the data"):
        note(
            "Looks through the labelled images for copies, for images that are nearly the same, "
            "and for labels that look wrong. Copies make a result look better than it is."
        )
        found = ui.column().classes("w-full")

        async def look() -> None:
            found.clear()
            with found:
                note("Looking …")
            with told():
                try:
                    report = await run.io_bound(check_labelled, project)
                finally:
                    found.clear()
                with found:
                    page = framed("Data check", f"/check/{report.parent.name}")
                    ui.html(page, sanitize=False).classes("w-full")

        ui.button("Check", on_click=look).props("outline")
        found.move(target_index=-1)


def check_labelled(project: Project) -> Path:
    """The page of a data check of all that is labelled, as ``medept check --out`` writes it.

    Raises:
        InputError: if there are too few labels.
    """
    from medept.report.check_page import write_check
    from medept.workflows.check import check

    data = project.pool.labelled(project.store.agreed(), project.settings.classes)
    out = project.next_folder("check")
    write_check(check(data), project.pool.source.name, out)
    return out / "check.html"


def _show_import(visit: Visit) -> None:
    project = visit.place.project
    with card("Labels that you have already"):
        note(
            "A table (CSV, Excel, Parquet), an export of Label Studio, COCO or CVAT, or a folder "
            "with one subfolder for each class. Images are recognised by their names."
        )
        place = ui.input("Path of the table or folder").classes("w-full")

        async def bring() -> None:
            from medept.workflows.label import import_labels

            with told():
                found = await run.io_bound(
                    import_labels, project.pool, Path(place.value).expanduser()
                )
                project.add_classes(sorted(set(found.values())))
                subjects = {s.name: s for s in project.pool.subjects}
                project.store.answer_all(
                    {subjects[name]: Answer(label) for name, label in found.items()},
                    reader=visit.reader,
                )
                visit.place.learner.wake()
                ui.notify(f"{len(found):,} labels were read.", type="positive")

        ui.button("Read labels", on_click=bring).props("outline")
