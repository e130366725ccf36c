"""From results to champions in a real registry."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.checkout import Checkout
from components.errors import UserError
from components.evaluation.results import POLICY_SCHEMA, REWARD_SCHEMA
from components.files import read_json, write_json
from components.registry import aliases
from components.registry.promotion import HandPromotion, promote_by_hand, recorded_verdicts
from components.registry.registry import Registry
from tests.registry.promoting import evaluate, evaluated, judge, never, numbers, reward_model, train
from tests.registry.test_gate import policy_rows, reward_rows

__all__ = ["evaluated", "reward_model"]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("none", "the reward model was trained without critiques: it scores a response alone"),
        ("mixed", "the reward model was trained on critiques (mixed)"),
    ],
)
def test_verdict_says_what_the_reward_model_was_trained_on(evaluated: Path, source: str, words: str) -> None:
    train(evaluated, 1, talk=0.7)
    write_json(evaluated / "artifacts/reward/run.json", {"mlflow_run_id": None, "digests": {"critique_source": source}})
    models = judge(evaluated).models
    assert models["mm-reward"].verdict == "promoted", "the rules judge alike"
    assert [reason for reason in models["mm-reward"].reasons if "was trained" in reason] == [words]
    assert not any("critiques" in reason for reason in models["mm-policy"].reasons)


def test_champions_change_from_run_to_rollback(evaluated: Path) -> None:
    # Nothing has a verdict yet, as after a run that was killed before the gate: both are judged. Better than the base: champion.
    train(evaluated, 1, talk=0.7)
    assert recorded_verdicts(Checkout(evaluated)) is None
    first = judge(evaluated)
    assert {name: outcome.verdict for name, outcome in first.models.items()} == {"mm-reward": "promoted", "mm-policy": "promoted"}
    assert first.promoted
    assert numbers(evaluated) == (1, None, None)
    assert first.summary()["registry"]["mm-policy"]["aliases"] == ["champion", "safest_champion"]
    version = Registry(Checkout(evaluated)).version("mm-policy", 1)
    assert version.whole
    assert json.loads(version.tags["mmalign.reasons"])[0] == first.models["mm-policy"].reasons[0]

    # The same again: nothing new, and known without judging.
    recorded = recorded_verdicts(Checkout(evaluated))
    assert recorded is not None
    assert {outcome.verdict for outcome in recorded.models.values()} == {"nothing_new"}

    # Worse: refused, registered by reference, the champion stays. Not judged twice.
    train(evaluated, 2, talk=0.6)
    second = judge(evaluated)
    assert second.models["mm-policy"].verdict == "refused"
    assert "against 85.0 % of champion 1" in second.models["mm-policy"].reasons[0]
    assert second.models["mm-policy"].champion is not None
    assert second.models["mm-policy"].champion["version"] == 1
    assert numbers(evaluated) == (1, None, 2)
    assert not Registry(Checkout(evaluated)).version("mm-policy", 2).whole
    assert judge(evaluated).models["mm-policy"].verdict == "nothing_new"

    # By hand: through the same gate, and past it only with a reason.
    def by_hand(*, because: str | None, override: bool) -> Any:
        return promote_by_hand(Checkout(evaluated), "mm-policy", 2, never, print, HandPromotion("ann", because, override))

    assert by_hand(because=None, override=False).verdict == "refused"
    with pytest.raises(UserError, match="needs a reason"):
        by_hand(because=" ", override=True)
    assert numbers(evaluated)[0] == 1
    forced = by_hand(because="the customer asked", override=True)
    assert forced.version.whole
    assert "promoted against the gate by ann: the customer asked" in forced.reasons[0]
    assert numbers(evaluated) == (3, 1, None)

    # Rolled back: the predecessor is champion, and no run promotes what was rolled back again.
    registry = Registry(Checkout(evaluated))
    aliases.rollback(registry, "mm-policy", by="ann", because="complaints")
    assert numbers(evaluated)[:2] == (1, None)
    after = judge(evaluated)
    assert after.models["mm-policy"].verdict == "nothing_new"
    assert "was rolled back (ann: complaints)" in after.models["mm-policy"].reasons[0]
    assert numbers(evaluated)[0] == 1


def test_champion_is_reevaluated_once_on_new_queries(evaluated: Path) -> None:
    train(evaluated, 1, talk=0.7)
    judge(evaluated)
    evaluate(evaluated, "other queries")
    train(evaluated, 2, talk=0.8)
    reevaluated: list[str] = []

    def reevaluate(name: Any, folder: Path, table: Path) -> None:
        reevaluated.append(name)
        assert (folder / "config.json").is_file()
        schema, rows = (REWARD_SCHEMA, reward_rows(0.9)) if name == "mm-reward" else (POLICY_SCHEMA, policy_rows(talk=0.9))
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), table)

    outcome = judge(evaluated, reevaluate)
    assert reevaluated == ["mm-policy"]  # this checkout's reward model is the champion
    assert outcome.models["mm-policy"].verdict == "refused"
    assert "against 95.0 % of champion 1" in outcome.models["mm-policy"].reasons[0]
    judged = "champion 1 was judged under other rules, judges, error sheets or data, so it was judged again first: it passes"
    assert judged in outcome.models["mm-policy"].reasons
    (first, *_) = outcome.summary()["gate"]["mm-policy"]["rules"]
    assert (first["rule"], first["outcome"], first["raw"]["value"]) == ("conversation", "failed", pytest.approx(-0.05))
    train(evaluated, 3, talk=0.99)
    assert judge(evaluated, reevaluate).models["mm-policy"].verdict == "promoted"
    assert reevaluated == ["mm-policy"]


def test_failed_reevaluation_leaves_no_verdict(evaluated: Path) -> None:
    train(evaluated, 1, talk=0.7)
    judge(evaluated)
    evaluate(evaluated, "other queries")
    train(evaluated, 2, talk=0.8)

    def fail(name: str, *_: Path) -> None:
        raise UserError(f"no memory left for {name}")

    outcome = judge(evaluated, fail)
    assert outcome.models["mm-policy"].verdict == "refused"
    assert outcome.models["mm-policy"].version is None
    assert recorded_verdicts(Checkout(evaluated)) is None  # the next run judges


def test_safest_champion_bounds_later_policies(evaluated: Path) -> None:
    train(evaluated, 1, talk=0.6, unsafe=0.0)
    assert judge(evaluated).promoted
    train(evaluated, 2, talk=0.75, unsafe=0.005)
    assert judge(evaluated).promoted
    assert numbers(evaluated)[0] == 2
    train(evaluated, 3, talk=0.9, unsafe=0.025)
    refused = judge(evaluated).models["mm-policy"]
    assert refused.verdict == "refused"
    assert any("safest champion so far (1)" in reason for reason in refused.reasons)


def test_model_that_was_not_evaluated_is_never_registered(evaluated: Path) -> None:
    train(evaluated, 1, talk=0.7)
    weights = evaluated / "artifacts/align/model/model.safetensors"
    sound = weights.read_bytes()
    weights.write_bytes(sound[:-4096] + bytes(4096))
    outcome = judge(evaluated).models["mm-policy"]
    assert outcome.verdict == "refused"
    assert outcome.reasons[0].startswith("artifacts/align/model is not the model that was evaluated: its digest is")
    assert Registry(Checkout(evaluated)).versions("mm-policy") == []
    assert recorded_verdicts(Checkout(evaluated)) is None
    weights.write_bytes(sound)
    assert judge(evaluated).models["mm-policy"].verdict == "promoted"


def test_evaluation_that_names_no_models_registers_none(evaluated: Path) -> None:
    train(evaluated, 1, talk=0.7)
    write_json(Checkout(evaluated).results / "context.json", {"context": "these queries"})
    outcome = judge(evaluated)
    assert {name: one.verdict for name, one in outcome.models.items()} == {"mm-reward": "refused", "mm-policy": "refused"}
    assert "the evaluation names none" in outcome.models["mm-reward"].reasons[0]


def test_each_new_digest_is_one_look_and_a_repeat_none(evaluated: Path) -> None:
    for number, seed in enumerate((1, 2), start=1):
        train(evaluated, seed, talk=0.5 + 0.2 * number)
        reuse = judge(evaluated).models["mm-policy"].reuse
        assert reuse is not None
        assert (reuse["look"], reuse["left"]) == (number, pytest.approx(0.05 / (number + 1)))
    repeat = judge(evaluated).models["mm-policy"]
    assert (repeat.verdict, repeat.reuse and repeat.reuse["look"]) == ("nothing_new", 2)
    registry = Registry(Checkout(evaluated))
    heldout = read_json(Checkout(evaluated).results / "context.json")["context"]
    assert registry.count_look("mm-policy", heldout, "another digest") == 3
    assert registry.count_look("mm-policy", "other queries", "another digest") == 1
