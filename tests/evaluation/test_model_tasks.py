"""What the tasks of evaluation compute with the tiny checkpoint, in their batches, against one forward pass a token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from components.config.settings import Settings
from components.evaluation import tasks
from components.evaluation.tasks import (
    AnswerTask,
    JudgementTask,
    ScoreTask,
)
from components.families.adapters import Root
from components.families.processing import Preprocessor
from components.preferences.record import Query
from components.reward.model import RewardModel
from components.reward.scoring import score
from components.trees.planning import plan_batches
from tests.evaluation.opened import INSTRUCTION, RANK, Memory, Opened, checkout, models, reader
from tests.tiny import pixels, queries, rephrased

__all__ = ["checkout", "models", "reader"]


def common(checkout: tuple[Path, Settings], reader: Preprocessor, models: Opened, keys: list[str]) -> dict[str, Any]:
    _, settings = checkout
    return {
        "label": "made",
        "unit": "row",
        "keys": keys,
        "store": Memory(),
        "preprocessor": reader,
        "models": models,
        "folder": Path("model"),
        "settings": settings,
    }


@torch.no_grad()
def greedy(model: Any, root: Root, suffix: Sequence[int], limit: int, end: int) -> list[int]:
    """The likeliest token after all before it, one whole forward pass a token."""
    written: list[int] = []
    while len(written) < limit:
        ids = torch.tensor([[*root.input_ids, *suffix, *written]])
        token = int(model(input_ids=ids, **pixels(root)).logits[0, -1].argmax())
        if token == end:
            break
        written.append(token)
    return written


@torch.no_grad()
def score_of(reward: RewardModel, root: Root, suffix: Sequence[int]) -> float:
    ids = torch.tensor([[*root.input_ids, *suffix]])
    return float(reward.head(reward.model.model(input_ids=ids, **pixels(root)).last_hidden_state[0, -1:]))


# answers


def answer_task(checkout: tuple[Path, Settings], reader: Preprocessor, models: Opened) -> AnswerTask:
    return AnswerTask(**common(checkout, reader, models, [query.id for query in queries()]), queries=queries())


def test_answers_are_planned_longest_prompt_first(checkout: tuple[Path, Settings], reader: Preprocessor, models: Opened) -> None:
    lengths = [len(reader.policy_root(query).input_ids) for query in queries()]
    order = sorted(range(5), key=lambda item: -lengths[item])  # stable: equal ones in the order of the queries
    assert lengths[order[0]] > lengths[order[-1]]
    assert answer_task(checkout, reader, models).plan() == [order[0:2], order[2:4], order[4:5]]
    same = replace(answer_task(checkout, reader, models), queries=[queries()[2]] * 3)
    assert same.plan() == [[0, 1], [2]]


def test_answers_are_the_likeliest_tokens_until_the_end(
    checkout: tuple[Path, Settings], reader: Preprocessor, models: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, limit = models.opened.model, 7
    written = {item: greedy(model, reader.policy_root(queries()[item]), [], limit, end=-1) for item in (3, 0, 1)}
    for end in (reader.end_id, written[1][3], written[3][0]):
        monkeypatch.setitem(vars(reader), "end_id", end)
        expected = {item: ids[: ids.index(end)] if end in ids else ids for item, ids in written.items()}
        task = answer_task(checkout, reader, models)
        assert task.compute([3, 0, 1], RANK) == [
            (reader.tokenizer.decode(expected[item], skip_special_tokens=True), len(expected[item]) < limit) for item in (3, 0, 1)
        ]
        assert models.requests[-1] == (Path("model"), RANK)
        assert 0 < task.work.tokens <= task.work.slots


def test_special_tokens_are_no_part_of_an_answer(
    checkout: tuple[Path, Settings], reader: Preprocessor, models: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    special = reader.tokenizer.convert_tokens_to_ids("<video>")
    monkeypatch.setattr(tasks, "decode", lambda *_, **__: [[special, 72], [72] * 6, [72] * 7])
    answers = answer_task(checkout, reader, models).compute([0, 1, 2], RANK)
    letter = reader.tokenizer.decode([72])
    assert answers == [(letter, True), (letter * 6, True), (letter * 7, False)]


# judgements


def judgement_task(checkout: tuple[Path, Settings], reader: Preprocessor, models: Opened, **options: Any) -> JudgementTask:
    rows = [(query, response.text) for query in queries() for response in query.responses]
    return JudgementTask(**common(checkout, reader, models, [str(n) for n in range(len(rows))]), rows=rows, **options)


@pytest.mark.parametrize("blank", [False, True])
def test_judgements_are_greedy_critiques_scored_at_their_end(
    checkout: tuple[Path, Settings], reader: Preprocessor, models: Opened, blank: bool
) -> None:
    task = judgement_task(checkout, reader, models, blank=blank)
    chosen = [0, 5, 12]
    judgements = task.compute(chosen, RANK)
    for item, (text, value) in zip(chosen, judgements, strict=True):
        query, response = task.rows[item]
        root, before = reader.judge_root(query, INSTRUCTION, blank=blank), reader.judge_ids(response)
        tokens = greedy(models.opened.model, root, before, limit=5, end=reader.end_id)
        assert text == reader.tokenizer.decode(tokens, skip_special_tokens=True)
        assert value == pytest.approx(score_of(models.opened, root, [*before, *reader.critique_ids(text)]), abs=1e-4)
    assert 0 < task.work.tokens <= task.work.slots
    assert models.requests[-1] == (Path("model"), RANK)


def test_judgements_come_back_row_by_row(checkout: tuple[Path, Settings], reader: Preprocessor, models: Opened) -> None:
    task = replace(judgement_task(checkout, reader, models), keys=["a", "b", "a"])
    task.store.store({"a": ["text", 1], "b": ["other", -2.5]})
    assert task.judgements() == [("text", 1.0), ("other", -2.5), ("text", 1.0)]
    assert all(isinstance(value, float) for _, value in task.judgements())


def test_judgements_of_one_root_are_planned_together(checkout: tuple[Path, Settings], reader: Preprocessor, models: Opened) -> None:
    one, other, longer = (rephrased(queries()[2], prompt) for prompt in ("Is it a?", "Is it b?", "Is it any longer?"))
    rows = [(query, "Yes.") for query in (one, other, longer, one, other, one)]
    task = replace(judgement_task(checkout, reader, models), rows=rows, keys=list("abcdef"))
    assert task.plan() == [[2, 0, 3], [5, 1, 4]]


def test_judgements_of_equal_keys_are_planned_once(checkout: tuple[Path, Settings], reader: Preprocessor, models: Opened) -> None:
    rows = [(queries()[2], f"{number}") for number in range(5)]
    task = replace(judgement_task(checkout, reader, models), rows=rows, keys=["a", "b", "a", "c", "b"])
    assert task.plan() == [[0, 1, 3]]


def test_plans_over_blanked_media_read_the_blanked_root(
    checkout: tuple[Path, Settings], reader: Preprocessor, models: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, bool]] = []
    judge_outline = reader.judge_outline

    def watched(query: Query, instruction: str, blank: bool = False) -> Root:
        seen.append((instruction, blank))
        return judge_outline(query, instruction, blank=blank)

    monkeypatch.setattr(reader, "judge_outline", watched)
    monkeypatch.setattr(reader, "judge_root", lambda *_, **__: pytest.fail("a plan needs no pixels"))
    for blank in (True, False):
        seen.clear()
        judgement_task(checkout, reader, models, blank=blank).plan()
        assert set(seen) == {(INSTRUCTION, blank)}


# scores


def score_task(checkout: tuple[Path, Settings], reader: Preprocessor, models: Opened, critiques: Sequence[str]) -> ScoreTask:
    rows = [(query, [critiques[n % len(critiques)] for n in range(len(query.responses))]) for query in queries()]
    return ScoreTask(**common(checkout, reader, models, [query.id for query in queries()]), rows=rows)


@pytest.mark.parametrize("critiques", [["Fault.", "Right, it fits."], [""]], ids=["given", "none"])
def test_scores_are_read_after_the_given_critique(
    checkout: tuple[Path, Settings], reader: Preprocessor, models: Opened, critiques: list[str]
) -> None:
    task = score_task(checkout, reader, models, critiques)
    chosen = [4, 0, 2]
    for item, values in zip(chosen, task.compute(chosen, RANK), strict=True):
        query, texts = task.rows[item]
        root = reader.judge_root(query, INSTRUCTION)
        expected = [
            score_of(models.opened, root, [*reader.judge_ids(response.text), *reader.critique_ids(text)])
            for response, text in zip(query.responses, texts, strict=True)
        ]
        assert values == pytest.approx(expected, abs=1e-4)
    assert 0 < task.work.tokens <= task.work.slots
    assert models.requests[-1] == (Path("model"), RANK)


def test_ranks_keep_in_step_while_they_score(
    checkout: tuple[Path, Settings], reader: Preprocessor, models: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[Any] = []

    def spied(*arguments: Any, step: Any, **named: Any) -> list[float]:
        steps.append(step)
        return score(*arguments, step=step, **named)

    monkeypatch.setattr(tasks, "score", spied)
    score_task(checkout, reader, models, [""]).compute([0], RANK)
    assert steps == [RANK]


def test_score_batches_are_packed_by_the_length_of_the_trees(
    checkout: tuple[Path, Settings], reader: Preprocessor, models: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = score_task(checkout, reader, models, ["A fault.", ""])
    lengths = [
        len(reader.judge_root(query, INSTRUCTION).input_ids)
        + sum(len(reader.judge_ids(r.text)) + len(reader.critique_ids(c)) for r, c in zip(query.responses, critiques, strict=True))
        for query, critiques in task.rows
    ]
    longest_first = sorted(range(5), key=lambda item: -lengths[item])
    assert (tasks.SCORING_ROW_TOKENS, tasks.SCORING_ROWS) == (512, 16)
    assert task.plan() == plan_batches(range(5), lengths, row_tokens=512, batch_rows=16)
    monkeypatch.setattr(tasks, "SCORING_ROW_TOKENS", max(lengths))
    monkeypatch.setattr(tasks, "SCORING_ROWS", 1)
    batches = task.plan()
    assert batches[0][0] == longest_first[0]
    assert sorted(item for batch in batches for item in batch) == list(range(5))
    assert all(sum(lengths[item] for item in batch) <= max(lengths) for batch in batches)


def test_scores_come_back_response_by_response(checkout: tuple[Path, Settings], reader: Preprocessor, models: Opened) -> None:
    task = replace(score_task(checkout, reader, models, [""]), keys=["b", "a"])
    task.store.store({"a": [1, 2.5], "b": [-1.0]})
    assert task.scores() == [-1.0, 1.0, 2.5]
    assert all(isinstance(value, float) for value in task.scores())


def test_operations_are_those_of_the_models_passes(checkout: tuple[Path, Settings], reader: Preprocessor, models: Opened) -> None:
    task = answer_task(checkout, reader, models)
    task.work.add(7, 9)
    assert task.operations() == 700
