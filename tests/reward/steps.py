"""A training task of the tiny model, its steps, and what they are by separate forward passes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import logsigmoid

from components.checkout import Checkout
from components.config.settings import Settings, load_settings
from components.engine.task import EpochContext
from components.families.processing import Preprocessor
from components.preferences.record import Query, write_queries
from components.reward.task import RewardTask
from tests.tiny import pixels, preprocessor, queries, save_checkout

LETTERS = 94  # the tiny tokenizer's first tokens are the printable characters of ASCII
SEED = 3
INSTRUCTION = "Judge."


def training_queries() -> list[Query]:
    """The tiny queries, of which the first has a response without a critique and the third has none at all."""
    rows = queries()
    first, third = rows[0], rows[2]
    rows[0] = replace(first, responses=(first.responses[0], replace(first.responses[1], critique=None), *first.responses[2:]))
    rows[2] = replace(third, responses=tuple(replace(response, critique=None) for response in third.responses))
    return rows


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, tiny_media: Path) -> Path:
    root = tmp_path_factory.mktemp("checkout")
    save_checkout(
        root,
        tiny_base,
        tiny_media,
        training={"ranks": 1, "row_tokens": 400, "batch_rows": 1, "seed": SEED},
        reward={"queries_per_step": 5, "instruction": INSTRUCTION, "tie_weight": 0.3, "critique_weight": 0.7, "own_share": 0.4},
        critique={"max_new_tokens": 5, "batch_size": 7},
    )
    write_queries(root / "artifacts/validate/train/queries.parquet", training_queries())
    return root


def settings_of(root: Path, training: dict[str, Any] | None = None, **changes: Any) -> Settings:
    settings = load_settings(root / "params.yaml")
    sections = {"reward": settings.reward.model_copy(update=changes), "training": settings.training.model_copy(update=training or {})}
    return settings.model_copy(update=sections)


def made(root: Path, training: dict[str, Any] | None = None, **changes: Any) -> RewardTask:
    """A task whose model writes mostly letters: a tied head says its last token without end."""
    task = RewardTask(settings_of(root, training, **changes), Checkout(root))
    head = task.model.model.lm_head
    weight_VH = torch.randn(head.weight.shape, generator=torch.Generator().manual_seed(1))
    weight_VH[LETTERS:] *= 0.85
    head.weight = torch.nn.Parameter(weight_VH)
    return task


@pytest.fixture(scope="module")
def mixed(checkout: Path) -> RewardTask:
    return made(checkout)


@pytest.fixture(scope="module")
def annotated(checkout: Path) -> RewardTask:
    return made(checkout, critique_source="annotated")


@pytest.fixture(scope="module")
def live(tiny_base: Path, tiny_media: Path) -> Preprocessor:
    """A preprocessor whose media run through the tower at every pass."""
    return preprocessor(tiny_base, tiny_media)


class OneProcess(EpochContext):
    """The context of a rank whose barriers call `meet` with their number."""

    meet: Callable[[int], None] = staticmethod(lambda _number: None)
    barriers = 0

    def barrier(self) -> None:
        self.barriers += 1
        self.meet(self.barriers)


def begun(task: RewardTask, epoch: int, scratch: Path) -> RewardTask:
    task.begin_epoch(epoch, OneProcess(0, 1, scratch))
    return task


def step_sums(task: RewardTask, epoch: int) -> dict[str, float]:
    """Loss and metrics of the epoch's only step, added up over its micro-batches as the engine does."""
    (step,) = task.epoch_plan(epoch)
    sums: dict[str, float] = {}
    with torch.no_grad():
        for micro in step.micros[0]:
            batch = task.batch(micro)
            loss, metrics = task.loss(task.model(**batch), batch)
            for name, value in {"loss": loss, **metrics}.items():
                sums[name] = sums.get(name, 0.0) + value.item()
    return sums


READ: dict[tuple[str, str, str], tuple[float, float]] = {}  # all tasks here have the same weights


def read(task: RewardTask, live: Preprocessor, query: Query, response: str, critique: str) -> tuple[float, float]:
    """The score of a response with its critique, and the critique's mean token cross-entropy, from a pass over these tokens."""
    key = query.id, response, critique
    if key not in READ:
        READ[key] = read_by_itself(task, live, query, response, critique)
    return READ[key]


def read_by_itself(task: RewardTask, live: Preprocessor, query: Query, response: str, critique: str) -> tuple[float, float]:
    root = live.judge_root(query, INSTRUCTION)
    after = live.critique_ids(critique)
    tokens = [*root.input_ids, *live.judge_ids(response), *after]
    with torch.no_grad():
        hidden_LH = task.model.model.model(input_ids=torch.tensor([tokens]), **pixels(root)).last_hidden_state[0]
        log_p_LV = task.model.model.lm_head(hidden_LH[-1 - len(after) : -1]).log_softmax(1)
        entropy = -sum(log_p_LV[position, token].item() for position, token in enumerate(after)) / len(after)
        return task.model.head(hidden_LH[-1:]).item(), entropy


def by_hand(task: RewardTask, live: Preprocessor, own: dict[str, list[str]]) -> dict[str, float]:
    """What a step over all queries must come to, where the queries in `own` are scored on those critiques and learn none."""
    pairs, ties, entropies, right, margins = [], [], [], [], []
    for query in training_queries():
        texts = own.get(query.id, [r.critique or "" for r in query.responses])
        results = [read(task, live, query, r.text, text) for r, text in zip(query.responses, texts, strict=True)]
        scores = [score for score, _ in results]
        for winner, loser in query.pairs():
            margins.append(scores[winner] - scores[loser])
            pairs.append(-logsigmoid(torch.tensor(margins[-1])).item())
            right.append(margins[-1] > 0)
        ties += [(scores[a] - scores[b]) ** 2 for a, b in query.ties()]
        if query.id not in own:
            entropies += [entropy for response, (_, entropy) in zip(query.responses, results, strict=True) if response.critique]
    assert (len(pairs), len(ties)) == (17, 2)
    terms = {
        "loss/pair": sum(pairs) / 17,
        "loss/tie": sum(ties) / 2,
        "loss/critique": sum(entropies) / len(entropies) if entropies else 0.0,
        "accuracy": sum(right) / 17,
        "margin": sum(margins) / 17,
    }
    return {"loss": terms["loss/pair"] + 0.3 * terms["loss/tie"] + 0.7 * terms["loss/critique"], **terms}
