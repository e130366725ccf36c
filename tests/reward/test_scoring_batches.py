"""Branches of the judge, and how items become trees, rows and batches, alone and in step with other processes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from components.families.processing import Preprocessor
from components.preferences.record import Query
from components.reward.model import Judgement, RewardModel
from components.reward.scoring import Judged, judge_branch, score
from components.trees.trees import TreeBatch
from tests.tiny import pixels, queries, rephrased


class OneStepBehind:
    """Another process has `more` batches than this one."""

    def __init__(self, more: int) -> None:
        self.more = more
        self.counts: list[int] = []

    def most(self, count: int) -> int:
        self.counts.append(count)
        return count + self.more

    def any(self, wanted: bool) -> bool:
        return wanted


class Depth(RewardModel):
    """Scores a branch by the position of its last token, so that a score says which tree it belongs to, at no expense."""

    def forward(self, batch: TreeBatch) -> Judgement:
        depth_K = batch.position_ids_RL.flatten()[batch.last_K].float()
        return Judgement(depth_K, depth_K, depth_K)


def text_query(number: int, tokens: int, prepared: Preprocessor, branch: int) -> Query:
    """A query without media whose tree has `tokens` tokens with one branch of `branch`: the tokenizer has a token a letter."""
    query = rephrased(queries()[2], "", id=f"text-{number}")
    fixed = len(prepared.judge_root(query, "J").input_ids)
    return rephrased(query, "x" * (tokens - branch - fixed))


def by_itself(reward: RewardModel, prepared: Preprocessor, item: Judged) -> float:
    """The score from a plain forward pass over the item's tokens."""
    root = prepared.judge_root(item.query, "J")
    tokens = [*root.input_ids, *prepared.judge_ids(item.response), *prepared.critique_ids(item.critique)]
    with torch.no_grad():
        hidden_LH = reward.model.model(input_ids=torch.tensor([tokens]), **pixels(root)).last_hidden_state[0]
        return float(reward.head(hidden_LH[-1:]).item())


@pytest.mark.parametrize("critique", ["Right.", ""])
def test_branch_is_response_then_critique_and_learns_the_latter(prepared: Preprocessor, critique: str) -> None:
    before, after = prepared.judge_ids("Yes."), prepared.critique_ids(critique)
    assert after[-1] == prepared.end_id
    learned, read = (judge_branch(prepared, "Yes.", critique, learn=learn) for learn in (True, False))
    assert learned.input_ids == read.input_ids == (*before, *after)
    assert learned.input_ids[learned.target_from :] == tuple(after)
    assert read.input_ids[read.target_from :] == ()


def test_scores_come_in_item_order_however_queries_alternate(random_reward: RewardModel, prepared: Preprocessor) -> None:
    one, two, three = queries()[2], queries()[0], queries()[4]
    items = [
        Judged(one, "Yes.", "Right."),
        Judged(two, "No.", ""),
        Judged(two, "Maybe", "It may be."),
        Judged(one, "No, not that I know.", "Wrong."),
        Judged(three, "Yes.", "Long and right."),
    ]
    scores = score(random_reward, prepared, items, instruction="J")
    assert scores == pytest.approx([by_itself(random_reward, prepared, item) for item in items], abs=1e-5)
    assert len({round(value, 4) for value in scores}) == 5


def test_responses_of_one_query_share_its_root(random_reward: RewardModel, prepared: Preprocessor) -> None:
    query = queries()[2]
    items = [Judged(query, text, "Right.") for text in ("Yes.", "No.", "Maybe")]
    passes: list[tuple[int, int]] = []
    score(random_reward, prepared, items, instruction="J", count=lambda tokens, slots, *_: passes.append((tokens, slots)))
    root = len(prepared.judge_root(query, "J").input_ids)
    branches = sum(len(prepared.judge_ids(item.response)) + len(prepared.critique_ids("Right.")) for item in items)
    assert passes == [(root + branches, root + branches)]


@pytest.mark.parametrize(("lengths", "slots"), [((256, 256), 512), ((257, 256), 2 * 257)])
def test_rows_hold_512_tokens(random_reward: RewardModel, prepared: Preprocessor, lengths: tuple[int, int], slots: int) -> None:
    branch = len(prepared.judge_ids("Yes.")) + len(prepared.critique_ids(""))
    items = [Judged(text_query(number, tokens, prepared, branch), "Yes.", "") for number, tokens in enumerate(lengths)]
    passes: list[tuple[int, int]] = []
    score(random_reward, prepared, items, instruction="J", count=lambda *counts: passes.append(counts[:2]))
    assert passes == [(sum(lengths), slots)]


def test_batches_hold_16_rows_and_short_ranks_repeat_their_first(random_reward: RewardModel, prepared: Preprocessor) -> None:
    branch = len(prepared.judge_ids("Yes.")) + len(prepared.critique_ids(""))
    items = [Judged(text_query(number, 300 + number, prepared, branch), "Yes.", "") for number in range(17)]
    passes: list[tuple[int, int]] = []
    step = OneStepBehind(more=2)
    by_depth = Depth(random_reward.model, random_reward.head)
    scores = score(by_depth, prepared, items, instruction="J", step=step, count=lambda *counts: passes.append(counts[:2]))
    # The longest come first, so the shortest of the 17 is in the second batch; the two passes for the others' sake count for nothing.
    assert passes == [(sum(range(301, 317)), 16 * 316), (300, 300)]
    assert step.counts == [2]
    assert scores == [299 + number for number in range(17)]


def test_passes_in_step_with_others_run_the_model_equally_often(
    random_reward: RewardModel, prepared: Preprocessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = [Judged(queries()[2], "Yes.", "Right.")]
    runs: list[int] = []
    handle = random_reward.head.register_forward_hook(lambda _module, _inputs, output: runs.append(len(output)))
    monkeypatch.setattr(random_reward, "training", True)
    try:
        scores = score(random_reward, prepared, items, instruction="J", step=OneStepBehind(more=3))
    finally:
        handle.remove()
    assert runs == [1, 1, 1, 1]
    assert scores == pytest.approx([by_itself(random_reward, prepared, items[0])], abs=1e-5)
    assert not random_reward.training, "a score has no dropout in it"


def test_no_items_have_no_scores(random_reward: RewardModel, prepared: Preprocessor) -> None:
    assert score(random_reward, prepared, [], instruction="J") == []


@pytest.mark.parametrize("blank", [False, True])
def test_score_of_a_blanked_image_is_that_of_grey_pixels(random_reward: RewardModel, prepared: Preprocessor, blank: bool) -> None:
    query = queries()[0]
    root = prepared.judge_root(query, "J", blank=blank)
    tokens = [*root.input_ids, *prepared.judge_ids("Yes."), *prepared.critique_ids("")]
    with torch.no_grad():
        hidden_LH = random_reward.model.model(input_ids=torch.tensor([tokens]), **pixels(root)).last_hidden_state[0]
        expected = random_reward.head(hidden_LH[-1:]).tolist()
    assert score(random_reward, prepared, [Judged(query, "Yes.", "")], instruction="J", blank=blank) == pytest.approx(expected, abs=1e-5)
    if blank:
        assert not pixels(root)["pixel_values"].std((-2, -1)).any(), "every channel is one value"


def test_instruction_is_part_of_what_is_scored(random_reward: RewardModel, prepared: Preprocessor, tiny_media: Path) -> None:
    assert prepared.media_root == tiny_media
    items = [Judged(queries()[0], "Yes.", "Right.")]
    assert score(random_reward, prepared, items, instruction="J") != score(random_reward, prepared, items, instruction="K")
