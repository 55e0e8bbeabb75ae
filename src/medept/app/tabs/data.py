"""The images of the project, a screenful at a time, and labels that are there already."""

from __future__ import annotations

import html
from pathlib import Path

from nicegui import run, ui

from medept.app.workplace import Visit, card, note, picture, told
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
    _show_import(visit)


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
