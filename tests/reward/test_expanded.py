"""`reward.critique_source: expanded`: the reward model learns expansions, and people's reasons where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.checkout import Checkout
from components.config.settings import Settings, load_settings
from components.errors import UserError
from components.preferences.expansions import write_expanded_table
from components.reward.task import RewardTask
from tests.tiny import queries, save_checkout

REVIEW = "It can be seen from here."


@pytest.fixture
def checkout(tmp_path: Path, tiny_base: Path, tiny_media: Path) -> Checkout:
    save_checkout(tmp_path, tiny_base, tiny_media, training={"ranks": 1, "row_tokens": 400}, reward={"critique_source": "expanded"})
    return Checkout(tmp_path)


def settings(checkout: Checkout) -> Settings:
    return load_settings(checkout.params)


def test_branches_hold_expansions_and_else_the_reasons(checkout: Checkout) -> None:
    write_expanded_table(checkout.expanded, {("q0", 1): REVIEW, ("q2", 0): REVIEW, ("gone", 0): "Not read."})
    task = RewardTask(settings(checkout), checkout)
    read = task.preprocessor
    micros = [micro for step in task.epoch_plan(1) for rank in step.micros for micro in rank]
    batch = [task.batch(micro)["batch"] for micro in micros]
    targets = [token for part in batch for token in part.target_T.tolist()]
    texts = {(query.id, index): response.critique or "" for query in queries() for index, response in enumerate(query.responses)}
    texts |= {("q0", 1): REVIEW, ("q2", 0): REVIEW}
    assert sum(counts.critiques for _, counts in micros[:1]) == len(texts), "all queries are one step"
    assert sorted(targets) == sorted(token for text in texts.values() for token in read.critique_ids(text))


def test_without_expansions_the_cure_is_named(checkout: Checkout) -> None:
    with pytest.raises(UserError, match="run `mmalign data expand`, then validate"):
        RewardTask(settings(checkout), checkout)
    write_expanded_table(checkout.expanded, {})
    with pytest.raises(UserError, match=r"artifacts/validate/expanded\.parquet holds no expansion"):
        RewardTask(settings(checkout), checkout)
