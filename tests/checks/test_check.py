"""A check finds what was planted in a data set, and tells what would inflate a result."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import run, shared_data
from PIL import Image
from scipy.ndimage import gaussian_filter

from medept.checks.check import CheckResult, check_dataset
from medept.data.dataset import read_dataset
from medept.phantoms import make_phantoms
from medept.workflows.fit import warned


def picture(seed: int) -> Image.Image:
    """A smooth random picture, unlike every other."""
    noise = np.random.default_rng(seed).normal(size=(96, 96, 3))
    smooth = gaussian_filter(noise, (5, 5, 0))
    smooth = (smooth - smooth.min()) / (smooth.max() - smooth.min())
    return Image.fromarray((255 * smooth).astype(np.uint8))


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Twelve images of six patients, nothing wrong with them."""
    rows = []
    for i in range(12):
        picture(i).save(tmp_path / f"{i}.png")
        rows.append({"image": f"{i}.png", "label": "ab"[i % 2], "patient": f"p{i // 2}",
                     "split": "train" if i < 8 else "test"})  # fmt: skip
    pd.DataFrame(rows).to_csv(tmp_path / "labels.csv", index=False)
    return tmp_path / "labels.csv"


def check_table(table: Path) -> CheckResult:
    return check_dataset(read_dataset(table))


def sets_of(found: CheckResult, flatters: bool) -> set[tuple[int, ...]]:
    return {rows for f in found.findings if f.flatters == flatters for rows in f.sets}


def test_a_clean_set_has_no_findings(table: Path) -> None:
    found = check_table(table)
    assert not found.findings
    assert found.sizes == {(96, 96): 12}
    assert found.modes == {"RGB": 12}
    assert run("check", str(table)) == 0


def test_a_copy_under_another_format_flatters(table: Path) -> None:
    Image.open(table.parent / "0.png").save(table.parent / "9.png", optimize=True)
    assert (0, 9) in sets_of(check_table(table), flatters=True)
    assert run("check", str(table)) == 1


def test_a_recompressed_smaller_copy_flatters(table: Path) -> None:
    small = picture(1).resize((80, 80))
    small.save(table.parent / "again.jpg", quality=70)
    rows = pd.read_csv(table)
    rows.loc[10, "image"] = "again.jpg"
    rows.to_csv(table, index=False)
    assert (1, 10) in sets_of(check_table(table), flatters=True)


def test_a_patient_on_both_sides_flatters(table: Path) -> None:
    rows = pd.read_csv(table)
    rows.loc[8, "patient"] = "p0"
    rows.to_csv(table, index=False)
    assert any({0, 8} <= set(rows) for rows in sets_of(check_table(table), flatters=True))


def test_patients_that_may_be_one_flatter_on_two_sides_or_without_a_split(table: Path) -> None:
    rows = pd.read_csv(table)
    rows.loc[10, "patient"] = "P 00"  # on the side of test, and p0 on that of train
    rows.loc[2, "patient"] = "P-1"  # on the same side as p1
    rows.to_csv(table, index=False)

    def alike() -> set[tuple[int, ...]]:
        with pytest.warns(UserWarning, match="that may be one"):
            found = check_table(table).findings
        assert all(f.flatters for f in found)
        return {rows for f in found if f.kind == "groups-alike" for rows in f.sets}

    assert alike() == {(0, 1, 10)}
    assert run("check", str(table)) == 1
    rows.drop(columns="split").to_csv(table, index=False)
    assert alike() == {(0, 1, 10), (2, 3)}


def test_a_copy_with_another_label_is_told_and_within_a_patient_does_not_flatter(
    table: Path,
) -> None:
    shutil.copy(table.parent / "0.png", table.parent / "1.png")
    found = check_table(table)
    assert {finding.kind for finding in found.findings} == {"exact-within", "exact-labels"}
    assert sets_of(found, flatters=False) == {(0, 1)}
    assert run("check", str(table)) == 0


def test_a_link_out_of_a_class_folder_is_refused(tmp_path: Path) -> None:
    for name in ("data/a/0.png", "data/b/1.png", "elsewhere/2.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        picture(len(name)).save(tmp_path / name)
    (tmp_path / "data" / "c").symlink_to(tmp_path / "elsewhere")
    assert run("check", str(tmp_path / "data")) == 2


def test_files_that_cannot_be_read_and_empty_images_are_told(table: Path) -> None:
    file = table.parent / "3.png"
    file.write_bytes(file.read_bytes()[:2000])
    Image.new("RGB", (96, 96), (7, 7, 7)).save(table.parent / "5.png")
    found = check_table(table)
    told = sets_of(found, flatters=False) | sets_of(found, flatters=True)
    assert {row for rows in told for row in rows} == {3, 5}


def test_the_page_holds_no_markup_of_the_data(table: Path, tmp_path: Path) -> None:
    rows = pd.read_csv(table)
    rows["label"] = rows["label"].replace("a", "<script>alert(1)</script>")
    rows.to_csv(table, index=False)
    run("check", str(table), "--out", str(tmp_path / "look"))
    page = (tmp_path / "look" / "check.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_a_swapped_label_is_doubted(tmp_path: Path) -> None:
    """On real images, where the probe is much better than guessing."""
    source = shared_data("data", "wbc", "labels.csv")
    rows = pd.read_csv(source)
    kinds = rows.label.value_counts().index[:2]
    rows = rows[rows.label.isin(kinds)].groupby("label").head(40).reset_index(drop=True)
    (tmp_path / "images").mkdir()
    for name in rows.image:
        shutil.copy(source.parent / name, tmp_path / name)
    swapped = int(rows.index[rows.label == kinds[0]][0])
    rows.loc[swapped, "label"] = kinds[1]
    rows.to_csv(tmp_path / "labels.csv", index=False)
    code = run("check", str(tmp_path / "labels.csv"), "--out", str(tmp_path / "look"))
    findings = pd.read_csv(tmp_path / "look" / "findings.csv")
    assert code in (0, 1)
    assert rows.loc[swapped, "image"] in set(findings.image)


def test_copies_in_a_public_set_are_found() -> None:
    found = check_table(shared_data("data", "brain-mri", "labels.csv"))
    copies = [f for f in found.findings if f.flatters]
    assert sum(len(rows) - 1 for f in copies for rows in f.sets) >= 19


def test_an_image_that_a_list_names_twice_is_no_copy() -> None:
    data = make_phantoms("colon", patients=4, images_per_patient=1, size=48)
    assert warned(data.subset(np.array([0, 1, 0])), data.subset(np.array([2, 3]))) == []
