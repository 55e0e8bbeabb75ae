"""Labelling: one image at a time with the keyboard, or many in a grid."""

from __future__ import annotations

import html
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

from nicegui import ui
from nicegui.events import KeyEventArguments

from medept.app.workplace import Visit, card, note, picture, told
from medept.labelling.agreement import agreement
from medept.labelling.store import Answer, LabelStore

GRID = 24
"""Images of the grid."""


def show_label(visit: Visit, tabs: ui.tabs) -> None:
    """Build the tab."""
    LabelTab(visit, tabs)


class LabelTab:
    """The tab of one window."""

    def __init__(self, visit: Visit, tabs: ui.tabs) -> None:
        self.visit, self.tabs = visit, tabs
        self.project, self.store = visit.place.project, visit.place.project.store
        self.near, self.many = False, False
        self.count: ui.label | None = None
        self.show()
        self._setup()
        ui.timer(3.0, self._recount)
        ui.keyboard(self._key, ignore=["input", "select", "textarea"])
        tabs.on_value_change(lambda e: self.show.refresh() if e.value == "Label" else None)

    @ui.refreshable_method
    def show(self) -> None:
        """The desk: the picture, and what may be said of it."""
        if len(self.project.settings.classes) < 2:
            self._ask_for_classes()
            return
        with card("Label"):
            with ui.element("div").classes("line"):
                self.count = ui.label(self._counted()).classes("big")
                ui.toggle({False: "One by one", True: "Grid"}, value=self.many).props(
                    "no-caps unelevated padding='2px 12px'"
                ).on_value_change(self._turn)
            if self.project.suggested:
                note("The next images are chosen so that few labels teach much.")
            with ui.element("div").classes("desk"):
                self._grid() if self.many else self._single()
                with ui.element("div").classes("side"):
                    self._answers()

    def _counted(self) -> str:
        answered = len(self.store.of(self.visit.reader))
        return f"{answered:,} of {len(self.project.pool):,} answered"

    def _recount(self) -> None:
        """Another window may have labelled, too."""
        if self.count is not None and not self.count.is_deleted:
            self.count.text = self._counted()

    def _ask_for_classes(self) -> None:
        with card("What do you want to tell apart?"):
            note("Write the names of the classes with commas between them. You can add more later.")
            names = ui.input("Classes", placeholder="benign, malignant").classes("w-full")

            def keep() -> None:
                given = [part.strip() for part in (names.value or "").split(",") if part.strip()]
                if len(given) + len(self.project.settings.classes) < 2:
                    ui.notify("Two classes at least are needed.", type="warning")
                    return
                with told():
                    self.project.add_classes(given)
                self.show.refresh()

            names.on("keydown.enter", keep)
            ui.button("Use these classes", on_click=keep)

    def _row(self) -> int | None:
        """The row that is shown; None if there is nothing left."""
        visit = self.visit
        if visit.at >= len(visit.trail):
            passed = set(visit.trail)
            queue = self.project.queue(visit.reader)
            fresh = next((row for row in queue if row not in passed), None)
            if fresh is None:
                fresh = queue[0] if queue else None
            if fresh is None:
                return None
            visit.trail.append(fresh)
            visit.at = len(visit.trail) - 1
        return visit.trail[visit.at]

    def _single(self) -> None:
        row = self._row()
        if row is None:
            with ui.element("div"):
                ui.label("All images are answered. Go on to Fit.").classes("big")
            return
        subject = self.project.pool.subjects[row]
        count = len(subject.images)
        kinds = "view" + " near" * self.near + " many" * (count > 1)
        pictures = [picture(row, subject.name, "large", number) for number in range(min(count, 12))]
        with ui.element("div"):
            ui.html("".join(pictures), sanitize=False).classes(kinds).props('tabindex="0"')
            more = f" (12 of {count} images)" if count > 12 else ""
            ui.label(f"{subject.name}{more}").classes("name")
            guess = self.visit.place.learner.predicted.get(subject.name)
            if self.project.settings.show_guess and guess:
                note(f"The quick classifier says: {guess}")

    def _grid(self) -> None:
        rows = self.project.queue(self.visit.reader)[:GRID]
        self.visit.selected &= set(rows)
        with ui.element("div"), ui.element("div").classes("grid"):
            for row in rows:
                self._tile(row)
        if not rows:
            ui.label("All images are answered. Go on to Fit.").classes("big")

    def _tile(self, row: int) -> None:
        name, selected = self.project.pool.subjects[row].name, self.visit.selected
        tile = ui.element("button").classes("tile")
        tile.props(f'type="button" aria-pressed="{str(row in selected).lower()}"')
        with tile:
            caption = html.escape(Path(name).name)
            ui.html(f"{picture(row, name)}<span>{caption}</span>", sanitize=False)

        def toggle() -> None:
            selected.symmetric_difference_update({row})
            tile.props(f'aria-pressed="{str(row in selected).lower()}"')

        tile.on("click", toggle)

    def _answers(self) -> None:
        given = None
        if not self.many and (row := self._row()) is not None:
            given = self.store.of(self.visit.reader).get(self.project.pool.subjects[row].name)
        with ui.element("div").classes("side answers"):
            for number, name in enumerate(self.project.settings.classes, start=1):
                chosen = given is not None and given.label == name
                self._button(str(number) if number < 10 else "", name, self._saying(name), chosen)
            self._button(
                "0", "Not sure", self._saying(None), given is not None and given.label is None
            )
        text = ui.input("Note, kept with the answer (optional)").classes("w-full")
        self.note = text.props('dense clearable input-class="note-field"')
        self.note.value = given.note if given else ""
        with ui.element("div").classes("line"):
            self._button("U", "Undo", self.undo, False, wide=False)
            if not self.many:
                self._button("←", "Back", lambda: self.move(-1), False, wide=False)
                self._button("→", "Skip", lambda: self.move(1), False, wide=False)
                self._button("Z", "Zoom", self.zoom, self.near, wide=False)
        if self.many:
            note("Select images with a click, then give them all the same answer.")

    def _button(
        self, key: str, text: str, act: Callable[[], None], chosen: bool, *, wide: bool = True
    ) -> None:
        button = ui.button(on_click=act).props("unelevated" if chosen else "outline")
        if wide:
            button.classes("answer")
        with button:
            shown = f'<span class="key" aria-hidden="true">{key}</span> ' if key else ""
            ui.html(f"{shown}<span>{html.escape(text)}</span>", sanitize=False)

    def _saying(self, label: str | None) -> Callable[[], None]:
        return lambda: self.answer(label)

    def answer(self, label: str | None) -> None:
        """Take an answer down for what is shown or selected, and go on."""
        text = (self.note.value or "").strip()
        rows = sorted(self.visit.selected) if self.many else [self._row()]
        subjects = [self.project.pool.subjects[row] for row in rows if row is not None]
        if not subjects:
            ui.notify("Select images first." if self.many else "Nothing is left to label.")
            return
        with told():
            self.store.answer_all(
                {subject: Answer(label, text) for subject in subjects}, reader=self.visit.reader
            )
            self.visit.selected.clear()
            if not self.many:
                self.visit.at += 1
            self.visit.place.learner.wake()
        self.show.refresh()

    def undo(self) -> None:
        """Take back the last answer, and show its image."""
        with told():
            name = self.store.undo(self.visit.reader)
            if name is None:
                ui.notify("There is nothing to take back.")
                return
            row = self.project.pool.rows[name]
            self.visit.trail = [*(x for x in self.visit.trail if x != row), row]
            self.visit.at = len(self.visit.trail) - 1
            self.visit.place.learner.wake()
        self.show.refresh()

    def move(self, step: int) -> None:
        """Go to the image before or after."""
        self.visit.at = max(0, min(self.visit.at + step, len(self.visit.trail)))
        self.show.refresh()

    def zoom(self) -> None:
        """Show the picture twice as large, or whole again."""
        self.near = not self.near
        self.show.refresh()

    def _turn(self) -> None:
        self.many = not self.many
        self.show.refresh()

    def _key(self, event: KeyEventArguments) -> None:
        if not event.action.keydown or self.tabs.value != "Label":
            return
        if event.modifiers.ctrl or event.modifiers.alt or event.modifiers.meta:
            return
        classes, key = self.project.settings.classes, str(event.key)
        if len(classes) < 2:
            return
        if key.isdecimal() and 0 < int(key) <= len(classes):
            self.answer(classes[int(key) - 1])
        elif key == "0":
            self.answer(None)
        elif key.lower() == "u":
            self.undo()
        elif key.lower() == "z":
            self.zoom()
        elif key in ("ArrowLeft", "ArrowRight") and not self.many:
            self.move(1 if key == "ArrowRight" else -1)

    def _setup(self) -> None:
        settings = self.project.settings
        with card("Readers and classes"):
            reader = ui.input("Your name (so that two readers can be compared)").classes("w-full")

            def change() -> None:
                self.visit.reader = (reader.value or "").strip()
                self.visit.trail, self.visit.at = [], 0
                self.show.refresh()
                self._compare.refresh()

            reader.on("change", change)
            self._compare()
            more = ui.input("Further classes, with commas between them").classes("w-full")

            def add() -> None:
                with told():
                    self.project.add_classes(
                        [x.strip() for x in (more.value or "").split(",") if x.strip()]
                    )
                more.value = ""
                self.show.refresh()

            ui.button("Add classes", on_click=add).props("outline")

            def switch(wanted: bool) -> None:
                with told():
                    settings.show_guess = wanted
                    self.project.save()
                self.show.refresh()

            ui.switch(
                "Show what the classifier thinks before I answer (it would sway you)",
                value=settings.show_guess,
                on_change=lambda e: switch(e.value),
            )

    @ui.refreshable_method
    def _compare(self) -> None:
        for sentence in compared(self.store):
            note(sentence)


def compared(store: LabelStore) -> list[str]:
    """How far readers agree, a sentence for each two who labelled the same images."""
    said = []
    for one, other in combinations(store.readers(), 2):
        found = agreement(store.of(one), store.of(other))
        if not found.both:
            continue
        kappa = ""
        if found.kappa is not None:
            kappa = f", Cohen's kappa {found.kappa:.2f} ({found.low:.2f} to {found.high:.2f})"
        said.append(
            f"{one or 'No name'} and {other or 'no name'}: {found.both} images in common, "
            f"{len(found.disagreed)} labelled differently{kappa}. Images that they disagree about "
            "are not learnt from."
        )
    return said
