"""Spellings: one form for a name, and the names that may be meant to be one."""

from __future__ import annotations

import unicodedata
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medept.data.spelling import clean, find_alike


@pytest.mark.parametrize(
    ("one", "other"),
    [("1", "001"), ("P1", "p 01"), ("ID-0007", "ID 7"), ("left lung", "LEFT_LUNG"),
     ("MRN0", "mrn00"), ("123-456-789", "123456789"), ("123-045", "123045"), ("1-01", "01-1"),
     ("１２", "12"),
     ("grade 1", "Grade–1"), ("Straße 2", "STRASSE 2"), ("0", "000"), ("a b", "ab"),
     ("site 02/pat 3", "Site 2/Pat 03")],
)  # fmt: skip
def test_alike(one: str, other: str) -> None:
    assert find_alike([one, "unlike", other, one]) == [tuple(sorted((one, other)))]


@pytest.mark.parametrize(
    "texts",
    [("1-11", "11-1"), ("1", "-1"), ("1.5", "1.05", "15"), ("10", "1", "100"),
     ("P1", "P10", "P01x"), ("a", "b"), ("1 11", "11-1", "1-1-1"), ("", "0"), ("-", "+"),
     ("ä", "a"),
     ("1.2.840.1", "1.2.84.01")],
)  # fmt: skip
def test_not_alike(texts: tuple[str, ...]) -> None:
    assert find_alike(texts) == []


def test_one_without_separators_is_like_all_that_it_may_be() -> None:
    assert find_alike(["1-11", "11-1", "111"]) == [("1-11", "11-1", "111")]


IDS = st.text(st.sampled_from("01aB -_ä."), max_size=6)


@given(st.lists(IDS, max_size=8))
def test_alike_do_not_depend_on_order_and_fall_into_disjoint_sets(texts: list[str]) -> None:
    sets = find_alike(texts)
    assert sets == find_alike(texts[::-1])
    assert all(not set(one) & set(other) for one, other in combinations(sets, 2))
    assert all(text in texts for alike in sets for text in alike)


@given(IDS.filter(lambda text: text[:1].isalnum()), st.sampled_from(["upper", "zeros", "spaces"]))
def test_a_text_is_like_its_other_spellings(text: str, change: str) -> None:
    other = {"upper": text.upper(), "zeros": "0" + text, "spaces": f" {text}-"}[change]
    if change == "zeros" and not text[0].isdigit():
        return
    assert other == text or find_alike([text, other])


@given(st.text())
def test_clean_is_one_form(text: str) -> None:
    once = clean(text)
    assert clean(once) == once == clean(unicodedata.normalize("NFD", text))
