from collections.abc import Sequence
from typing import Any

import pytest

from components.preferences.faults import RowError
from components.preferences.formats.detection import FORMATS
from components.preferences.formats.grouping import PlacedPair, group
from components.preferences.formats.pieces import Answer, Medium, Message, Pair, Prompt, Ranked, content_of, parts_of, with_marks
from tests.preferences.formats.samples import SAMPLES, message
from tests.preferences.formats.test_detection import EACH


def read(name: str, rows: Sequence[dict[str, Any]]) -> list[Pair]:
    """All pairs of the rows, with marks where they are implied."""
    pairs = []
    for row in rows:
        value = FORMATS[name].read(row)
        pairs += [value] if isinstance(value, Pair) else value.pairs()
    return pairs


def content(pair: Pair) -> tuple[object, ...]:
    return with_marks(pair.prompt), pair.prompt.media, pair.chosen, pair.rejected


def ranked(name: str, rows: Sequence[dict[str, Any]]) -> list[Ranked]:
    """The queries of the rows: rankings as they are, pairs by prompt."""
    prompts: dict[Prompt, list[Pair]] = {}
    queries = []
    for row in rows:
        value = FORMATS[name].read(row)
        if isinstance(value, Ranked):
            queries.append(value)
        else:
            prompts.setdefault(value.prompt, []).append(value)
    for prompt, pairs in prompts.items():
        placed = [PlacedPair(n, pair.chosen, pair.rejected, pair.chosen_reason, pair.rejected_reason) for n, pair in enumerate(pairs)]
        for order in group(placed).orders:
            answers = zip(order.texts, order.ranks, order.reasons, strict=True)
            queries.append(Ranked(prompt, tuple(Answer(text, rank, reason=reason) for text, rank, reason in answers)))
    return queries


@pytest.mark.parametrize(("name", "number"), EACH)
def test_written_rows_read_as_same_pairs(name: str, number: int) -> None:
    rows = SAMPLES[name][number]
    pairs = read(name, rows)
    assert pairs
    written = [row for query in ranked(name, rows) for row in FORMATS[name].write(query)]
    back = {content(pair): pair for pair in read(name, written)}
    assert back.keys() == {content(pair) for pair in pairs}
    for pair in pairs:
        assert (back[content(pair)].chosen_reason, back[content(pair)].rejected_reason) == (pair.chosen_reason, pair.rejected_reason)


@pytest.mark.parametrize(("name", "number"), [each for each in EACH if each[0].startswith("mm_rlhf")])
def test_release_rows_go_out_as_they_came(name: str, number: int) -> None:
    rows = SAMPLES[name][number]
    written = [row for query in ranked(name, rows) for row in FORMATS[name].write(query)]
    assert sorted(map(str, written)) == sorted(str(row | ({"id": str(row["id"])} if name == "mm_rlhf_pairs" else {})) for row in rows)


@pytest.mark.parametrize("name", FORMATS)
def test_sample_fields_are_read_or_of_no_pair(name: str) -> None:
    fields = {field for rows in SAMPLES[name] for row in rows for field in row}
    assert fields - FORMATS[name].fields <= {"idx", "origin_split", "models", "score", "extra"}


@pytest.mark.parametrize(
    ("name", "row", "field", "reason"),
    [
        ("trl", {"chosen": [message("user", "a"), message("assistant", "b")], "rejected": [message("user", "c"), message("assistant", "d")]},
         "prompt", "does not end with the user's turn"),
        ("trl", {"prompt": [message("user", "a")], "chosen": [message("user", "b")], "rejected": [message("assistant", "c")]},
         "chosen", "not one of the assistant"),
        ("trl", {"chosen": "Yes.", "rejected": "No."}, "prompt", "don't begin with the same words"),
        ("trl", {"prompt": [message("tool", "a")], "chosen": [message("assistant", "b")], "rejected": [message("assistant", "c")]},
         "prompt[0].role", "'tool' is none of"),
        ("trl", {"prompt": [{"role": "user", "content": [{"type": "audio"}]}], "chosen": [message("assistant", "b")],
                 "rejected": [message("assistant", "c")]}, "prompt[0].content[0]", "'audio' is neither"),
        ("llama_factory", {"conversations": [{"from": "gpt", "value": "a"}], "chosen": "b", "rejected": "c"}, "conversations", "user's turn"),
        ("llama_factory", {"instruction": "a", "chosen": 1, "rejected": "c"}, "chosen", "is int"),
        ("llama_factory", {"instruction": "a", "chosen": "b", "rejected": "c", "history": ["x"]}, "history[0]", "question and its answer"),
        ("swift", {"messages": [message("user", "a")], "rejected_response": "b"}, "messages", "better answer"),
        ("swift", {"messages": [message("user", "a"), message("assistant", "b")], "rejected_messages": [message("user", "x"),
                   message("assistant", "c")]}, "rejected_messages", "same turns"),
        ("swift", {"messages": [message("user", "a"), message("assistant", "b")], "rejected_messages": [message("assistant", "c")],
                   "images": ["one.png"], "rejected_images": ["two.png"]}, "rejected_images", "other media"),
        ("rlhf_v", {"text": "{"}, "text", "no JSON text"),
        ("rlaif_v", {"question": "a", "chosen": "b", "rejected": "c", "image": 3}, "image", "is int"),
        ("vlfeedback", {"prompt": "a", "completions": [{"response": "b", "annotations": {}}]}, "completions", "no rating"),
        ("mm_rlhf_pairs", {"id": [], "prompt": "a", "chosen": "b", "rejected": "c"}, "id", "is list"),
    ],
)  # fmt: skip
def test_row_that_holds_no_pair_is_refused(name: str, row: dict[str, Any], field: str, reason: str) -> None:
    with pytest.raises(RowError, match=reason) as caught:
        FORMATS[name].read(row)
    assert caught.value.field == field


def test_implicit_text_prompt_is_shared_beginning() -> None:
    (pair,) = read("trl", [{"chosen": "The sky is blue today.", "rejected": "The sky is black."}])
    assert (pair.prompt.turns[0].text, pair.chosen, pair.rejected) == ("The sky is", " blue today.", " black.")


def test_ranking_of_ratings_is_by_mean_of_present_ones() -> None:
    (first,) = (FORMATS["vlfeedback"].read(row) for row in SAMPLES["vlfeedback"][0])
    assert isinstance(first, Ranked)
    assert [(answer.rank, answer.faithfulness, answer.helpfulness, answer.ethics) for answer in first.answers] == [
        (1, 5, 5, 5),
        (2, 3, 4, 5),
        (3, 1, 1, 5),
    ]
    (second,) = (FORMATS["vlfeedback"].read(row) for row in SAMPLES["vlfeedback"][1])
    assert isinstance(second, Ranked)
    assert [(answer.rank, answer.faithfulness) for answer in second.answers] == [(1, None), (2, 2)]


def test_unrated_completion_is_counted_not_ranked() -> None:
    row = SAMPLES["vlfeedback"][0][0]
    row = row | {"completions": [*row["completions"], {"model": "d", "response": "Nothing.", "annotations": None}]}
    value = FORMATS["vlfeedback"].read(row)
    assert isinstance(value, Ranked)
    assert (len(value.answers), value.unrated) == (3, 1)


def test_ranking_against_scores_does_not_go_out_as_ratings() -> None:
    prompt = Prompt((Message("user", "a"),))
    with pytest.raises(RowError, match="order of the scores' means"):
        FORMATS["vlfeedback"].write(Ranked(prompt, (Answer("b", 1, 1, 1, 1), Answer("c", 2, 5, 5, 5))))
    with pytest.raises(RowError, match="is missing"):
        FORMATS["vlfeedback"].write(Ranked(prompt, (Answer("b", 1), Answer("c", 2))))


@pytest.mark.parametrize("name", ["mm_rlhf_pairs", "rlaif_v", "rlhf_v", "vlfeedback"])
def test_turns_do_not_go_out_in_format_of_questions(name: str) -> None:
    prompt = Prompt((Message("user", "a"), Message("assistant", "b"), Message("user", "c")))
    with pytest.raises(RowError, match="3 turns"):
        FORMATS[name].write(Ranked(prompt, (Answer("d", 1, 5, 5, 5), Answer("e", 2, 1, 1, 1))))


def test_marks_and_parts_are_inverse() -> None:
    text = "before <image> between <image><video> after"
    assert content_of(parts_of(text), "content") == (text, ())
    assert [part["type"] for part in parts_of(text)] == ["text", "image", "text", "image", "video", "text"]


def test_missing_marks_stand_before_first_user_turn() -> None:
    prompt = Prompt((Message("system", "s"), Message("user", "u")), (Medium("image", "a.png"), Medium("image", "b.png")))
    assert with_marks(prompt)[1].text == "<image><image>u"
