"""The tasks that a stage of evaluation builds, and what their keys follow."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from components.alignment.log_probs import LogProbTask
from components.checkout import Checkout
from components.config.settings import Settings
from components.evaluation import tasks
from components.evaluation.tasks import (
    AnswerTask,
    JudgementTask,
    ScoreTask,
    blank_identity,
    policy_tasks,
    reward_tasks,
    with_critiques,
)
from components.families.processing import Preprocessor
from components.preferences.record import Medium, Turn, read_queries
from tests.evaluation.opened import INSTRUCTION, RANK, checkout, reader
from tests.tiny import queries, rephrased, showing

__all__ = ["checkout", "reader"]


POLICIES = {"base": "data/base", "aligned": "artifacts/align/model"}


@pytest.fixture
def quick(reader: Preprocessor, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """One preprocessor for all, and cheap digests; collects what both would have been opened with."""
    opened: list[tuple[Any, ...]] = []
    monkeypatch.setattr(tasks, "Preprocessor", lambda *arguments: opened.append(arguments) or reader)
    monkeypatch.setattr(tasks, "attach_features", lambda *arguments, ranks: opened.append((*arguments, ranks)))
    monkeypatch.setattr(tasks, "model_digest", lambda folder: f"model {folder.name}")
    monkeypatch.setattr(tasks, "critique_context", lambda settings, folder: f"{settings.critique.max_new_tokens} {folder.name}")
    monkeypatch.setattr(tasks, "critique_source_of", lambda folder: "none" if folder.name == "alone" else "mixed")
    return opened


def changed(settings: Settings, section: str, **values: Any) -> Settings:
    return settings.model_copy(update={section: getattr(settings, section).model_copy(update=values)})


def test_a_policy_answers_and_scores_and_the_base_only_answers(
    checkout: tuple[Path, Settings], quick: list[tuple[Any, ...]], reader: Preprocessor
) -> None:
    root, settings = checkout
    made = policy_tasks(settings, Checkout(root), POLICIES)
    heldout = read_queries(Checkout(root).queries("heldout"))
    assert [(type(task), task.label, task.unit) for task in made] == [
        (AnswerTask, "answers of the base policy", "query"),
        (AnswerTask, "answers of the aligned policy", "query"),
        (LogProbTask, "log-probs under the aligned policy", "query"),
    ]
    assert [task.folder for task in made] == [root / "data/base", root / "artifacts/align/model", root / "artifacts/align/model"]
    for task in made:
        assert task.queries == heldout
        assert (task.preprocessor, task.settings, task.models, task.store) == (reader, settings, made[0].models, made[0].store)
        assert len(set(task.keys)) == len(task.keys) == 5
    assert quick == [
        (root / "data/base", root / "data/preferences", settings.model, settings.features),
        (reader, root / "data/base", heldout, settings, Checkout(root), settings.evaluate.ranks),
    ]
    assert (root / ".mmalign/cache/evaluate.sqlite").is_file()


ANSWERS, LOG_PROBS = {0, 1}, {2}


@pytest.mark.parametrize(
    ("section", "values", "altered"),
    [
        ("evaluate", {"max_new_tokens": 6}, ANSWERS),
        ("evaluate", {"batch_size": 3}, ANSWERS),
        ("evaluate", {"threads": 2}, ANSWERS | LOG_PROBS),
        ("evaluate", {"ranks": 2}, set()),
        ("training", {"row_tokens": 77}, LOG_PROBS),
        ("training", {"precision": "bf16"}, ANSWERS | LOG_PROBS),
        ("training", {"seed": 99}, set()),
        ("model", {"max_frames": 2}, ANSWERS | LOG_PROBS),
        ("model", {"background": "#000000"}, ANSWERS | LOG_PROBS),
    ],
)
@pytest.mark.usefixtures("quick")
def test_keys_of_a_policy_follow_what_changes_its_results(
    checkout: tuple[Path, Settings], section: str, values: dict[str, Any], altered: set[int]
) -> None:
    root, settings = checkout
    before, after = (
        policy_tasks(settings, Checkout(root), POLICIES),
        policy_tasks(changed(settings, section, **values), Checkout(root), POLICIES),
    )
    assert {n for n, (one, other) in enumerate(zip(before, after, strict=True)) if one.keys != other.keys} == altered
    for one, other in zip(before, after, strict=True):
        assert len(set(one.keys) & set(other.keys)) in (0, 5)


@pytest.mark.parametrize("name", ["model_digest", "processor_digest", "code_digest"])
@pytest.mark.usefixtures("quick")
def test_keys_of_a_policy_follow_model_processor_and_code(
    checkout: tuple[Path, Settings], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    root, settings = checkout
    before = policy_tasks(settings, Checkout(root), POLICIES)
    monkeypatch.setattr(tasks, name, lambda *_: "other")
    assert all(not set(one.keys) & set(two.keys) for one, two in zip(before, policy_tasks(settings, Checkout(root), POLICIES), strict=True))


@pytest.mark.parametrize(
    ("values", "altered"),
    [
        ({"turns": (Turn("user", ("Else?",)),)}, ANSWERS | LOG_PROBS),
        ({"turns": (Turn("user", ("", "Is it 2?")),), "media": (Medium("", "image", "x"),)}, ANSWERS | LOG_PROBS),
        ({"turns": (Turn("system", ("Be brief.",)), *queries()[2].turns)}, ANSWERS | LOG_PROBS),
        ({"responses": queries()[2].responses[:1]}, LOG_PROBS),
        ({"id": "renamed", "category": "mcq", "reference_answer": "Yes."}, set()),
    ],
)
@pytest.mark.usefixtures("quick")
def test_keys_of_a_query_follow_what_a_policy_reads(
    checkout: tuple[Path, Settings],
    monkeypatch: pytest.MonkeyPatch,
    values: dict[str, Any],
    altered: set[int],
) -> None:
    root, settings = checkout
    keys = []
    for query in (queries()[2], replace(queries()[2], **values)):
        monkeypatch.setattr(tasks, "read_queries", lambda _, query=query: [query])
        keys.append([task.keys for task in policy_tasks(settings, Checkout(root), POLICIES)])
    assert {number for number in range(3) if keys[0][number] != keys[1][number]} == altered
    assert len({key for task in keys[0] for key in task}) == 3


def test_a_reward_model_has_four_tasks_or_only_its_own_critiques(
    checkout: tuple[Path, Settings], quick: list[tuple[Any, ...]], reader: Preprocessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, settings = checkout
    rows = queries()
    rows[1] = replace(rows[1], responses=tuple(replace(r, critique=None) for r in rows[1].responses))
    monkeypatch.setattr(tasks, "read_queries", lambda _: rows)
    arguments = {"folder": "artifacts/reward/model", "answers": [[3, "An answer."], [0, "Another."]]}
    blank, on_given, bare, shown = reward_tasks(settings, Checkout(root), arguments)
    responses = [(query, response.text) for query in rows for response in query.responses]
    assert isinstance(blank, JudgementTask)
    assert isinstance(on_given, ScoreTask)
    assert isinstance(bare, ScoreTask)
    assert isinstance(shown, JudgementTask)
    assert (blank.label, blank.unit, blank.blank, blank.rows) == ("critiques over blanked media", "response", True, responses)
    assert (on_given.label, on_given.unit) == ("scores on given critiques", "query")
    assert on_given.rows == [(query, [r.critique for r in query.responses]) for query in (rows[0], *rows[2:])]
    assert (bare.label, bare.unit, bare.rows) == ("scores without critiques", "query", [(q, [""] * len(q.responses)) for q in rows])
    assert (shown.label, shown.unit, shown.blank) == ("critiques of answers", "answer", False)
    assert shown.rows == [(rows[3], "An answer."), (rows[0], "Another.")]
    for task in (blank, on_given, bare, shown):
        assert (task.folder, task.preprocessor, task.settings) == (root / "artifacts/reward/model", reader, settings)
        assert (task.models, task.store) == (blank.models, blank.store)
        assert len(task.keys) == len(task.rows)
    (own,) = reward_tasks(settings, Checkout(root), arguments | {"own": True})
    assert isinstance(own, JudgementTask)
    assert (own.label, own.unit, own.blank, own.rows) == ("critiques", "response", False, responses)
    folder = root / "artifacts/reward/model"
    assert quick[:2] == [
        (folder, root / "data/preferences", settings.model, settings.features),
        (reader, folder, rows, settings, Checkout(root), settings.evaluate.ranks),
    ]


@pytest.mark.usefixtures("quick")
def test_model_without_critiques_gives_only_its_own_scores(checkout: tuple[Path, Settings], monkeypatch: pytest.MonkeyPatch) -> None:
    root, settings = checkout
    monkeypatch.setattr(tasks, "read_queries", lambda _: queries())
    arguments = {"folder": "alone", "answers": [[3, "An answer."]]}
    blank, on_given, bare, shown = reward_tasks(settings, Checkout(root), arguments)
    responses = [(query, response.text) for query in queries() for response in query.responses]
    assert (blank.rows, shown.rows) == (responses, [(queries()[3], "An answer.")])
    assert (on_given.rows, on_given.keys, bare.rows, bare.keys) == ([], [], [], [])
    (own,) = reward_tasks(settings, Checkout(root), arguments | {"own": True})
    assert own.rows == responses


@pytest.mark.usefixtures("quick")
def test_an_answer_equal_to_a_response_shares_its_key(
    checkout: tuple[Path, Settings],
) -> None:
    root, settings = checkout
    answers = {"folder": "m", "answers": [(0, queries()[0].responses[1].text), (0, "Else.")]}
    (own,) = reward_tasks(settings, Checkout(root), {"folder": "m", "own": True})
    shown = reward_tasks(settings, Checkout(root), answers)[3]
    assert shown.keys[0] == own.keys[1]
    assert shown.keys[1] not in own.keys
    assert len({*own.keys, *(key for task in reward_tasks(settings, Checkout(root), answers)[:3] for key in task.keys)}) > len(own.keys)


@pytest.mark.parametrize(
    ("section", "values", "altered"),
    [("critique", {"max_new_tokens": 4}, True), ("evaluate", {"threads": 2}, True), ("evaluate", {"max_new_tokens": 4}, False)],
)
@pytest.mark.usefixtures("quick")
def test_keys_of_a_reward_model_follow_its_context(
    checkout: tuple[Path, Settings], section: str, values: dict[str, Any], altered: bool
) -> None:
    root, settings = checkout
    arguments = {"folder": "m", "answers": [(0, "Else.")]}
    before, after = (
        reward_tasks(settings, Checkout(root), arguments),
        reward_tasks(changed(settings, section, **values), Checkout(root), arguments),
    )
    assert [one.keys != other.keys for one, other in zip(before, after, strict=True)] == [altered] * 4


@pytest.mark.usefixtures("quick")
def test_keys_of_a_reward_model_follow_code_and_row(checkout: tuple[Path, Settings], monkeypatch: pytest.MonkeyPatch) -> None:
    root, settings = checkout
    arguments = {"folder": "m", "answers": [(0, "Else.")]}

    def keys() -> list[str]:
        own = reward_tasks(settings, Checkout(root), arguments | {"own": True})
        return [task.keys[0] for task in (*own, *reward_tasks(settings, Checkout(root), arguments))]

    first = keys()
    assert len(set(first)) == 5
    own, blank, on_given, bare, shown = range(5)
    query = queries()[0]
    responses = query.responses
    cases: list[tuple[dict[str, Any], set[int]]] = [
        ({"turns": (Turn("user", ("", "Else?")),)}, {own, blank, on_given, bare, shown}),
        ({"media": (replace(query.media[0], digest="x"),)}, {own, on_given, bare, shown}),
        ({"responses": (replace(responses[0], text="Else"), *responses[1:])}, {own, blank, on_given, bare}),
        ({"responses": (replace(responses[0], critique="Else"), *responses[1:])}, {on_given}),
    ]
    for values, altered in cases:
        monkeypatch.setattr(tasks, "read_queries", lambda _, values=values: [replace(query, **values), *queries()[1:]])
        assert {number for number, (a, b) in enumerate(zip(first, keys(), strict=True)) if a != b} == altered
    monkeypatch.setattr(tasks, "read_queries", lambda _: queries())
    monkeypatch.setattr(tasks, "code_digest", lambda _stage: "other")
    assert not set(first) & set(keys())


def test_only_queries_with_every_critique_have_given_ones() -> None:
    rows = queries()
    empty = replace(rows[1], responses=(replace(rows[1].responses[0], critique=""), rows[1].responses[1]))
    missing = replace(rows[2], responses=(rows[2].responses[0], replace(rows[2].responses[1], critique=None)))
    assert [query.id for query in with_critiques([rows[0], empty, missing, rows[3]])] == ["q0", "q3"]


def test_blanked_media_of_one_size_and_question_are_judged_once(checkout: tuple[Path, Settings], reader: Preprocessor) -> None:
    _, settings = checkout
    square, tall, text = queries()[0], queries()[1], queries()[2]
    identity = blank_identity(reader, settings, square)
    assert identity[0] == str(reader.judge_root(square, INSTRUCTION, blank=True).input_ids)
    assert any(part.startswith("pixel_values(") and part.endswith(")") for part in identity[1:])
    assert any("image_sizes(1, 2)[32, 32]" in part for part in identity[1:])
    frame = showing(square, Medium("two/0.png", "image", "two/0.png"), id="other")
    assert blank_identity(reader, settings, frame) == identity
    assert blank_identity(reader, settings, rephrased(square, "Else?")) != identity
    assert blank_identity(reader, settings, rephrased(tall, square.prompt)) != identity
    assert len(blank_identity(reader, settings, text)) == 1


def test_the_real_builders_open_the_checkout(checkout: tuple[Path, Settings], capsys: pytest.CaptureFixture[str]) -> None:
    root, settings = checkout
    answers, _, scores = policy_tasks(settings, Checkout(root), POLICIES)
    assert capsys.readouterr().out.startswith("features: no cache: features.cache is false")
    assert isinstance(answers, AnswerTask)
    assert isinstance(scores, LogProbTask)
    assert answers.compute([2], RANK)[0][1] in (True, False)
    values = scores.compute([2], RANK)
    assert [tokens for _, tokens in values[0]] == [len(scores.preprocessor.response_ids(r.text)) for r in queries()[2].responses]
