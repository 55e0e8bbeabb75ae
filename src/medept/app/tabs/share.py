"""Handing the fit on: one file with the adapter, its report, its model card and a command."""

from __future__ import annotations

from pathlib import Path

from nicegui import run, ui

from medept.app.workplace import Visit, card, note, told
from medept.errors import DataError


def show_share(visit: Visit, tabs: ui.tabs) -> None:
    """Build the tab."""
    project = visit.place.project
    with card("Hand it to colleagues and to IT"):
        note(
            "One zip file with the adapter, the report, the model card, and a text that says how "
            "to predict with it and how to serve it. The report shows small pictures of images "
            "that were labelled, and tables name their files: share it only with those who may "
            "see them, or leave both out."
        )
        pictures = ui.switch("With report and names of images", value=True)

        async def zipped() -> None:
            from medept.workflows.share import pack

            with told():
                if not project.fits:
                    raise DataError("Nothing is fitted yet: label images and press Fit.")
                fit = project.fits[-1]
                out = project.next_folder("share") / f"{fit.name}.zip"
                done: Path = await run.io_bound(pack, fit, out, images=pictures.value)
                ui.download.file(done)
                ui.notify(f"Kept in {done}", type="positive")

        ui.button("Make the zip file", on_click=zipped)
