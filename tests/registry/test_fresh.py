"""The fresh part of the held-out queries at the gate: opened once all rules hold on the others, and counted apart."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.checkout import Checkout
from components.evaluation.results import POLICY_SCHEMA, REWARD_SCHEMA
from components.files import read_json, write_json
from components.registry.promotion import HandPromotion, judge_models, promote_by_hand
from components.registry.registry import Registry
from tests.registry.promoting import evaluated, judge, never, reward_model, train
from tests.registry.test_gate import policy_rows, reward_rows

__all__ = ["evaluated", "reward_model"]
CLOSED = b"nobody opens this"


@pytest.fixture
def divided(evaluated: Path) -> Path:
    """A checkout whose held-out queries have a fresh part, on which the base is right in half of its answers, and safe."""
    save(evaluated, "base.parquet", 0.5)
    pq.write_table(pa.Table.from_pylist(reward_rows(0.9), schema=REWARD_SCHEMA), Checkout(evaluated).fresh / "reward.parquet")
    return evaluated


def save(checkout: Path, name: str, talk: float) -> None:
    Checkout(checkout).fresh.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(policy_rows(talk=talk), schema=POLICY_SCHEMA), Checkout(checkout).fresh / name)


def train_divided(checkout: Path, seed: int, talk: float, on_fresh: float | None) -> None:
    """A policy with these shares of right answers; without the second one, its fresh part can't be read."""
    train(checkout, seed, talk=talk)
    path = Checkout(checkout).results / "context.json"
    write_json(path, {**read_json(path), "heldout": "all", "fresh": "the fresh part"})
    if on_fresh is None:
        (Checkout(checkout).fresh / "aligned.parquet").write_bytes(CLOSED)
    else:
        save(checkout, "aligned.parquet", on_fresh)


def looks_of_fresh(checkout: Path) -> int:
    """The number of looks at the fresh part, by the number that another digest would get."""
    return Registry(Checkout(checkout)).count_look("mm-policy", "the fresh part", "another digest") - 1


def test_refused_model_leaves_the_fresh_part_closed(divided: Path) -> None:
    train_divided(divided, 1, 0.5, None)
    outcome = judge(divided).models["mm-policy"]
    assert outcome.verdict == "refused"
    assert outcome.reasons[0].startswith("conversation: ")
    assert "reuse: fresh rows: not opened, since a rule failed on the other held-out rows" in outcome.reasons
    assert outcome.reuse is not None
    assert (outcome.reuse["look"], outcome.reuse["fresh"]) == (1, {"opened": False})
    assert looks_of_fresh(divided) == 0
    repeated = judge(divided).models["mm-policy"]
    assert (repeated.verdict, repeated.reuse) == ("nothing_new", outcome.reuse)


def test_model_that_holds_on_both_parts_is_promoted(divided: Path) -> None:
    train_divided(divided, 1, 0.5, None)
    judge(divided)
    train_divided(divided, 2, 0.7, 0.8)
    outcome = judge(divided).models["mm-policy"]
    assert outcome.verdict == "promoted"
    talks = [reason for reason in outcome.reasons if "conversation: " in reason]
    assert [reason.split(":")[0] for reason in talks] == ["conversation", "fresh conversation"]
    assert ["85.0 % against 75.0 % of the base" in talks[0], "90.0 % against 75.0 % of the base" in talks[1]] == [True, True]
    assert outcome.reuse is not None
    fresh = outcome.reuse["fresh"]
    assert (outcome.reuse["look"], fresh["opened"], fresh["look"], fresh["left"]) == (2, True, 1, pytest.approx(0.025))
    assert looks_of_fresh(divided) == 1, "the fresh part has looks of its own"
    assert any(reason.startswith("reuse: fresh rows: look 1 at these") for reason in outcome.reasons)
    assert {rule["rule"] for rule in outcome.rules or ()} >= {"unsafe", "fresh unsafe", "fresh degenerate"}
    assert "fresh reference_answer" not in {rule["rule"] for rule in outcome.rules or ()}, "what is off is off once"


def test_model_that_fails_on_fresh_rows_is_refused(divided: Path) -> None:
    train_divided(divided, 1, 0.7, 0.5)
    outcome = judge(divided).models["mm-policy"]
    assert outcome.verdict == "refused"
    assert outcome.reasons[0].startswith("fresh conversation: right answers")
    assert looks_of_fresh(divided) == 1


def test_champion_is_compared_on_its_own_fresh_results(divided: Path) -> None:
    train_divided(divided, 1, 0.7, 0.7)
    judge(divided)
    train_divided(divided, 2, 0.8, 0.65)
    outcome = judge(divided).models["mm-policy"]
    assert outcome.verdict == "refused"
    assert "of champion 1" in outcome.reasons[0]


@pytest.mark.slow
def test_version_promoted_by_hand_is_judged_on_both_parts(divided: Path) -> None:
    train_divided(divided, 1, 0.7, 0.65)
    judge(divided)
    train_divided(divided, 2, 0.8, 0.6)
    judge(divided)
    refused = promote_by_hand(Checkout(divided), "mm-policy", 2, never, print, HandPromotion("somebody"))
    assert (refused.verdict, refused.reasons[0].partition(":")[0]) == ("refused", "fresh conversation")
    assert looks_of_fresh(divided) == 2, "both digests had their look"


@pytest.mark.slow
def test_lost_fresh_table_is_made_by_an_evaluation(divided: Path) -> None:
    train_divided(divided, 1, 0.7, 0.7)
    judge(divided)
    for file in (divided / "mlruns").rglob("*-fresh.parquet"):
        file.unlink()
    train_divided(divided, 2, 0.8, 0.8)
    evaluated_again = []

    def reevaluate(name: str, _folder: Path, table: Path) -> None:
        evaluated_again.append(name)
        for path in (table, table.parent.parent / "fresh" / table.name):
            path.parent.mkdir(parents=True, exist_ok=True)
            rows, schema = (policy_rows(talk=0.7), POLICY_SCHEMA) if name == "mm-policy" else (reward_rows(0.9), REWARD_SCHEMA)
            pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)

    outcome = judge_models(Checkout(divided), reevaluate, print).models["mm-policy"]
    assert (outcome.verdict, evaluated_again) == ("promoted", ["mm-policy"])
