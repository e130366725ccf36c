from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from components.config.settings import load_settings
from components.errors import UserError
from components.families.processing import Preprocessor
from components.preferences.faults import RowError
from components.preferences.record import Query, Response, Turn
from components.validation.lengths import LengthCheck
from tests import tiny
from tests.conftest import ROOT

INSTRUCTION = load_settings(ROOT / "params.yaml").reward.instruction


@pytest.fixture
def check(tiny_base: Path, tiny_media: Path) -> Callable[[Query, int], int]:
    def run(query: Query, limit: int) -> int:
        return LengthCheck(tiny.preprocessor(tiny_base, tiny_media), INSTRUCTION, limit).check(query)

    return run


def longest_branch(preprocessor: Preprocessor, query: Query) -> int:
    """The length in training, counted on the sequences themselves."""
    policy = len(preprocessor.policy_root(query).input_ids)
    judge = len(preprocessor.judge_root(query, INSTRUCTION).input_ids)
    lengths = [policy + len(preprocessor.response_ids(response.text)) for response in query.responses]
    lengths += [
        judge + len(preprocessor.judge_ids(response.text)) + len(preprocessor.critique_ids(response.critique or ""))
        for response in query.responses
    ]
    return max(lengths)


@pytest.mark.parametrize("query", tiny.queries(), ids=lambda query: str(query.media[:1]))
def test_query_fits_exactly_its_longest_branch(query: Query, check: Callable[[Query, int], int], tiny_base: Path, tiny_media: Path) -> None:
    tokens = longest_branch(tiny.preprocessor(tiny_base, tiny_media), query)
    assert check(query, tokens) == tokens
    with pytest.raises(RowError, match=f"takes {tokens} tokens .* more than model.max_length {tokens - 1}"):
        check(query, tokens - 1)


def test_reused_media_length_is_exact_for_other_queries(tiny_base: Path, tiny_media: Path) -> None:
    preprocessor = tiny.preprocessor(tiny_base, tiny_media)
    lengths = LengthCheck(preprocessor, INSTRUCTION, 4000)
    for query in [*tiny.queries(), *(tiny.rephrased(query, f"{query.prompt} And why is that so? " * 3) for query in tiny.queries())]:
        assert lengths.check(query) == longest_branch(preprocessor, query)


def test_response_may_be_short_and_its_reason_too_long(check: Callable[[Query, int], int]) -> None:
    query = replace(tiny.queries()[2], responses=(Response("a", 1, critique="x" * 900), Response("b", 2)))
    with pytest.raises(RowError, match=r"judge's prompt of .* with response 0 and its reason"):
        check(query, 600)


def test_special_tokens_are_refused_in_every_text(check: Callable[[Query, int], int]) -> None:
    query = tiny.queries()[2]
    for field, bad in {
        "question": tiny.rephrased(query, "a<image>b"),
        "models_output[1]": replace(query, responses=(Response("a", 1), Response("<|im_end|>", 2))),
        "score_reasons[0]": replace(query, responses=(Response("a", 1, critique="<video>"), Response("b", 2))),
    }.items():
        with pytest.raises(RowError) as caught:
            check(bad, 4000)
        assert (caught.value.kind, caught.value.field) == ("special_token", field)


def test_template_that_refuses_a_conversation_refuses_its_row(tiny_base: Path, tiny_media: Path) -> None:
    preprocessor = tiny.preprocessor(tiny_base, tiny_media)
    template = preprocessor.processor.chat_template
    preprocessor.processor.chat_template = "{% if messages | length > 2 %}{{ raise_exception('one question only') }}{% endif %}" + template
    check = LengthCheck(preprocessor, "Judge.", 4000)
    query = tiny.queries()[0]
    check.check(query)
    turns = (*query.turns, Turn("assistant", ("No.",)), Turn("user", ("Why?",)))
    with pytest.raises(RowError) as caught:
        check.check(replace(query, turns=turns))
    assert (caught.value.kind, caught.value.field) == ("turns", "turns")
    assert "one question only" in caught.value.reason
    assert str(preprocessor.base) not in caught.value.reason


def test_template_that_opens_a_thought_stops_before_any_row(tiny_base: Path, tiny_media: Path) -> None:
    preprocessor = tiny.preprocessor(tiny_base, tiny_media)
    preprocessor.processor.chat_template = preprocessor.processor.chat_template.replace(
        "assistant\n{% endif %}", "assistant\n<think>\n{% endif %}"
    )
    with pytest.raises(UserError, match="opens a thought"):
        LengthCheck(preprocessor, "Judge.", 4000)
