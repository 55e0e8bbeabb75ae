"""Methods by name, and their settings."""

from __future__ import annotations

import pytest

from medept import InputError
from medept.encoders.encoder import Encoder
from medept.methods import METHODS, adapt


@pytest.mark.parametrize("name", METHODS)
def test_every_setting_says_what_it_means(name: str) -> None:
    fields = METHODS[name].Settings.model_fields
    assert [setting for setting, field in fields.items() if not field.description] == []


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [("nothing", {}, "use one of adapter, bias"),
     ("linear", {"length": 3}, "no setting length .*none.*one of ept, prefix, vpt"),
     ("lora", {"ranks": 3}, "no setting ranks .*rank, alpha, init.$"),
     ("ept", {"length": 0}, "at least 1"), ("ept", {"way": "divide"}, "concat"),
     ("ept", {"layers": "2-9"}, "layers 1 to 3"), ("ept", {"layers": "x"}, "cannot be read"),
     ("vpt", {"layers": "4"}, "layers 1 to 3"),
     ("ept", {"collapsed": True, "way": "add"}, "only the way 'concat'")],
)  # fmt: skip
def test_clear_errors(encoder: Encoder, name: str, settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        adapt(encoder, name, 3, settings)


def test_a_method_has_a_file_of_its_own() -> None:
    assert len({method.__module__ for method in METHODS.values()}) == len(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_a_search_can_come_upon_the_defaults(name: str) -> None:
    defaults = METHODS[name].Settings().model_dump()
    for setting, choices in METHODS[name].search.items():
        assert defaults[setting] in choices
        for choice in choices:
            METHODS[name].Settings(**{setting: choice})


def test_k_may_stand_in_the_name(encoder: Encoder) -> None:
    assert adapt(encoder, "mlp-2", 3).trainable_count() == 48 * 48 + 48 + 48 * 3 + 3
    assert adapt(encoder, "partial-2", 3).settings.k == 2
