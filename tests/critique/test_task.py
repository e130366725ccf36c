"""The task of critiques: its batches, its keys, and what it computes, each against a calculation beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from components.checkout import Checkout
from components.closures import code_digest
from components.config.settings import Settings, load_settings
from components.critique import task as task_module
from components.critique.task import CritiqueTask, build, critique_context, judge_together, plan_parts, query_key
from components.engine.inference_task import Work
from components.engine.operations import operations_of
from components.engine.ranks import Ranks
from components.families.digests import HEAD_FILE, model_digest, processor_digest
from components.families.processing import Preprocessor
from components.files import digest_bytes
from components.preferences.record import Query, Response
from components.reward.judging import write_and_score
from components.reward.model import RewardModel, load_reward_model
from tests.conftest import ROOT
from tests.tiny import preprocessor, queries, remade, rephrased, save_checkout, showing

INSTRUCTION = "Judge."


def changed(settings: Settings, **sections: dict[str, Any]) -> Settings:
    return settings.model_copy(update={name: getattr(settings, name).model_copy(update=keys) for name, keys in sections.items()})


@pytest.fixture(scope="module")
def settings() -> Settings:
    return changed(
        load_settings(ROOT / "params.yaml"), reward={"instruction": INSTRUCTION}, critique={"max_new_tokens": 4, "batch_size": 7}
    )


def query(identity: str, responses: int) -> Query:
    return Query.single(identity, "short", f"Prompt {identity}", tuple(Response(f"r{n}", n + 1) for n in range(responses)))


class Lengths:
    """A preprocessor that knows nothing but the length of each query's root."""

    def __init__(self, lengths: dict[str, int]) -> None:
        self.lengths = lengths
        self.instructions: set[str] = set()

    def judge_length(self, item: Query, instruction: str) -> int:
        self.instructions.add(instruction)
        return self.lengths[item.id]


# Root lengths 5, 9, 9, 2, 1 and 4, 2, 3, 3, 1 responses: the longest roots first, equal ones in the order of the table.
ROWS = [query("a", 4), query("b", 2), query("c", 3), query("d", 3), query("e", 1)]
LENGTHS = {"a": 5, "b": 9, "c": 9, "d": 2, "e": 1}


@pytest.mark.parametrize(
    ("batch_size", "parts"),
    [
        (1, [[1], [2], [0], [3], [4]]),
        (4, [[1], [2], [0], [3, 4]]),
        (5, [[1, 2], [0], [3, 4]]),
        (6, [[1, 2], [0], [3, 4]]),
        (7, [[1, 2], [0, 3], [4]]),
        (9, [[1, 2, 0], [3, 4]]),
        (12, [[1, 2, 0, 3], [4]]),
        (13, [[1, 2, 0, 3, 4]]),
    ],
)
def test_batches_hold_about_batch_size_responses_of_like_lengths(settings: Settings, batch_size: int, parts: list[list[int]]) -> None:
    lengths = Lengths(LENGTHS)
    assert plan_parts(lengths, ROWS, changed(settings, critique={"batch_size": batch_size})) == parts  # type: ignore[arg-type]
    assert lengths.instructions == {INSTRUCTION}


@pytest.mark.parametrize(
    ("change", "same"),
    [
        (lambda q: rephrased(q, "Is it not?"), False),
        (lambda q: remade(q, kind="video"), False),
        (showing, False),
        (lambda q: remade(q, digest="other bytes"), False),
        (lambda q: remade(q, digest=None), False),
        (lambda q: replace(q, responses=q.responses[::-1]), False),
        (lambda q: replace(q, responses=q.responses[:-1]), False),
        (lambda q: replace(q, responses=(replace(q.responses[0], text="Yes!"), *q.responses[1:])), False),
        (lambda q: replace(remade(q, path="moved.png"), id="elsewhere", category="long"), True),
        (lambda q: replace(q, responses=tuple(replace(r, rank=1, critique=None) for r in q.responses)), True),
    ],
)
def test_key_changes_with_what_a_judgement_depends_on(change: Callable[[Query], Query], same: bool) -> None:
    row = queries()[0]
    assert (query_key(change(row), "context") == query_key(row, "context")) is same


def test_key_depends_on_its_context_and_needs_no_media() -> None:
    row = queries()[2]
    assert not row.media
    assert query_key(row, "context") != query_key(row, "other")
    assert query_key(row, "context") == query_key(replace(row, id="q9"), "context")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The files of a reward model by which one is told from another."""
    for name in ("model.safetensors", "config.json", "tokenizer.json", HEAD_FILE):
        (tmp_path / name).write_text(f"bytes of {name}")
    return tmp_path


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", HEAD_FILE])
def test_context_changes_with_each_file_of_the_reward_model(folder: Path, settings: Settings, name: str) -> None:
    before = critique_context(settings, folder)
    (folder / name).write_text("other bytes")
    assert critique_context(settings, folder) != before


@pytest.mark.parametrize(
    ("sections", "same"),
    [
        ({"reward": {"instruction": "Weigh."}}, False),
        ({"critique": {"max_new_tokens": 5}}, False),
        ({"critique": {"batch_size": 8}}, False),
        ({"critique": {"threads": 3}}, False),
        ({"model": {"max_frames": 3}}, False),
        ({"model": {"background": "#000000"}}, False),
        ({"training": {"precision": "bf16"}}, False),
        ({"critique": {"ranks": 3, "zero_inference": True}}, True),
        ({"reward": {"own_share": 0.9, "tie_weight": 9.0}}, True),
    ],
)
def test_context_changes_with_settings_that_change_a_judgement(
    folder: Path, settings: Settings, sections: dict[str, dict[str, Any]], same: bool
) -> None:
    assert (critique_context(changed(settings, **sections), folder) == critique_context(settings, folder)) is same


def test_context_of_unchanged_model_is_stable_between_versions(folder: Path, settings: Settings) -> None:
    parts = [
        model_digest(folder),
        processor_digest(folder),
        f"bytes of {HEAD_FILE}".encode(),
        INSTRUCTION,
        '{"threads":2,"max_new_tokens":4,"batch_size":7}',
        "8",
        "#ffffff",
        "torch.float32",
    ]
    assert critique_context(settings, folder) == digest_bytes(*parts)


def test_judgements_are_grouped_by_query_and_work_is_counted(
    writer: RewardModel, tiny_preprocessor: Preprocessor, settings: Settings
) -> None:
    rows = [queries()[2], queries()[1], queries()[4]]
    passes: list[tuple[int, int]] = []
    flat = write_and_score(
        writer,
        tiny_preprocessor,
        [(row, response.text) for row in rows for response in row.responses],
        instruction=INSTRUCTION,
        max_new_tokens=4,
        batch_size=7,
        count=lambda *counts: passes.append(counts[:2]),
    )
    work = Work()
    assert judge_together(writer, tiny_preprocessor, rows, settings, None, work) == [flat[:3], flat[3:5], flat[5:]]
    assert (work.tokens, work.slots) == (sum(tokens for tokens, _ in passes), sum(slots for _, slots in passes))
    assert judge_together(writer, tiny_preprocessor, rows[:1], settings)[0] == [
        (text, pytest.approx(value, abs=1e-5)) for text, value in flat[:3]
    ]


def test_step_of_the_ranks_reaches_the_writer(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def spied(*arguments: Any, **named: Any) -> list[tuple[str, float]]:
        seen.update(named, arguments=arguments)
        return [("", 0.0)] * 3

    monkeypatch.setattr(task_module, "write_and_score", spied)
    row, work, ranks = queries()[2], Work(), Ranks()
    assert judge_together("reward", "preprocessor", [row], settings, ranks, work) == [[("", 0.0)] * 3]  # type: ignore[arg-type]
    assert seen["arguments"] == ("reward", "preprocessor", [(row, response.text) for response in row.responses])
    assert seen["step"] is ranks
    assert seen["count"] == work.add
    assert {name: seen[name] for name in ("instruction", "max_new_tokens", "batch_size")} == {
        "instruction": INSTRUCTION,
        "max_new_tokens": 4,
        "batch_size": 7,
    }


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, tiny_media: Path, writer: RewardModel) -> Path:
    root = tmp_path_factory.mktemp("checkout")
    save_checkout(
        root, tiny_base, tiny_media, reward={"instruction": INSTRUCTION}, critique={"max_new_tokens": 4, "batch_size": 7, "threads": 1}
    )
    (root / "artifacts/reward").mkdir(parents=True)
    writer.save(root / "artifacts/reward/model", tiny_base)
    return root


@pytest.fixture(scope="module")
def tasks(checkout: Path) -> list[CritiqueTask]:
    return build(load_settings(checkout / "params.yaml"), Checkout(checkout))


def test_tasks_of_both_splits_share_preprocessor_model_and_cache(tasks: list[CritiqueTask], checkout: Path) -> None:
    train, heldout = tasks
    assert [row.split for row in train.queries] == ["train"] * 5
    assert [row.split for row in heldout.queries] == ["heldout"] * 5
    assert train.label != heldout.label
    for name in ("preprocessor", "models", "store", "settings", "folder"):
        assert getattr(train, name) is getattr(heldout, name)
    assert train.folder == checkout / "artifacts/reward/model"
    context = digest_bytes(critique_context(train.settings, train.folder), code_digest("critique"))
    assert train.keys == heldout.keys == [query_key(row, context) for row in train.queries]
    assert train.preprocessor.features is not None


def test_critiques_of_other_code_are_not_reused(tasks: list[CritiqueTask], checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_module, "code_digest", lambda stage: f"other code of {stage}")
    other, _ = build(tasks[0].settings, Checkout(checkout))
    assert not set(other.keys) & set(tasks[0].keys)


def test_task_plans_by_its_queries_and_counts_responses(tasks: list[CritiqueTask]) -> None:
    train = tasks[0]
    assert [train.size(item) for item in range(5)] == [4, 2, 3, 3, 4]
    assert train.plan() == plan_parts(train.preprocessor, train.queries, train.settings)
    assert sorted(item for batch in train.plan() for item in batch) == [0, 1, 2, 3, 4]


def test_task_computes_with_the_saved_reward_model(tasks: list[CritiqueTask], checkout: Path) -> None:
    train = tasks[0]
    assert train.operations() == 0, "no model is open yet"
    computed = train.compute([2, 0], Ranks())
    reward = load_reward_model(checkout / "artifacts/reward/model")
    live = preprocessor(checkout / "data/base", checkout / "data/preferences")
    expected = judge_together(reward, live, [train.queries[2], train.queries[0]], train.settings)
    assert [[text for text, _ in row] for row in computed] == [[text for text, _ in row] for row in expected]
    assert [value for row in computed for _, value in row] == pytest.approx([v for row in expected for _, v in row], abs=1e-5)
    assert 0 < train.work.tokens <= train.work.slots

    assert train.operations() == operations_of(reward).forward(train.work.tokens, train.work.targets, train.work.pairs) > 0


def test_judgements_come_from_the_cache_as_text_and_float(tasks: list[CritiqueTask]) -> None:
    train, heldout = tasks
    values = {key: [[f"Critique {n}", n] for n in range(train.size(item))] for item, key in enumerate(train.keys)}
    train.store.store(values)
    expected = [[(f"Critique {n}", float(n)) for n in range(train.size(item))] for item in range(5)]
    assert train.judgements() == heldout.judgements() == expected
    assert all(type(value) is float for row in train.judgements() for _, value in row)
    assert torch.get_num_threads() == 1
