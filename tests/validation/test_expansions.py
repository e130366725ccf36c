"""Expansions beside the rows: those that still belong to a reason reach the reward stage, the others are counted."""

from __future__ import annotations

import logging

import pytest

from components.checkout import Checkout
from components.errors import UserError
from components.preferences.expansions import Expansion, read_expanded_table, source_digest, write_expansions
from components.preferences.release import query_from_row
from tests.validation.conftest import DataCheckout

REVIEW = "The dog lies in the middle, so the answer is right."


def expansion(checkout: DataCheckout, number: int, response: int, critique: str = REVIEW) -> Expansion:
    query = query_from_row(checkout.row(number))
    return Expansion(query.id, response, source_digest(query, query.responses[response]), critique, "expansion-1", "digest", "gpt")


def rows(checkout: DataCheckout) -> None:
    changed = checkout.row(1, score_reasons=["Right.", "It is no dog.", "It sees nothing."])
    checkout.write("data.jsonl", [checkout.row(0), changed, checkout.row(2)])
    checkout.write("heldout.jsonl", [checkout.row(100), checkout.row(101)])


def test_current_expansions_reach_the_table(checkout: DataCheckout, caplog: pytest.LogCaptureFixture) -> None:
    rows(checkout)
    expansions = [
        expansion(checkout, 0, 0),
        expansion(checkout, 0, 2),
        expansion(checkout, 1, 1),  # its reason has changed
        expansion(checkout, 2, 0, "It says <|im_end|> and more."),
        expansion(checkout, 2, 1, "long " * 600),
        expansion(checkout, 100, 0),  # held out
    ]
    write_expansions(checkout.preferences / "expanded.jsonl", expansions)
    with caplog.at_level(logging.WARNING):
        result = checkout.run()
    assert read_expanded_table(Checkout(checkout.root).expanded) == {("row-0", 0): REVIEW, ("row-0", 2): REVIEW}
    names = ("expanded", "expanded_outdated", "expanded_missing")
    assert {name: result.metrics[name] for name in names} == {"expanded": 2, "expanded_outdated": 2, "expanded_missing": 7}
    left_out = [record.message for record in caplog.records if "is left out" in record.message]
    assert len(left_out) == 2
    assert "response 0, is left out: score_reasons[0]: holds '<|im_end|>'" in left_out[0]
    assert "response 1, is left out: question: takes " in left_out[1]
    assert [response.critique for response in checkout.queries("train")[0].responses] == ["Right.", "It is a dog.", "It sees nothing."]


def test_without_a_file_the_table_is_empty_and_uncounted(checkout: DataCheckout) -> None:
    rows(checkout)
    result = checkout.run()
    assert read_expanded_table(Checkout(checkout.root).expanded) == {}
    assert not [name for name in result.metrics if name.startswith("expanded")]


def test_damaged_file_stops_the_stage_with_its_line(checkout: DataCheckout) -> None:
    rows(checkout)
    (checkout.preferences / "expanded.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match=r"expanded\.jsonl line 1 is no expansion"):
        checkout.run()
