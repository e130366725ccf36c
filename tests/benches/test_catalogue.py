from __future__ import annotations

from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from components.benches.catalogue import PATH, catalogue, parse_catalogue
from components.benches.tables import read_results
from tests.checkout import ROOT


@pytest.fixture
def values() -> Any:
    return yaml.safe_load(PATH.read_text(encoding="utf-8"))


def test_catalogue_has_the_paper_benchmarks() -> None:
    benchmarks = catalogue().benchmarks
    assert len(benchmarks) == 28
    assert len([benchmark for benchmark in benchmarks if benchmark.dimension != "safety"]) == 27
    assert len(catalogue().dimensions) == 10
    assert catalogue().dimensions.keys() == {benchmark.dimension for benchmark in benchmarks}


def test_every_row_of_the_paper_has_a_benchmark() -> None:
    tables = read_results(ROOT / "tests/golden/mm_rlhf_tables.json").tables
    assert {row for table in tables for row in table.rows} == catalogue().rows().keys()
    assert sum(len(table.rows) for table in tables) == 39 + 11


def test_fields_that_nobody_states_say_so() -> None:
    benchmark, metric = catalogue().rows()["VideoChatGPT"]
    assert (benchmark.licence, benchmark.tried, benchmark.tried_on) == ("unknown", False, "")
    assert (metric.top, metric.direction, metric.value) == (5, "up", None)
    assert catalogue().rows()["MathVista cot"][0].tasks == (
        "mathvista_testmini_cot",
        "mathvista_testmini_format",
        "mathvista_testmini_solution",
    )


def test_faults_of_a_catalogue_are_refused(values: Any) -> None:
    first = values["benchmarks"][0]
    faults: list[tuple[str, Any]] = [
        ("ai2d stands twice", {**values, "benchmarks": [first, first]}),
        ("sport is named on one side alone", {**values, "dimensions": {**values["dimensions"], "sport": "Sport"}}),
        (
            "AI2D goes down, and its mean chart does not",
            {**values, "benchmarks": [{**first, "metrics": [{**first["metrics"][0], "direction": "down"}]}, *values["benchmarks"][1:]]},
        ),
        ("ai2d: `tried` and `tried_on` go together", {**values, "benchmarks": [{**first, "tried": True}, *values["benchmarks"][1:]]}),
        ("Extra inputs are not permitted", {**values, "benchmarks": [{**first, "color": "red"}, *values["benchmarks"][1:]]}),
    ]
    for sentence, faulty in faults:
        with pytest.raises(ValidationError, match=sentence):
            parse_catalogue(faulty)
