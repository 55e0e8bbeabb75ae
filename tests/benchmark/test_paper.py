"""The paper's numbers against a transcript of its tables."""

from __future__ import annotations

import json

import pytest
from helpers import shared_data

from medept.benchmark.paper import paper_seconds, paper_values


def test_the_papers_numbers_are_those_of_the_paper() -> None:
    facts = json.loads(shared_data("paper", "tables.json").read_text())
    names = facts["columns_medfmc"]
    for table, key in (("table1", "table1_vit_base_patch16_in21k"),
                       ("table2", "table2_vit_large_patch16_in21k")):  # fmt: skip
        for method, row in facts[key].items():
            found = paper_values(table).loc[method]
            for name, value in zip(names[:9], row[:9], strict=True):
                task, shots = name.rsplit("-", 1)
                assert found[f"medfmc-{task}", shots] == pytest.approx(value / 100)
    assert paper_values("table4").loc["ept", ("isic2018", "10")] == pytest.approx(0.4465)
    ways = facts["fig5_embedding_way_average_of_3_shots"]
    for method in ("linear", "concat", "add"):
        found = paper_values("fig5").loc[method]
        for name, value in zip(ways["columns"], ways[method], strict=True):
            assert found[f"medfmc-{name}", "mean"] == pytest.approx(value / 100)
    frozen = paper_values("table3").loc["vpt, frozen"]
    assert frozen["medfmc-colon", "5"] == pytest.approx(0.8178)
    assert paper_seconds("a5")["ept"] == 128


def test_phantoms_do_not_stand_beside_the_papers_data() -> None:
    assert paper_values(None).empty
    found = paper_values("table1", synthetic={"medfmc-colon"})
    assert set(found.columns.get_level_values(0)) == {"medfmc-chest", "medfmc-endo"}
