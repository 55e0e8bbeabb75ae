"""The image files that a table names: where they may be, and where not."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import read_csv
from PIL import Image

from medept import InputError
from medept.data.dataset import read_dataset


def test_a_table_that_was_written_on_windows(folder: Path) -> None:
    (folder / "in").mkdir()
    (folder / "a.png").rename(folder / "in" / "a.png")
    data = read_csv(folder, "image,label\nin\\a.png,x\nb.png,y\n")
    assert data.images[0] == folder / "in" / "a.png"


def test_images_may_be_elsewhere_than_the_table(folder: Path, tmp_path: Path) -> None:
    (folder / "tables").mkdir()
    text = f"image,label\na.png,x\n{folder / 'b.png'},y\n"
    data = read_csv(folder / "tables", text, image_root=folder)
    assert data.images == (folder / "a.png", folder / "b.png")
    with pytest.raises(InputError, match=r"missing: a.png \(row 2\).* image_root="):
        read_csv(folder / "tables", "image,label\na.png,x\nb.png,y\n")
    with pytest.raises(InputError, match=r"row 3: .* leads out of .* image_root="):
        read_csv(folder / "tables", text.replace("a.png", "t.csv"))
    up = "image,label\na.png,x\n../b.png,y\n"
    with pytest.raises(InputError, match=rf"row 3: .* image_root=, such as {folder}$"):
        read_csv(folder / "tables", up)
    assert (
        read_csv(folder / "tables", up, image_root=folder).images[1].resolve() == folder / "b.png"
    )
    with pytest.raises(InputError, match=r"row 3: ../../up.png leads out"):
        read_csv(folder / "tables", up.replace("../b", "../../up"), image_root=folder)
    with pytest.raises(InputError, match="nowhere: no such folder; check image_root="):
        read_csv(folder / "tables", text, image_root=folder / "nowhere")
    with pytest.raises(InputError, match="leave image_root= out"):
        read_dataset(folder, image_root=folder)


def test_a_name_without_a_suffix_finds_its_one_image(folder: Path) -> None:
    data = read_csv(folder, "image_id,dx\na,x\nb,y\n")
    assert (data.names, data.images) == (("a", "b"), (folder / "a.png", folder / "b.png"))
    with pytest.raises(InputError, match="rows 2 and 3: the same image a.png"):
        read_csv(folder, "image_id,dx\na,x\na.png,y\n")
    (folder / "a.jpg").write_bytes(b"")
    with pytest.raises(InputError, match="1 of 2 images are missing: a "):
        read_csv(folder, "image_id,dx\na,x\nb,y\n")


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    outside = tmp_path / "outside.png"
    Image.new("RGB", (8, 8)).save(outside)
    inside = tmp_path / "data"
    inside.mkdir()
    (inside / "a.png").symlink_to(outside)
    Image.new("RGB", (8, 8)).save(inside / "b.png")
    with pytest.raises(InputError, match=r"row 2: a.png leads out"):
        read_csv(inside, "image,label\na.png,x\nb.png,y\n")
    for name in ("x", "y"):
        (inside / name).mkdir()
        (inside / name / "linked.png").symlink_to(outside)
    with pytest.raises(InputError, match=r"linked.png: a link that leads out"):
        read_dataset(inside)
    outside.unlink()
    with pytest.raises(InputError, match=r"linked.png: a broken link or a device; remove it"):
        read_dataset(inside)
    (inside / "b.png").unlink()
    (inside / "b.png").symlink_to("b.png")
    with pytest.raises(InputError, match=r"row 2: 'b.png' is not a usable|b.png .row 2."):
        read_csv(inside, "image,label\nb.png,x\nc.png,y\n")
