"""What stands behind the page: who is let in, pictures, the queue, names of files, tables."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import openpyxl
import pandas as pd
import pytest
from PIL import Image

pytest.importorskip("nicegui", reason="NiceGUI is not installed")

from fastapi import FastAPI
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from medept import InputError
from medept.app.access import OneTimeToken
from medept.app.project import Project, project_folder
from medept.app.tabs.label import compared
from medept.app.tabs.predict import safe_name, write_excel
from medept.app.thumbnails import LARGE, Thumbnails
from medept.files import write_table
from medept.labelling.pool import Pool, open_pool
from medept.labelling.store import Answer, LabelStore

HERE, SOCKET = "http://127.0.0.1:9", "ws://127.0.0.1:9/socket"


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    (tmp_path / "scans").mkdir()
    for i in range(6):
        Image.new("RGB", (40, 30), (40 * i, 0, 0)).save(tmp_path / "scans" / f"{i}.png")
    (tmp_path / "scans" / "damaged.png").write_bytes(b"no image")
    return open_pool(tmp_path / "scans")


def test_only_the_browser_that_brings_the_token_is_let_in() -> None:
    server = FastAPI()

    @server.get("/")
    def page() -> str:
        return "page"

    @server.websocket("/socket")
    async def socket(connection: WebSocket) -> None:
        await connection.accept()
        await connection.send_text("hello")

    gate = OneTimeToken(server)
    mine, other = (TestClient(gate, base_url=HERE) for _ in range(2))
    address = f"/?token={gate.token}"
    assert mine.get("/").status_code == 401
    assert mine.get("/?token=wrong").status_code == 401
    with pytest.raises(WebSocketDisconnect), mine.websocket_connect(SOCKET):
        pass
    assert mine.get(address).json() == "page"  # by way of a redirect without the token
    assert mine.get("/").status_code == 200
    with mine.websocket_connect("ws://127.0.0.1:9/socket", headers={"origin": HERE}) as opened:
        assert opened.receive_text() == "hello"
    evil = {"origin": "http://127.0.0.1:8"}
    with (
        pytest.raises(WebSocketDisconnect),
        mine.websocket_connect(SOCKET, headers=evil),
    ):
        pass
    assert other.get(address).status_code == 401  # it works once
    assert mine.get("/", headers={"host": "evil.example"}).status_code == 421


def test_pictures_are_made_once_and_a_damaged_one_says_so(pool: Pool, tmp_path: Path) -> None:
    pictures = Thumbnails(pool, tmp_path / "kept")
    for row in range(len(pool)):
        assert Image.open(BytesIO(pictures.small(row))).format == "JPEG"
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "kept").iterdir()}
    assert len(files) == len(pool)
    pictures.small(0)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "kept").iterdir()} == files
    large = Image.open(BytesIO(pictures.large(0)))
    assert large.width / large.height == pytest.approx(4 / 3, abs=0.01)
    assert 480 <= large.width <= LARGE


def test_a_project_goes_on_where_it_was(pool: Pool, tmp_path: Path) -> None:
    folder = project_folder(pool.source)
    assert folder == tmp_path / "scans-medept"
    project = Project(pool, folder)
    project.add_classes(["dark", "bright", "dark"])
    order = project.queue("")
    project.suggest([order[3]])
    assert project.queue("") == [order[3], *order[:3], *order[4:]]
    project.store.answer(pool.subjects[order[3]], Answer("dark"))
    again = Project(open_pool(pool.source), folder)
    assert again.settings.classes == ["dark", "bright"]
    assert again.queue("") == [row for row in order if row != order[3]]
    assert again.queue("another reader") == order
    with pytest.raises(InputError, match="=1"):
        again.add_classes(["=1"])
    (folder / "project.json").write_text('{"classes": 3}')
    with pytest.raises(InputError, match="project.json: classes"):
        Project(pool, folder)


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "..\\a.png", "...", "", ".hidden", "x" * 400, "two\nlines.png"]
)
def test_dropped_files_stay_in_their_folder(name: str, tmp_path: Path) -> None:
    for number in range(2):
        file = tmp_path / safe_name(name, tmp_path, number)
        file.write_bytes(b"")
        assert file.parent == tmp_path
        assert not file.name.startswith(".")
    assert len(list(tmp_path.iterdir())) == 2


def test_no_cell_of_a_saved_table_is_a_formula(tmp_path: Path) -> None:
    file = tmp_path / "p.csv"
    write_table(file, pd.DataFrame({"image": ["=a.png"], "label": ["=1+1"], "p_x": [0.25]}))
    sheet = openpyxl.load_workbook(write_excel(file)).active
    assert sheet is not None
    assert [cell.value for cell in sheet[2]] == ["./=a.png", "'=1+1", 0.25]
    assert {cell.data_type for row in sheet.iter_rows() for cell in row} == {"s", "n"}


def test_two_readers_are_compared_in_words(pool: Pool, tmp_path: Path) -> None:
    store = LabelStore(tmp_path / "labels.csv")
    for reader, labels in (("Anna", "xxyy"), ("", "xyyy")):
        for subject, label in zip(pool.subjects, labels, strict=False):
            store.answer(subject, Answer(label), reader=reader)
    (said,) = compared(store)
    assert said.startswith("Anna and no name: 4 images in common, 1 labelled differently, Cohen's")
    assert "kappa 0.50" in said
