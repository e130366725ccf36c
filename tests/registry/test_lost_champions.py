"""Champions whose version, alias, name or files are gone: the bar stays as high as what is left allows."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.checkout import Checkout
from components.evaluation.results import POLICY_SCHEMA
from components.registry import aliases
from components.registry.promotion import HandPromotion, promote_by_hand, recorded_verdicts
from components.registry.registry import Registry
from components.registry.store import open_store
from components.registry.versions import CHAMPION
from tests.registry.promoting import evaluate, evaluated, judge, never, reward_model, train
from tests.registry.test_gate import policy_rows

__all__ = ["evaluated", "reward_model"]


def delete_version(checkout: Path, number: int) -> None:
    """As somebody does on MLflow's page."""
    with open_store(Checkout(checkout)) as (client, _):
        client.delete_model_version("mm-policy", str(number))


def drop_champion(checkout: Path) -> None:
    with open_store(Checkout(checkout)) as (client, _):
        client.delete_registered_model_alias("mm-policy", CHAMPION)


def move_champion(checkout: Path, number: int) -> None:
    with open_store(Checkout(checkout)) as (client, _):
        client.set_registered_model_alias("mm-policy", CHAMPION, str(number))


def test_deleted_champion_is_replaced_by_the_previous_one(evaluated: Path) -> None:
    train(evaluated, 1, talk=0.8)
    assert judge(evaluated).promoted
    train(evaluated, 2, talk=0.9)
    assert judge(evaluated).promoted
    delete_version(evaluated, 2)
    train(evaluated, 3, talk=0.7)  # better than the base, worse than version 1
    outcome = judge(evaluated).models["mm-policy"]
    assert outcome.verdict == "refused"
    assert "of earlier champion 1" in outcome.reasons[0]
    assert "version 2, the champion of mm-policy, was deleted: the challenger is compared with version 1 instead" in outcome.reasons
    train(evaluated, 4, talk=0.95)
    assert judge(evaluated).promoted


def test_safest_champion_stays_where_the_champion_is_deleted(evaluated: Path) -> None:
    train(evaluated, 1, talk=0.6, unsafe=0.0)
    assert judge(evaluated).promoted
    train(evaluated, 2, talk=0.75, unsafe=0.005)
    assert judge(evaluated).promoted
    delete_version(evaluated, 2)
    train(evaluated, 3, talk=0.9, unsafe=0.005)
    assert judge(evaluated).promoted
    safest = Registry(Checkout(evaluated)).at("mm-policy", aliases.SAFEST)
    assert safest is not None
    assert safest.number == 1


def test_sole_champion_that_is_deleted_is_not_promoted_again(evaluated: Path) -> None:
    train(evaluated, 1, talk=0.8)
    assert judge(evaluated).promoted
    delete_version(evaluated, 1)
    outcome = judge(evaluated).models["mm-policy"]
    assert outcome.verdict == "refused"
    assert outcome.reasons[0].startswith("version 1, the champion of mm-policy, was deleted: name another with `mmalign promote mm-policy")
    assert outcome.version is not None
    request = HandPromotion("a person", because="it is the deleted one", override=True)
    promoted = promote_by_hand(Checkout(evaluated), "mm-policy", outcome.version.number, never, print, request)
    assert promoted.verdict == "promoted"
    train(evaluated, 2, talk=0.9)
    assert "of champion" in judge(evaluated).models["mm-policy"].reasons[0]


@pytest.mark.parametrize("change", ["rename", "delete"])
def test_model_that_is_renamed_or_deleted_lowers_no_bar(evaluated: Path, change: str) -> None:
    train(evaluated, 1, talk=0.8)
    assert judge(evaluated).promoted
    with open_store(Checkout(evaluated)) as (client, _):
        if change == "rename":
            client.rename_registered_model("mm-policy", "mm-policy-old")
        else:
            client.delete_registered_model("mm-policy")
    for seed in (2, 3):  # the refused one is version 1 of the new registered model, and no champion either
        train(evaluated, seed, talk=0.7)  # better than the base, worse than the champion
        outcome = judge(evaluated).models["mm-policy"]
        assert outcome.verdict == "refused"
        assert outcome.reasons[0].startswith("the registered model mm-policy, whose version 1 is the champion, was deleted or renamed: ")
    if change == "rename":
        with open_store(Checkout(evaluated)) as (client, _):
            client.delete_registered_model("mm-policy")
            client.rename_registered_model("mm-policy-old", "mm-policy")
        train(evaluated, 4, talk=0.7)
        assert "of champion" in judge(evaluated).models["mm-policy"].reasons[0]


def test_champion_without_its_alias_is_still_compared_with(evaluated: Path) -> None:
    train(evaluated, 1, talk=0.8)
    assert judge(evaluated).promoted
    drop_champion(evaluated)
    train(evaluated, 2, talk=0.7)
    outcome = judge(evaluated).models["mm-policy"]
    assert outcome.verdict == "refused"
    assert "of earlier champion 1" in outcome.reasons[0]
    assert any(reason.startswith("version 1 of mm-policy lost its alias champion") for reason in outcome.reasons)


def test_alias_on_a_refused_version_lowers_no_bar(evaluated: Path) -> None:
    train(evaluated, 1, talk=0.8)
    assert judge(evaluated).promoted
    train(evaluated, 2, talk=0.55)
    assert judge(evaluated).models["mm-policy"].verdict == "refused"
    move_champion(evaluated, 2)
    train(evaluated, 3, talk=0.7)  # better than the version with the alias, worse than the champion
    outcome = judge(evaluated).models["mm-policy"]
    assert outcome.verdict == "refused"
    assert "of earlier champion 1" in outcome.reasons[0]
    assert any("was moved by hand from version 1 to 2" in reason for reason in outcome.reasons)


def test_alias_on_an_unloadable_version_is_reported(evaluated: Path) -> None:
    train(evaluated, 1, talk=0.8)
    assert judge(evaluated).promoted
    train(evaluated, 2, talk=0.55)
    judge(evaluated)
    move_champion(evaluated, 2)
    evaluate(evaluated, "other queries")  # so that both are evaluated again, which version 2, without its weights, can't be
    train(evaluated, 3, talk=0.9)

    def reevaluate(_name: Any, _folder: Path, table: Path) -> None:
        pq.write_table(pa.Table.from_pylist(policy_rows(talk=0.8), schema=POLICY_SCHEMA), table)

    outcome = judge(evaluated, reevaluate).models["mm-policy"]
    assert outcome.verdict == "promoted"
    assert "of earlier champion 1" in outcome.reasons[0]
    assert any("the weights of mm-policy/2" in reason for reason in outcome.reasons)


def test_rolled_back_version_is_no_reference(evaluated: Path) -> None:
    train(evaluated, 1, talk=0.7)
    assert judge(evaluated).promoted
    train(evaluated, 2, talk=0.9)
    assert judge(evaluated).promoted
    registry = Registry(Checkout(evaluated))
    aliases.rollback(registry, "mm-policy", by="a person", because="it was slow")
    assert registry.last_champion("mm-policy") == 1
    train(evaluated, 3, talk=0.8)
    outcome = judge(evaluated).models["mm-policy"]
    assert outcome.verdict == "promoted"
    assert not any("by hand" in reason for reason in outcome.reasons)


def test_lost_champion_files_are_reported_and_verdicts_stay(evaluated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(evaluated, 1, talk=0.7)
    judge(evaluated)
    shutil.rmtree(evaluated / "mlruns/models")

    assert recorded_verdicts(Checkout(evaluated)) is None, "the run goes to the gate, which puts files back"
    outcome = judge(evaluated)

    assert {one.verdict for one in outcome.models.values()} == {"nothing_new"}
    assert capsys.readouterr().out.count("were gone from the registry: put back") == 2
    assert recorded_verdicts(Checkout(evaluated)) is not None


def test_champion_files_lost_for_good_are_named(evaluated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(evaluated, 1, talk=0.7)
    judge(evaluated)
    shutil.rmtree(evaluated / "mlruns/models")
    train(evaluated, 2, talk=0.8)

    outcome = judge(evaluated)

    assert (
        "the files of mm-policy/1 (champion, safest_champion) are gone from the registry and can't be put back" in capsys.readouterr().out
    )
    assert outcome.models["mm-policy"].verdict == "refused"
    assert "the champion can't be evaluated" in outcome.models["mm-policy"].reasons[0]
