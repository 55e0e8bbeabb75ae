"""One spelling for names, ids and labels, and those that differ in little else than spelling."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

_SEPARATORS = r"[\s_\-\u2010-\u2015\u2212]+"


def clean(text: str) -> str:
    """The text in Unicode's composed form (NFC), without spaces at its ends.

    >>> clean(" La\\u0308sion\\n") == "L\\u00e4sion"
    True
    """
    return unicodedata.normalize("NFC", text).strip()


def clean_ids(ids: Sequence[Any] | np.ndarray) -> np.ndarray:
    """Ids as an array, texts among them in their one spelling.

    >>> clean_ids(["La\\u0308 1 ", "L\\u00e4 1"]).tolist() == ["L\\u00e4 1"] * 2
    True
    >>> clean_ids([1, 2]).tolist()
    [1, 2]
    """
    array = np.asarray(ids)
    if array.dtype.kind == "U":
        return np.array([clean(text) for text in array.ravel()]).reshape(array.shape)
    if array.dtype.kind == "O":
        cells = [clean(x) if isinstance(x, str) else x for x in array.ravel().tolist()]
        return np.array(cells, dtype=object).reshape(array.shape)
    return array


def find_alike(texts: Iterable[str]) -> list[tuple[str, ...]]:
    """Sets of different texts that differ only in case, leading zeros, spaces or dashes.

    Leading zeros are those of any number inside a text. Spaces and dashes between two numbers, or
    between two words, separate them: ``1-11`` and ``11-1`` are not alike, though both are like
    ``111``.

    >>> find_alike(["P-001", "7", "p1", "007", "1-11", "11-1"])
    [('007', '7'), ('P-001', 'p1')]
    """
    known = sorted(set(texts))
    parent = {text: text for text in known}

    def root(text: str) -> str:
        while parent[text] != text:
            text = parent[text] = parent[parent[text]]
        return text

    by_parts: dict[tuple[str, ...], str] = {}
    unseparated: dict[tuple[str, ...], str] = {}
    for text in known:
        parts = _parts(text)
        parent[root(text)] = root(by_parts.setdefault(parts, text))
        if parts == _parts(text, separated=False):
            unseparated.setdefault(parts, text)
    for text in known:
        like = unseparated.get(_parts(text, separated=False))
        if like is not None:
            parent[root(text)] = root(like)
    sets = defaultdict(list)
    for text in known:
        sets[root(text)].append(text)
    return sorted(tuple(alike) for alike in sets.values() if len(alike) > 1)


def say_alike(sets: Sequence[Sequence[str]], most: int = 3) -> str:
    """Sets of texts in words, the first few of them.

    >>> say_alike([("001", "1"), ("P1", "p1")], most=1)
    "'001' and '1', and 1 more set"
    """
    words = ", ".join(" and ".join(map(repr, alike)) for alike in sets[:most])
    more = len(sets) - most
    return words if more < 1 else f"{words}, and {more} more set{'s' * (more > 1)}"


def _parts(text: str, *, separated: bool = True) -> tuple[str, ...]:
    """The numbers and words of a text, in small letters, and numbers without leading zeros.

    A dash before the first digit is a sign.
    """
    text = unicodedata.normalize("NFKC", text).casefold().strip()
    sign = "-" if re.fullmatch(r"[-\u2212][0-9.]+", text) else ""
    words = [word for word in re.split(_SEPARATORS, text) if word]
    if not words:
        return (text,)
    if not separated:
        words = ["".join(words)]
    parts = [part for word in words for part in re.findall(r"[0-9.]+|[^0-9.]+", word)]
    return (*([sign] if sign else []), *(part.lstrip("0") or "0" for part in parts))
