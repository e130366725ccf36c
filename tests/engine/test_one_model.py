"""Models opened one at a time, the weights in a token's way, fp32 scores, and log-probs against one forward pass a response."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from components.alignment.log_probs import LogProbTask
from components.config.settings import Settings
from components.engine import models
from components.engine.inference_task import Work
from components.engine.models import OneModel, open_policy
from components.engine.partitions import size
from components.engine.ranks import Ranks
from components.families.loading import load_model
from components.families.processing import Preprocessor
from components.preferences.record import Query
from components.reward import model as reward_model
from components.reward.model import RewardModel, new_reward_model, open_reward_model
from components.trees import scoring
from components.trees.scoring import SCORING_ROWS, plan_scoring, policy_tree
from components.trees.trees import tree_pairs
from tests.tiny import pixels, preprocessor, queries, save_checkout

RANK = Ranks()


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, tiny_media: Path) -> tuple[Path, Settings]:
    root = tmp_path_factory.mktemp("models")
    settings = save_checkout(root, tiny_base, tiny_media, training={"row_tokens": 300})
    new_reward_model(load_model(tiny_base), 0).save(root / "reward", tiny_base)
    return root, settings


@pytest.fixture(scope="module")
def reader(tiny_base: Path, tiny_media: Path) -> Preprocessor:
    return preprocessor(tiny_base, tiny_media)


def with_precision(settings: Settings, precision: str) -> Settings:
    return settings.model_copy(update={"training": settings.training.model_copy(update={"precision": precision})})


class Loads:
    """Notes what is loaded, and how many models are alive at that moment."""

    def __init__(self, holder: OneModel, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[Any, ...]] = []
        load, load_reward = models.load_model, reward_model.load_reward_model

        def watched(folder: Path, *, attention: str, dtype: torch.dtype) -> Any:
            self.calls.append(("policy", folder, attention, dtype, holder._opened is None))
            return load(folder, attention=attention, dtype=dtype)

        def watched_reward(folder: Path, attention: str) -> RewardModel:
            self.calls.append(("reward", folder, attention, holder._opened is None))
            return load_reward(folder, attention)

        monkeypatch.setattr(models, "load_model", watched)
        monkeypatch.setattr(reward_model, "load_reward_model", watched_reward)


def test_one_model_is_open_at_a_time(checkout: tuple[Path, Settings], monkeypatch: pytest.MonkeyPatch) -> None:
    root, settings = checkout
    one = OneModel(settings)
    loads = Loads(one, monkeypatch)
    base = root / "data/base"
    first = one.open(base, RANK, open_policy)
    assert one.open(base, RANK, open_policy) is first
    reward = one.open(root / "reward", RANK, open_reward_model)
    assert one.open(root / "reward", RANK, open_reward_model) is reward
    assert one.open(base, RANK, open_policy) is not first
    assert isinstance(reward, RewardModel)
    # Before each opening the one before has been let go.
    assert loads.calls == [
        ("policy", base, "sdpa", torch.float32, True),
        ("reward", root / "reward", "sdpa", True),
        ("policy", base, "sdpa", torch.float32, True),
    ]


def test_a_reward_model_at_another_path_replaces_the_first(checkout: tuple[Path, Settings], tmp_path: Path) -> None:
    root, settings = checkout
    (tmp_path / "other").symlink_to(root / "reward")
    one = OneModel(settings)
    first = one.open(root / "reward", RANK, open_reward_model)
    second = one.open(tmp_path / "other", RANK, open_reward_model)
    assert second is not first
    assert one.open(tmp_path / "other", RANK, open_reward_model) is second


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_models_run_in_the_dtype_of_training_and_scores_in_fp32(
    checkout: tuple[Path, Settings], precision: str, dtype: torch.dtype
) -> None:
    root, settings = checkout
    one = OneModel(with_precision(settings, precision))
    assert {parameter.dtype for parameter in one.open(root / "data/base", RANK, open_policy).parameters()} == {dtype}
    reward = one.open(root / "reward", RANK, open_reward_model)
    assert {parameter.dtype for parameter in reward.model.parameters()} == {dtype}
    assert {parameter.dtype for parameter in reward.head.parameters()} == {torch.float32}
    hidden_KH = torch.randn(3, 32, generator=torch.Generator().manual_seed(0)).to(dtype)
    with torch.no_grad():
        scores_K = reward.head(hidden_KH)
        dense, out = reward.head.dense, reward.head.out
        inner_KH = hidden_KH.double() @ dense.weight.double().T + dense.bias.double()
        expected_K = ((inner_KH * inner_KH.sigmoid()) @ out.weight.double().T + out.bias.double())[:, 0]
    assert scores_K.dtype == torch.float32
    torch.testing.assert_close(scores_K.double(), expected_K, rtol=1e-5, atol=1e-6)


def test_the_attention_of_the_settings_is_used(checkout: tuple[Path, Settings], monkeypatch: pytest.MonkeyPatch) -> None:
    root, settings = checkout
    flex = settings.model_copy(update={"model": settings.model.model_copy(update={"attention": "flex_attention"})})
    one = OneModel(flex)
    loads = Loads(one, monkeypatch)
    one.open(root / "data/base", RANK, open_policy)
    one.open(root / "reward", RANK, open_reward_model)
    assert [call[2] for call in loads.calls] == ["flex_attention"] * 2


class Recorded:
    """A rank that notes how models are opened and put onto its device."""

    def __init__(self, *, lockstep: bool) -> None:
        self.lockstep = lockstep
        self.device = torch.device("cpu")
        self.opened: list[torch.dtype] = []
        self.inside = False
        self.placed: list[Any] = []

    @contextmanager
    def opening(self, dtype: torch.dtype) -> Iterator[None]:
        self.opened.append(dtype)
        self.inside = True
        yield
        self.inside = False

    def move(self, model: Any) -> Any:
        assert not self.inside
        self.placed.append((model, model.dtype))
        return model


def test_a_rank_opens_and_places_each_model(checkout: tuple[Path, Settings], monkeypatch: pytest.MonkeyPatch) -> None:
    root, settings = checkout
    one, rank = OneModel(with_precision(settings, "bf16")), Recorded(lockstep=False)
    inside: list[bool] = []
    for owner, name in ((models, "load_model"), (reward_model, "load_reward_model")):
        load = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *a, load=load, **o: inside.append(rank.inside) or load(*a, **o))
    policy = one.open(root / "data/base", rank, open_policy)  # type: ignore[arg-type]
    reward = one.open(root / "reward", rank, open_reward_model)  # type: ignore[arg-type]
    assert inside == [True, True]
    assert rank.opened == [torch.bfloat16] * 2
    assert [(placed is model, dtype) for (placed, dtype), model in zip(rank.placed, (policy, reward.model), strict=True)] == [
        (True, torch.bfloat16)
    ] * 2


def test_ranks_in_step_leave_the_dtype_to_the_partition(checkout: tuple[Path, Settings]) -> None:
    # ZeRO-3 opens the weights in their dtype; a cast would break its pieces.
    root, settings = checkout
    rank = Recorded(lockstep=True)
    reward = OneModel(with_precision(settings, "bf16")).open(root / "reward", rank, open_reward_model)  # type: ignore[arg-type]
    assert {parameter.dtype for parameter in reward.model.parameters()} == {torch.float32}


def test_a_partitioned_weight_counts_all_of_its_elements() -> None:
    parameter = nn.Parameter(torch.zeros(0))
    assert size(parameter) == 0
    parameter.ds_id, parameter.ds_numel = 0, 12  # type: ignore[attr-defined]
    assert size(parameter) == 12


# log-probs


class Opened:
    """A model that is open already."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.requests: list[tuple[Path, Ranks]] = []

    def open(self, folder: Path, ranks: Ranks, opener: Any) -> Any:
        assert opener is open_policy
        self.requests.append((folder, ranks))
        return self.model

    def operations(self, work: Work) -> float:
        return 100.0 * work.tokens


@pytest.fixture(scope="module")
def opened(tiny_base: Path) -> Opened:
    return Opened(load_model(tiny_base))


class Memory:
    """A store in memory."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values

    def find(self, keys: list[str]) -> dict[str, Any]:
        return {key: self.values[key] for key in keys if key in self.values}

    def store(self, values: dict[str, Any]) -> None:
        self.values |= values


def task_of(checkout: tuple[Path, Settings], reader: Preprocessor, opened: Opened, **values: Any) -> LogProbTask:
    return LogProbTask(
        label="log-probs",
        unit="query",
        keys=[query.id for query in queries()],
        store=Memory(values),  # type: ignore[arg-type]
        queries=queries(),
        preprocessor=reader,
        models=opened,  # type: ignore[arg-type]
        folder=Path("model"),
        settings=checkout[1],
    )


@torch.no_grad()
def log_prob(model: Any, reader: Preprocessor, query: Query, text: str) -> tuple[float, int]:
    """One response in a sequence of its own: the log-softmax of full logits at each of its tokens and its end, summed in fp64."""
    root, answer = reader.policy_root(query), reader.response_ids(text)
    assert answer[-1] == reader.end_id
    logits = model(input_ids=torch.tensor([[*root.input_ids, *answer]]), **pixels(root)).logits[0].double()
    start = len(root.input_ids)
    rows = [logits[start + position - 1].log_softmax(-1)[token] for position, token in enumerate(answer)]
    return float(torch.stack(rows).sum()), len(answer)


def test_log_probs_are_those_of_each_response_by_itself(checkout: tuple[Path, Settings], reader: Preprocessor, opened: Opened) -> None:
    task = task_of(checkout, reader, opened)
    chosen = [4, 0, 2]
    values = task.compute(chosen, RANK)
    for item, row in zip(chosen, values, strict=True):
        query = queries()[item]
        expected = [log_prob(opened.model, reader, query, response.text) for response in query.responses]
        assert [tokens for _, tokens in row] == [tokens for _, tokens in expected]
        assert [value for value, _ in row] == pytest.approx([value for value, _ in expected], abs=1e-3)
    assert opened.requests[-1] == (Path("model"), RANK)
    trees = [policy_tree(reader, queries()[item]) for item in chosen]
    assert task.work.tokens == sum(tree.tokens for tree in trees)
    assert task.work.slots >= task.work.tokens


def test_log_prob_batches_are_packed_rows(
    checkout: tuple[Path, Settings], reader: Preprocessor, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = task_of(checkout, reader, opened)
    trees = [policy_tree(reader, query) for query in queries()]
    lengths = [
        len(reader.policy_root(query).input_ids) + sum(len(reader.response_ids(r.text)) for r in query.responses) for query in queries()
    ]
    assert [tree.tokens for tree in trees] == lengths
    assert SCORING_ROWS == 16
    assert sorted(item for batch in task.plan() for item in batch) == list(range(5))
    monkeypatch.setattr(scoring, "SCORING_ROWS", 1)
    batches = task.plan()
    assert batches == plan_scoring(lengths, 300)
    assert max(lengths) < 300 < sum(lengths)
    assert all(sum(lengths[item] for item in batch) <= 300 for batch in batches)
    sums = [sum(lengths[item] for item in batch) for batch in batches]
    assert sums == sorted(sums, reverse=True)
    assert plan_scoring(lengths, 1) == [[item] for item in sorted(range(5), key=lambda item: -lengths[item])]


def test_log_probs_come_back_query_by_query(checkout: tuple[Path, Settings], reader: Preprocessor, opened: Opened) -> None:
    values: dict[str, Any] = {f"q{number}": [[-number, 3.0], [-0.5, 1]] for number in range(5)}
    task = task_of(checkout, reader, opened, **values)
    assert task.log_probs() == [[(float(-number), 3), (-0.5, 1)] for number in range(5)]
    assert all(isinstance(value, float) and isinstance(tokens, int) for row in task.log_probs() for value, tokens in row)
    assert task.size(0) == 1


def test_log_probs_count_head_and_attention(checkout: tuple[Path, Settings], reader: Preprocessor, opened: Opened) -> None:
    task = task_of(checkout, reader, opened)
    task.compute([0, 1], Ranks())
    trees = [policy_tree(reader, task.queries[item]) for item in (0, 1)]
    assert task.work.targets == sum(len(branch.input_ids) for tree in trees for branch in tree.branches)
    assert task.work.pairs == sum(tree_pairs(len(tree.root.input_ids), [len(b.input_ids) for b in tree.branches]) for tree in trees)
    assert task.operations() == 100 * task.work.tokens
