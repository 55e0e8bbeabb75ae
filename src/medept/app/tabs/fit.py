"""How good a classifier is with the labels so far, what more would bring, and the full fit."""

from __future__ import annotations

from collections import Counter

from nicegui import ui

from medept.app.fit_job import FitJob
from medept.app.workplace import Visit, Workplace, card, note, told
from medept.errors import DataError


def show_fit(visit: Visit, tabs: ui.tabs) -> None:
    """Build the tab."""
    place = visit.place
    with card("With the labels so far"):
        learnt = ui.column().classes("w-full")
    with card("Fit"):
        note(
            "Learns from all labels with medept's most accurate method, chooses calibration by "
            "cross-validation, and writes a report. It runs in the background; labelling can go on."
        )
        status = ui.label("").classes("big")
        status.props('role="status"')
        bar = ui.linear_progress(0, show_value=False).props('aria-label="Progress of the fit"')

        def begin() -> None:
            with told():
                _check(place)
                place.job = FitJob(place.project)
                update()

        def end() -> None:
            if place.job is not None:
                place.job.stop()
                update()

        with ui.element("div").classes("line"):
            start = ui.button("Fit", on_click=begin)
            stop = ui.button("Stop", on_click=end).props("outline")
            see = ui.button("See how good it is", on_click=lambda: tabs.set_value("See"))
            see.props("outline")
    told_before: list[object] = []

    def update() -> None:
        running = place.job is not None and place.job.poll()
        for element, shown in (
            (start, not running), (stop, running), (bar, running),
            (see, not running and bool(place.project.fits)),
        ):  # fmt: skip
            element.set_visibility(shown)
        status.text = _status(place, running)
        if place.job is not None:
            bar.value = place.job.part
        now = _state(place)
        if told_before != now:
            told_before[:] = now
            learnt.clear()
            with learnt:
                _show_learnt(place)

    update()
    ui.timer(1.0, update)


def _state(place: Workplace) -> list[object]:
    """All that the first part depends on."""
    learner = place.learner
    known = learner.known if _reading(place) else -1
    return [len(place.project.store.agreed()), learner.labels, id(learner.curve), known,
            learner.unreadable, learner.problem]  # fmt: skip


def _reading(place: Workplace) -> bool:
    """Whether images are still read for the first time."""
    return place.learner.known + place.learner.unreadable < len(place.project.pool)


def _check(place: Workplace) -> None:
    counts = Counter(place.project.store.agreed().values())
    if len(counts) < 2:
        raise DataError("Label images of two classes at least, and then fit.")


def _status(place: Workplace, running: bool) -> str:
    job = place.job
    if job is None:
        fits = place.project.fits
        return f"Latest: {fits[-1].name}" if fits else ""
    if running:
        return f"{job.what.capitalize()} … {job.part:.0%}"
    return f"Not fitted: {job.problem}." if job.problem else f"Done: {job.out.name}"


def _show_learnt(place: Workplace) -> None:
    learner, labels = place.learner, place.project.store.agreed()
    counts = Counter(labels.values())
    shown = ", ".join(f"{name}: {counts[name]}" for name in place.project.settings.classes)
    ui.label(f"{len(labels):,} labels. {shown}" if shown else "No labels yet.").classes("big")
    if learner.problem:
        note(f"The learning curve stopped: {learner.problem}")
    elif _reading(place):
        note(
            f"Images are read for the first time: {learner.known:,} of "
            f"{len(place.project.pool):,}. Suggestions start when all are."
        )
    if learner.unreadable:
        note(f"{learner.unreadable:,} images cannot be read, and are never suggested.")
    curve = learner.curve
    if curve is None:
        note("An estimate appears with eight labels or more, two at least of each class.")
        return
    low, value, high = curve.low[-1], curve.scores[-1], curve.high[-1]
    ui.label(
        f"A quick classifier gets {value:.0%} of each class right on average (95 % interval "
        f"{low:.0%} to {high:.0%}), on images that it did not learn from."
    ).classes("big")
    gain, least, most = curve.gain
    note(
        f"About {curve.more} more labels would change that by {gain:+.0%} ({least:+.0%} to "
        f"{most:+.0%}), if they are like those so far."
    )
    _show_curve(place)


def _show_curve(place: Workplace) -> None:
    curve = place.learner.curve
    assert curve is not None
    sizes = curve.sizes.tolist()

    def points(values: object) -> list[list[float]]:
        return [[x, round(100 * float(y), 1)] for x, y in zip(sizes, values, strict=True)]  # type: ignore[call-overload]

    def line(values: object, **more: object) -> dict[str, object]:
        return {"type": "line", "data": points(values), "symbol": "none", "silent": True} | more

    faint = {"lineStyle": {"color": "#8fb3bd", "type": "dashed", "width": 1}}
    ui.echart(
        {
            "animation": False,
            "grid": {"left": 46, "right": 16, "top": 16, "bottom": 44},
            "xAxis": {"type": "value", "name": "labels learnt from", "nameLocation": "middle",
                      "nameGap": 28, "min": 0},
            "yAxis": {"type": "value", "min": 0, "max": 100,
                      "axisLabel": {"formatter": "{value} %"}},
            "series": [
                line(curve.low, **faint),
                line(curve.high, **faint),
                line(curve.scores, symbol="circle", symbolSize=7,
                     lineStyle={"color": "#0b5566", "width": 2}, itemStyle={"color": "#0b5566"}),
            ],
        },
        renderer="svg",
    ).classes("w-full h-64").props('role="img" aria-label="Learning curve"')  # fmt: skip
