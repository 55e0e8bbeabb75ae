"""What the latest fit gets right and wrong: by cross-validation inside the labels."""

from __future__ import annotations

import html
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from nicegui import ui

from medept.app.workplace import Visit, card, framed, heading, note, picture, told

if TYPE_CHECKING:
    from medept.evaluation.decisions import Decisions

SHOWN = 24
"""Images that it gets wrong, at most."""


@dataclass(frozen=True)
class HeldOut:
    """Predictions of labelled images by classifiers that did not learn from them."""

    names: list[str]
    targets: np.ndarray
    probabilities: np.ndarray
    groups: np.ndarray | None
    classes: list[str]


def show_see(visit: Visit, tabs: ui.tabs) -> None:
    """Build the tab, and anew whenever it is opened."""
    place = ui.column().classes("w-full panel")

    def fill() -> None:
        place.clear()
        with place, told():
            _show(visit)

    fill()
    tabs.on_value_change(lambda e: fill() if e.value == "See" else None)


def _show(visit: Visit) -> None:
    fits = visit.place.project.fits
    if not fits:
        with card("Nothing is fitted yet"):
            note("Label some images, then press Fit.")
        return
    fit = fits[-1]
    held_out = read_held_out(fit)
    if held_out is None:
        with card("How good is it?"):
            note(
                "Nothing could be held out: each class needs labels of two images or patients at "
                "least. Label some more, and fit again."
            )
    else:
        _show_point(held_out)
        _show_wrong(visit, held_out)
    with card("Report"):
        note("The full report of the fit, as one page to read or print.")
        ui.html(framed("Report", f"/report/{fit.name}"), sanitize=False).classes("w-full")


def read_held_out(fit: Path) -> HeldOut | None:
    """What was held out in the cross-validation of a fit; None if nothing was."""
    from medept.fits import layout
    from medept.fits.folder import read_fit
    from medept.fits.tables import read_predictions

    found = read_fit(fit)
    if found.held_out is None:
        return None
    targets, probabilities, groups = found.held_out
    classes = list(found.info.classes)
    table, _ = read_predictions(fit, classes, layout.HELD_OUT)
    names = table["case" if "case" in table else "image"].tolist()
    return HeldOut(names, targets, probabilities, groups, classes)


def _show_point(held_out: HeldOut) -> None:
    """The operating point: which class counts, from which probability on."""
    with card("From which probability on does it count?"):
        note("Move the threshold to trade missed cases against false alarms.")
        which = ui.select(
            held_out.classes, value=held_out.classes[-1], label="What is looked for"
        ).classes("w-64")
        ui.label("Threshold").classes("name")
        slider = ui.slider(min=0.01, max=0.99, step=0.01, value=0.5)
        slider.props('label label-always aria-label="Threshold"')
        words = ui.label("").classes("big").props('role="status"')
        table = ui.html("", sanitize=False)

        def move() -> None:
            found = decisions_at(held_out, which.value, slider.value)
            words.text = sentence(found)
            table.content = two_by_two(found)

        which.on_value_change(move)
        slider.on_value_change(move)
        move()
        note("Counted on labelled images, each predicted by a classifier that did not learn from "
             "it. Other patients and other machines may differ.")  # fmt: skip


def decisions_at(held_out: HeldOut, positive: str, threshold: float) -> Decisions:
    """What is decided if this class counts from this probability on."""
    from medept.evaluation.decisions import judge_point
    from medept.evaluation.operating_points import OperatingPoint

    point = OperatingPoint(positive=[positive], threshold=threshold, aim="slider")
    return judge_point(
        point, held_out.probabilities, held_out.targets, held_out.classes, held_out.groups
    )[0]


def sentence(found: Decisions) -> str:
    """Decisions in plain words."""
    ill = found.true_positive + found.false_negative
    well = found.false_positive + found.true_negative
    sensitivity, specificity = found.rates["sensitivity"], found.rates["specificity"]

    def interval(low: float | None, high: float | None) -> str:
        return "" if low is None or high is None else f" (95 % interval {low:.0%} to {high:.0%})"

    return (
        f"Of {ill} {found.positive}, {found.true_positive} are found and {found.false_negative} "
        f"missed: sensitivity {sensitivity.value or 0:.0%}"
        f"{interval(sensitivity.low, sensitivity.high)}. Of {well} others, {found.false_positive} "
        f"are false alarms: specificity {specificity.value or 0:.0%}"
        f"{interval(specificity.low, specificity.high)}."
    )


def two_by_two(found: Decisions) -> str:
    """Decisions as a table in HTML."""
    name = html.escape(found.positive)
    return (
        f'<table class="two"><tr><td></td><th scope="col">called {name}</th>'
        f'<th scope="col">not called</th></tr><tr><th scope="row">is {name}</th>'
        f"<td>{found.true_positive}</td><td>{found.false_negative}</td></tr>"
        f'<tr><th scope="row">is not</th><td>{found.false_positive}</td>'
        f"<td>{found.true_negative}</td></tr></table>"
    )


def _show_wrong(visit: Visit, held_out: HeldOut) -> None:
    """The images that it gets wrong, the most certain first."""
    predicted = held_out.probabilities.argmax(axis=1)
    wrong = np.flatnonzero(predicted != held_out.targets)
    wrong = wrong[np.argsort(-held_out.probabilities[wrong].max(axis=1), kind="stable")]
    rows = visit.place.project.pool.rows
    with ui.card().classes("part"):
        heading(f"What it gets wrong: {len(wrong)} of {len(predicted)}")
        if not len(wrong):
            note("Nothing, among the labelled images. So few say little.")
            return
        note("The most confident mistakes first. Is the label right? You can change it in Label.")
        with ui.element("div").classes("grid"):
            for i in wrong[:SHOWN]:
                name = held_out.names[i]
                if name not in rows:
                    continue
                said = (
                    f"{held_out.classes[held_out.targets[i]]}, called "
                    f"{held_out.classes[predicted[i]]} ({held_out.probabilities[i].max():.0%})"
                )
                with ui.element("div").classes("tile"):
                    ui.html(
                        f'{picture(rows[name], name)}<span title="{html.escape(said, quote=True)}">'
                        f"{html.escape(said)}</span>",
                        sanitize=False,
                    )
