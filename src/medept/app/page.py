"""The frame of the page: its title, its tabs, its style."""

from __future__ import annotations

from nicegui import ui

from medept.app.style import STYLE
from medept.app.tabs.data import show_data
from medept.app.tabs.fit import show_fit
from medept.app.tabs.label import show_label
from medept.app.tabs.predict import show_predict
from medept.app.tabs.see import show_see
from medept.app.tabs.share import show_share
from medept.app.workplace import Visit, Workplace

TABS = {
    "Images": show_data,
    "Label": show_label,
    "Fit": show_fit,
    "See": show_see,
    "Predict": show_predict,
    "Share": show_share,
}


def show_page(place: Workplace) -> None:
    """Build the page for one browser window."""
    ui.add_css(STYLE)
    ui.colors(
        primary="#0b5566",
        secondary="#5b6670",
        positive="#1d6b3a",
        negative="#a3241b",
        warning="#8a5300",
    )
    visit = Visit(place)
    with ui.header().classes("top"):
        ui.html("<h1>medept</h1>", sanitize=False)
        ui.label(place.project.pool.source.resolve().name).classes("source")
        with ui.tabs().props("dense no-caps inline-label mobile-arrows outside-arrows") as tabs:
            for name in TABS:
                ui.tab(name)
    with ui.element("div").classes("main"):
        panels = ui.tab_panels(tabs, value="Images", animated=False).props("keep-alive")
        with panels.classes("panels"):
            for name, show in TABS.items():
                with ui.tab_panel(name).classes("panel"):
                    show(visit, tabs)
        ui.label("For research. Not a medical device. Nothing leaves this computer.").classes(
            "foot"
        )
