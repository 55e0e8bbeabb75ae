"""The examples in docstrings (`>>>`) run, and print what they show."""

from __future__ import annotations

import doctest
import pkgutil
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

import medept


def modules_with_examples() -> Iterator[str]:
    """Names of medept's modules whose source has an example."""
    for module in pkgutil.walk_packages(medept.__path__, "medept."):
        spec = find_spec(module.name)
        assert spec is not None
        assert spec.origin is not None, module.name
        if ">>> " in Path(spec.origin).read_text(encoding="utf-8"):
            yield module.name


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples_print_what_they_show(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    for example in doctest.DocTestFinder(exclude_empty=True).find(import_module(name), name):
        runner.run(example, out=report.append)
    counts = runner.summarize(verbose=False)
    assert counts.attempted > 0, "a line begins with >>> outside a docstring of the module"
    assert counts.failed == 0, "".join(report)
