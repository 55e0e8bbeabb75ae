"""What a configuration takes, and which layers it chooses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from medept import EmbeddedPromptConfig, InputError
from medept.ept.config import parse_layers


@given(st.integers(1, 30), st.data())
def test_layers_are_counted_from_1_whatever_the_form(depth: int, data: st.DataObject) -> None:
    """A list, and the same numbers as text: each choice once, in order."""
    numbers = data.draw(st.lists(st.integers(1, depth), min_size=1))
    expected = [n - 1 for n in range(1, depth + 1) if n in numbers]
    assert parse_layers(tuple(numbers), depth) == expected
    assert parse_layers(",".join(map(str, numbers)), depth) == expected
    low, high = min(numbers), max(numbers)
    assert parse_layers(f"{low}-{high}", depth) == list(range(low - 1, high))


def test_named_choices_of_layers() -> None:
    assert parse_layers("all", 3) == [0, 1, 2]
    assert parse_layers("first", 3) == [0]
    assert EmbeddedPromptConfig(layers=2).chosen_layers(3) == [1]


@pytest.mark.parametrize("layers", ["", "0", "4", "2-4", "1;2", "one", "3-2", ()])
def test_layers_that_are_not_there_are_refused(layers: str | tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"layers 1 to 3|cannot be read"):
        parse_layers(layers, 3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"length": 0}, "at least 1"),
        ({"length": "long"}, "auto"),
        ({"way": "divide"}, "multiply_concat"),
        ({"collapsed": True, "way": "add"}, "only the way 'concat'"),
        ({"init": "identity", "way": "multiply_concat"}, "another init"),
        ({"init": "identity", "way": "keys"}, "another init.*'keys'"),
        ({"collapsed": True, "way": "keys"}, "only the way 'concat'"),
        ({"lenght": 5}, "not permitted"),
    ],
    ids=str,
)
def test_values_that_do_not_go_together_are_refused(values: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        EmbeddedPromptConfig(**values)
