"""Damage to files, the same for the same seed: bytes, numbers, words, and trees of JSON or YAML."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from random import Random
from typing import Any

NUMBERS = (0, 1, 2, 127, 128, 255, 256, 32767, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1)
"""Integers at which programs go wrong."""

VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    1,
    -1,
    2,
    1e308,
    -1e308,
    float("nan"),
    float("inf"),
    10**9,
    2**63,
    10**400,
    "",
    " ",
    "0",
    "-1",
    "1e999",
    "nan",
    "None",
    "..",
    "../..",
    "/",
    "/etc/passwd",
    "C:\\x",
    "a" * 5000,
    "\0",
    "\ud7ff",
    "e\u0301",
    "=1+1",
    "|",
    ";",
    ",",
    "transformers:..",
    "open_clip:x",
    "hf-hub:a/b",
    [],
    {},
    [[]],
    [None],
    {"": None},
    ["a", 1],
    [[1, 2], [3]],
)
"""What stands in the place of a value in JSON or YAML."""

WORDS = (
    "",
    " ",
    ",",
    ";",
    "\t",
    '"',
    '""',
    "\n",
    "\r\n",
    "\r",
    "\0",
    "\ufeff",
    "|",
    "[",
    "{",
    "}",
    "]",
    "nan",
    "NA",
    "1",
    "0",
    "-1",
    "1.0",
    "1e999",
    "True",
    "../a.png",
    "/etc/passwd",
    "a.png",
    "#3",
    "sep=;",
    "image",
    "label",
    "split",
    "frame",
    "train",
    "=1+1",
    "'",
    "e\u0301",
    "\u202e",
    "a" * 300,
    "[" * 5000,
    "9" * 5000,
)
"""What is put into a text."""


def damaged(whole: bytes, random: Random) -> bytes:
    """Bytes with one to eight changes, most of them near the beginning, where headers are."""
    data = bytearray(whole)
    for _ in range(random.choice((1, 1, 1, 2, 3, 8))):
        if not data:
            break
        reach = len(data) if random.random() < 0.5 else min(len(data), 200)
        at = random.randrange(reach)
        match random.randrange(8):
            case 0 | 1:
                data[at] = random.choice(
                    (random.randrange(256), data[at] ^ 1 << random.randrange(8))
                )
            case 2 | 3:
                size = random.choice((1, 2, 4, 8))
                number = random.choice(NUMBERS) % 256**size
                data[at : at + size] = number.to_bytes(size, random.choice(("little", "big")))
            case 4:
                del data[at : at + random.choice((1, 2, 4, 16, 100))]
            case 5:
                data[at:at] = random.randbytes(random.choice((1, 2, 4, 16)))
            case 6:
                data[at:at] = data[at : at + random.randrange(1, 200)]
            case 7:
                if random.random() < 0.3:
                    del data[at:]
    return bytes(data)


def damaged_text(whole: bytes, random: Random) -> bytes:
    """A text with words put in, in the place of others, or lines moved; sometimes bytes instead."""
    if random.random() < 0.3:
        return damaged(whole, random)
    text = whole.decode("utf-8", "replace")
    for _ in range(random.choice((1, 1, 2, 5))):
        at = random.randrange(len(text) + 1)
        match random.randrange(4):
            case 0:
                text = text[:at] + random.choice(WORDS) + text[at:]
            case 1:
                text = text[:at] + random.choice(WORDS) + text[at + random.randrange(1, 12) :]
            case 2:
                lines = text.split("\n")
                lines.insert(random.randrange(len(lines)), random.choice(lines))
                text = "\n".join(lines)
            case 3:
                lines = text.split("\n")
                line = random.randrange(len(lines))
                cells = lines[line].split(",")
                cells[random.randrange(len(cells))] = random.choice(WORDS)
                lines[line] = ",".join(cells)
                text = "\n".join(lines)
    return text.encode("utf-8", "surrogatepass")


def damaged_tree(tree: Any, random: Random) -> Any:
    """A tree of dicts and lists with one to three values replaced, removed, renamed or nested."""
    tree = _copy(tree)
    for _ in range(random.choice((1, 1, 2, 3))):
        places = list(_places(tree))
        if not places:
            return random.choice(VALUES)
        inside, key = random.choice(places)
        match random.randrange(6):
            case 0 | 1 | 2:
                inside[key] = _copy(random.choice(VALUES))
            case 3:
                del inside[key]
            case 4:
                other, name = random.choice(places)
                inside[key] = _copy(other[name]) if name in _keys(other) else None
            case 5:
                value = inside[key]
                for _ in range(random.choice((1, 3, 30, 200))):
                    value = [value]
                inside[key] = value
                return tree  # deeper trees could not be copied
    return tree


def _keys(inside: Any) -> Any:
    return range(len(inside)) if isinstance(inside, list) else inside


def _places(tree: Any) -> Any:
    pairs = enumerate(tree) if isinstance(tree, list) else ()
    for key, value in list(tree.items() if isinstance(tree, dict) else pairs):
        yield tree, key
        yield from _places(value)


def _copy(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _copy(value) for key, value in tree.items()}
    return [_copy(value) for value in tree] if isinstance(tree, list) else tree


def damaged_zip(whole: bytes, random: Random) -> bytes:
    """A zip archive (a spreadsheet) with damage in one of its files, whose checksum is right."""
    if random.random() < 0.3:
        return damaged(whole, random)
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole)) as source, zipfile.ZipFile(out, "w") as target:
        names = source.namelist()
        chosen = random.choice(names)
        for name in names:
            content = source.read(name)
            target.writestr(name, damaged_text(content, random) if name == chosen else content)
    return out.getvalue()


def damaged_png(whole: bytes, random: Random) -> bytes:
    """A PNG file with damage inside a chunk, whose checksum is right."""
    if random.random() < 0.3:
        return damaged(whole, random)
    chunks, place = [], 8
    while place + 12 <= len(whole):
        (size,) = struct.unpack_from(">I", whole, place)
        chunks.append((whole[place + 4 : place + 8], whole[place + 8 : place + 8 + size]))
        place += 12 + size
    chosen = random.randrange(len(chunks))
    out = whole[:8]
    for number, (kind, content) in enumerate(chunks):
        if number == chosen:
            content = damaged(content, random)
        out += struct.pack(">I", len(content)) + kind + content
        out += struct.pack(">I", zlib.crc32(kind + content))
    return out
