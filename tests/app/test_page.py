"""The page in a real browser: from a folder without labels to predictions, by the keyboard."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from helpers import shared_data

CHROMIUM = shutil.which("chromium")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
WIDTHS = {390: 844, 820: 1180, 1440: 900}
CLASSES = ("lymphocyte", "neutrophil")
ODD = ("=cmd|calc'.png", '"<img src=x onerror=alert(1)>.png', "two\nlines.png", "🫀.png")


@pytest.fixture(scope="module")
def playwright() -> Any:
    pytest.importorskip("nicegui", reason="NiceGUI is not installed")
    module = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on this machine")
    return module


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A folder of cells without labels; by name, what each is. The key "" is the folder."""
    source = shared_data("data", "wbc")
    folder = tmp_path_factory.mktemp("page") / "cells"
    folder.mkdir()
    table = pd.read_csv(source / "labels.csv")
    truth = {"": str(folder)}
    for label in CLASSES:
        for name in table["image"][table["label"] == label].head(9):
            new = ODD[len(truth) - 1] if len(truth) <= len(ODD) else Path(name).name
            shutil.copy(source / name, folder / new)
            truth[new] = label
    return truth


@pytest.fixture(scope="module")
def address(cells: dict[str, str], playwright: Any) -> Iterator[str]:
    command = [sys.executable, "-m", "medept", "app", cells[""], "--no-browser", "--json"]
    with subprocess.Popen(
        [*command, "--symmetry", "none"], stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        yield json.loads(server.stdout.readline())["address"]
        server.terminate()


@pytest.fixture(scope="module")
def page(address: str, playwright: Any) -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        opened = browser.new_page(viewport={"width": 1440, "height": 900})
        opened.set_default_timeout(150_000)  # a busy machine is no fault of the page
        yield opened
        browser.close()


def reach(page: Any, text: str, role: str = "") -> None:
    """Press Tab until the element with this text, label or role has the focus."""
    for _ in range(120):
        page.keyboard.press("Tab")
        if page.evaluate(
            "([text, role]) => { const e = document.activeElement;"
            "const said = e.getAttribute('aria-label') || e.innerText || '';"
            "return role ? e.getAttribute('role') == role : said.trim() == text }",
            [text, role],
        ):
            return
    raise AssertionError(f"no way to {text or role} by the keyboard")


def open_tab(page: Any, name: str) -> None:
    reach(page, "", "tab")
    for _ in range(6):
        if page.evaluate("document.activeElement.innerText").strip() == name:
            break
        page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.wait_for_function(
        "name => document.querySelector('[role=tab][aria-selected=true]').innerText.trim() == name",
        arg=name,
    )


def is_sound(page: Any, tab: str) -> None:
    """Nothing is wider than the window, and axe finds nothing serious."""
    from axe_playwright_python.sync_playwright import Axe

    for width, height in WIDTHS.items():
        page.set_viewport_size({"width": width, "height": height})
        page.wait_for_function("width => document.documentElement.scrollWidth <= width", arg=width)
    found = Axe().run(page).response["violations"]
    serious = [x for x in found if x["impact"] in ("serious", "critical")]
    told = [(x["id"], x["nodes"][0]["html"]) for x in serious]
    assert not told, (tab, told)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_from_a_folder_to_predictions_by_the_keyboard(
    page: Any, address: str, cells: dict[str, str]
) -> None:
    pytest.importorskip("axe_playwright_python", reason="axe-playwright-python is not installed")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("dialog", lambda dialog: pytest.fail(f"a script ran: {dialog.message}"))
    page.goto(address)
    page.wait_for_selector(".tile img")
    is_sound(page, "Images")

    open_tab(page, "Label")
    page.wait_for_selector("input[aria-label=Classes]")
    reach(page, "Classes")
    page.keyboard.type(", ".join(CLASSES))
    page.keyboard.press("Enter")
    page.wait_for_selector(".view img")
    is_sound(page, "Label")
    page.evaluate("document.activeElement.blur()")
    folder = Path(cells[""])
    journal = folder.with_name("cells-medept") / "labels.csv"
    for count in range(1, 15):
        name = page.locator(".view img").get_attribute("alt")
        page.keyboard.press(str(CLASSES.index(cells[name]) + 1))
        page.wait_for_function("name => document.querySelector('.view img').alt != name", arg=name)
        assert len(pd.read_csv(journal)) == count  # it is on the disk before the next is shown
    page.keyboard.press("u")
    page.wait_for_function("name => document.querySelector('.view img').alt == name", arg=name)
    assert pd.read_csv(journal)["status"].iloc[-1] == "removed"
    page.keyboard.press(str(CLASSES.index(cells[name]) + 1))
    page.wait_for_function("name => document.querySelector('.view img').alt != name", arg=name)

    open_tab(page, "Fit")
    page.get_by_text("of each class right on average").wait_for()
    is_sound(page, "Fit")
    reach(page, "Fit")
    page.keyboard.press("Enter")
    page.get_by_text("Done: fit-1").wait_for()

    open_tab(page, "See")
    page.get_by_text("sensitivity").first.wait_for()
    is_sound(page, "See")
    open_tab(page, "Predict")
    reach(page, "Path of a folder, a table or an image")
    page.keyboard.type(cells[""])
    page.keyboard.press("Enter")
    page.get_by_text("18 images predicted").wait_for()
    is_sound(page, "Predict")
    found = pd.read_csv(
        folder.with_name("cells-medept") / "predictions/prediction-1/predictions.csv"
    )
    truth = [cells[Path(name).name] for name in found["image"]]
    assert (found["predicted"] == truth).mean() > 0.8
    open_tab(page, "Share")
    is_sound(page, "Share")
    outside = [url for url in asked if not url.startswith(("http://127.0.0.1:", "data:", "blob:"))]
    assert not outside
