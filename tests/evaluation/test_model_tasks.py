"""Tasks of evaluation with the tiny checkpoint: batches, keys, and what each computes, against one forward pass a token."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from components.alignment.log_probs import LogProbTask
from components.checkout import Checkout
from components.config.settings import Settings
from components.engine.inference_task import Work
from components.engine.models import open_policy
from components.engine.ranks import Ranks
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
from components.families.adapters import Root
from components.families.loading import load_model
from components.families.processing import Preprocessor
from components.preferences.record import Medium, Query, Turn, read_queries
from components.reward.model import RewardModel, new_reward_model, open_reward_model
from components.reward.scoring import score
from components.trees.planning import plan_batches
from tests.tiny import pixels, preprocessor, queries, rephrased, save_checkout, save_checkpoint, showing

INSTRUCTION = "Judge the answer."
RANK = Ranks()


class Memory:
    """A store in memory."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def find(self, keys: Iterable[str]) -> dict[str, Any]:
        return {key: self.values[key] for key in keys if key in self.values}

    def store(self, values: Mapping[str, Any]) -> None:
        self.values.update(values)


class Opened:
    """Models that are open already."""

    def __init__(self, reward: RewardModel) -> None:
        self.opened = reward
        self.requests: list[tuple[Path, Ranks]] = []

    def open(self, folder: Path, ranks: Ranks, opener: Any) -> Any:
        self.requests.append((folder, ranks))
        return {open_policy: self.opened.model, open_reward_model: self.opened}[opener]

    def operations(self, work: Work) -> float:
        return 100.0 * work.tokens


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, tiny_media: Path) -> tuple[Path, Settings]:
    root = tmp_path_factory.mktemp("tasks")
    evaluate, critique = {"max_new_tokens": 7, "batch_size": 2, "threads": 1}, {"max_new_tokens": 5, "batch_size": 3, "threads": 1}
    settings = save_checkout(
        root, tiny_base, tiny_media, evaluate=evaluate, critique=critique, features={"cache": False}, reward={"instruction": INSTRUCTION}
    )
    save_checkpoint(root / "artifacts/align/model", seed=1)
    return root, settings


@pytest.fixture(scope="module")
def reader(tiny_base: Path, tiny_media: Path) -> Preprocessor:
    return preprocessor(tiny_base, tiny_media)


@pytest.fixture(scope="module")
def models(tiny_base: Path) -> Opened:
    """A random model with large weights and a head of its own: with a tied one it says its last token again and again."""
    model = load_model(tiny_base)
    torch.manual_seed(1)
    model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight))
    for name, weight in model.model.language_model.named_parameters():
        if name.endswith("proj.weight"):
            torch.nn.init.normal_(weight, std=0.3)
    return Opened(new_reward_model(model, seed=0).eval())


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


# what the ranks build


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
