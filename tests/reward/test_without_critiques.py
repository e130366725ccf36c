"""A reward model without critiques: its training step, its batches, its scores and its file, each by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import logsigmoid

from components.checkout import Checkout
from components.config.settings import load_settings
from components.engine.task import EpochContext, check_plan
from components.errors import UserError
from components.families.processing import Preprocessor
from components.preferences.record import Query, write_queries
from components.reward import judging
from components.reward.critique_source import with_source
from components.reward.judging import write_and_score
from components.reward.losses import StepCounts
from components.reward.model import RewardModel, load_reward_model, new_reward_model
from components.reward.recorded_source import critique_source_of
from components.reward.scoring import Judged, judge_branch, score
from components.reward.task import RewardTask
from components.trees.planning import plan_epoch
from tests.tiny import pixels, queries, save_checkout

SEED = 3
INSTRUCTION = "Judge."


def without_critiques() -> list[Query]:
    return [replace(query, responses=tuple(replace(r, critique=None) for r in query.responses)) for query in queries()]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, tiny_media: Path) -> Path:
    root = tmp_path_factory.mktemp("checkout")
    save_checkout(
        root,
        tiny_base,
        tiny_media,
        training={"ranks": 1, "row_tokens": 400, "batch_rows": 1, "seed": SEED},
        reward={"queries_per_step": 5, "instruction": INSTRUCTION, "tie_weight": 0.3},
    )
    write_queries(root / "artifacts/validate/train/queries.parquet", without_critiques())
    return root


def made(root: Path, **changes: Any) -> RewardTask:
    settings = load_settings(root / "params.yaml")
    return RewardTask(settings.model_copy(update={"reward": settings.reward.model_copy(update=changes)}), Checkout(root))


@pytest.fixture(scope="module")
def task(checkout: Path) -> RewardTask:
    return made(checkout)


def end_of_response(reward: RewardModel, prepared: Preprocessor, query: Query, response: str, *, blank: bool = False) -> float:
    """The head on the state after prompt, medium, response and the token that ends the turn."""
    root = prepared.judge_root(query, INSTRUCTION, blank=blank)
    words = prepared.tokenizer(response, add_special_tokens=False)["input_ids"]
    tokens = [*root.input_ids, *words, prepared.tokenizer.convert_tokens_to_ids("<|im_end|>")]
    with torch.no_grad():
        hidden_LH = reward.model.model(input_ids=torch.tensor([tokens]), **pixels(root)).last_hidden_state[0]
        return float(reward.head(hidden_LH[-1:]).item())


def test_rows_without_critiques_are_trained_as_none(task: RewardTask) -> None:
    assert task.settings.reward.critique_source == task.model.critique_source == "none"
    assert not task.model.writes_critiques


@pytest.mark.parametrize("epoch", [0, 1])
def test_step_is_pairs_and_ties_at_the_ends_of_responses(task: RewardTask, prepared: Preprocessor, tmp_path: Path, epoch: int) -> None:
    pairs, ties = [], []
    for query in without_critiques():
        scores = [end_of_response(task.model, prepared, query, response.text) for response in query.responses]
        pairs += [scores[winner] - scores[loser] for winner, loser in query.pairs()]
        ties += [(scores[a] - scores[b]) ** 2 for a, b in query.ties()]
    assert (len(pairs), len(ties)) == (17, 2)
    pair, tie = sum(-logsigmoid(torch.tensor(margin)).item() for margin in pairs) / 17, sum(ties) / 2
    task.begin_epoch(epoch, EpochContext(0, 1, tmp_path))
    (step,) = task.epoch_plan(epoch)
    sums: dict[str, float] = {}
    for micro in step.micros[0]:
        batch = task.batch(micro)
        loss, metrics = task.loss(task.model(**batch), batch)
        for name, value in {"loss": loss, **metrics}.items():
            sums[name] = sums.get(name, 0.0) + value.item()
    expected = {"loss": pair + 0.3 * tie, "loss/pair": pair, "loss/tie": tie, "accuracy": sum(m > 0 for m in pairs) / 17}
    assert sums == pytest.approx({**expected, "margin": sum(pairs) / 17}, abs=1e-5)
    assert list(tmp_path.iterdir()) == [], "no critique is written"


def test_batch_has_no_targets_and_ends_with_the_responses(task: RewardTask) -> None:
    batch = task.batch(([1, 4], StepCounts(1, 1, 0)))["batch"]
    assert batch.target_T.tolist() == []
    assert batch.comparisons.learned_N.tolist() == []
    end = task.preprocessor.end_id
    assert batch.input_ids_RL.flatten()[batch.last_K].tolist() == [end] * 6
    loss, _ = task.loss(task.model(batch=batch), {"batch": batch})
    loss.backward()
    assert all(parameter.grad is not None for parameter in task.model.model.lm_head.parameters()), "ranks wait for every gradient"
    task.model.zero_grad()


def test_plan_balances_by_responses_alone(checkout: Path, prepared: Preprocessor) -> None:
    task = made(checkout, queries_per_step=2)
    lengths = [
        len(prepared.judge_root(q, INSTRUCTION).input_ids) + sum(len(prepared.response_ids(r.text)) for r in q.responses)
        for q in without_critiques()
    ]
    plan = plan_epoch(lengths, seed=SEED, epoch=1, queries_per_step=2, ranks=1, row_tokens=400, batch_rows=1)
    steps = task.epoch_plan(1)
    check_plan(steps, 1, len(plan))
    assert [[[micro for micro, _ in rank] for rank in step.micros] for step in steps] == plan
    assert {counts.critiques for step in steps for rank in step.micros for _, counts in rank} == {0}


def test_critiques_of_rows_are_unread_where_none_is_set(checkout: Path, tiny_base: Path, tiny_media: Path, tmp_path: Path) -> None:
    save_checkout(tmp_path, tiny_base, tiny_media, training={"ranks": 1, "row_tokens": 400}, reward={"instruction": INSTRUCTION})
    one, other = made(checkout), made(tmp_path, critique_source="none", tie_weight=0.3)
    first, second = (task.batch(([0, 3], StepCounts(1, 1, 0)))["batch"] for task in (one, other))
    assert torch.equal(first.input_ids_RL, second.input_ids_RL)
    assert other._counts_Q3[:, 2].tolist() == [0] * 5


def test_critiques_that_only_calibration_has_are_refused(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = without_critiques()
    rows[2] = queries()[2]
    write_queries(checkout / "artifacts/validate/train/queries.parquet", rows)
    monkeypatch.setattr("components.reward.task.is_calibration", lambda identity, _share: identity == "q2")
    try:
        with pytest.raises(UserError, match=r"lower reward\.calibration_share, or set reward\.critique_source to none"):
            made(checkout, critique_source="mixed")
        assert made(checkout, critique_source="none").model.critique_source == "none"
    finally:
        write_queries(checkout / "artifacts/validate/train/queries.parquet", without_critiques())


def test_stage_and_ranks_refuse_what_the_rows_lack(checkout: Path) -> None:
    settings = load_settings(checkout / "params.yaml")
    annotated = settings.model_copy(update={"reward": settings.reward.model_copy(update={"critique_source": "annotated"})})
    with pytest.raises(UserError, match="no training response has a critique"):
        with_source(annotated, Checkout(checkout))
    with pytest.raises(UserError, match="no training response has a critique"):
        RewardTask(annotated, Checkout(checkout))


def test_branch_without_a_critique_ends_with_its_response(prepared: Preprocessor) -> None:
    branch = judge_branch(prepared, "Yes.", None, learn=True)
    assert list(branch.input_ids) == [*prepared.tokenizer("Yes.", add_special_tokens=False)["input_ids"], prepared.end_id]
    assert branch.target_from == len(branch.input_ids)


@pytest.mark.parametrize("blank", [False, True])
def test_model_without_critiques_scores_and_writes_nothing(
    random_reward: RewardModel, prepared: Preprocessor, blank: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = RewardModel(random_reward.model, random_reward.head, "none").eval()
    monkeypatch.setattr(judging, "continue_prompts", lambda *_, **__: pytest.fail("a text is generated"))
    items = [(query, response.text) for query in queries() for response in query.responses]
    passes: list[int] = []
    judgements = write_and_score(
        bare,
        prepared,
        items,
        instruction=INSTRUCTION,
        blank=blank,
        max_new_tokens=6,
        batch_size=7,
        count=lambda tokens, *_: passes.append(tokens),
    )
    expected = [end_of_response(bare, prepared, query, text, blank=blank) for query, text in items]
    assert [text for text, _ in judgements] == [None] * len(items)
    assert [value for _, value in judgements] == pytest.approx(expected, abs=1e-5)
    roots = [len(prepared.judge_root(query, INSTRUCTION).input_ids) for query in queries()]
    assert sum(passes) == sum(roots) + sum(len(prepared.response_ids(text)) for _, text in items), "work is counted"
    empty = score(bare, prepared, [Judged(*items[0], "")], instruction=INSTRUCTION, blank=blank)
    assert abs(empty[0] - expected[0]) > 1e-4, "an empty critique is read elsewhere"


class Neighbour:
    """Another process that has one batch more than this one."""

    def __init__(self) -> None:
        self.counts: list[int] = []

    def most(self, count: int) -> int:
        self.counts.append(count)
        return count + 1

    def any(self, wanted: bool) -> bool:
        return wanted


def test_model_without_critiques_keeps_in_step_with_other_ranks(random_reward: RewardModel, prepared: Preprocessor) -> None:
    bare, step = RewardModel(random_reward.model, random_reward.head, "none").eval(), Neighbour()
    items = [(query, response.text) for query in queries()[:2] for response in query.responses]
    options: dict[str, Any] = {"instruction": INSTRUCTION, "max_new_tokens": 6, "batch_size": 7}
    judgements = write_and_score(bare, prepared, items, **options, step=step)
    assert step.counts == [1]
    assert judgements == write_and_score(bare, prepared, items, **options)


@pytest.mark.parametrize("source", ["none", "mixed", None])
def test_folder_says_what_the_model_was_trained_on(tiny_base: Path, random_reward: RewardModel, tmp_path: Path, source: Any) -> None:
    saved = new_reward_model(random_reward.model, 0, source)
    saved.save(tmp_path, tiny_base)
    opened = load_reward_model(tmp_path)
    assert opened.critique_source == critique_source_of(tmp_path) == source
    assert opened.writes_critiques is (source != "none")


def test_trained_model_exports_its_source(task: RewardTask, tmp_path: Path) -> None:
    task.export(tmp_path / "model")
    assert critique_source_of(tmp_path / "model") == "none"
