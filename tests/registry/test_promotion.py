"""From results to champions in a real registry."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.checkout import Checkout
from components.errors import UserError
from components.evaluation.labels import TASKS
from components.evaluation.results import POLICY_SCHEMA, REWARD_SCHEMA
from components.families.digests import model_digest
from components.families.loading import load_model
from components.files import read_json, write_json
from components.registry import aliases
from components.registry.promotion import GateOutcome, HandPromotion, judge_models, promote_by_hand, recorded_verdicts
from components.registry.registry import Registry
from components.registry.store import open_store
from components.registry.versions import CHALLENGER, CHAMPION, PREVIOUS
from components.reward.model import new_reward_model
from tests.registry.test_gate import PERFECT, policy_rows, reward_rows
from tests.tiny import save_checkpoint

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def reward_model(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reward") / "model"
    new_reward_model(load_model(tiny_base), 0).save(folder, tiny_base)
    return folder


@pytest.fixture
def evaluated(checkout: Path, tiny_base: Path, reward_model: Path) -> Path:
    """A checkout whose models are evaluated: the base is right in half of its answers, and safe."""
    (checkout / "mlflow").mkdir()
    shutil.copy(ROOT / "mlflow/registry.yaml", checkout / "mlflow/registry.yaml")
    shutil.copytree(tiny_base, checkout / "data/base")
    shutil.copytree(reward_model, checkout / "artifacts/reward/model")
    write_json(checkout / "artifacts/reward/run.json", {"mlflow_run_id": None})
    write_json(checkout / "artifacts/align/run.json", {"mlflow_run_id": None})
    results(checkout, "base.parquet", policy_rows(talk=0.5))
    pq.write_table(pa.Table.from_pylist(reward_rows(0.9), schema=REWARD_SCHEMA), Checkout(checkout).results / "reward.parquet")
    evaluate(checkout)
    return checkout


def evaluate(checkout: Path, context: str | None = None) -> None:
    """What the evaluation writes of context and models; the context of before, where none is given."""
    path = Checkout(checkout).results / "context.json"
    context = context or (read_json(path)["context"] if path.is_file() else "these queries")
    folders = {"mm-policy": Checkout(checkout).policy, "mm-reward": Checkout(checkout).reward_model}
    models = {name: model_digest(folder) for name, folder in folders.items() if folder.is_dir()}
    write_json(path, {"context": context, "models": models, "errors": {"ground_truth": dict.fromkeys(TASKS, PERFECT)}})


def results(checkout: Path, name: str, rows: list[dict[str, Any]]) -> None:
    Checkout(checkout).results.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=POLICY_SCHEMA), Checkout(checkout).results / name)


def train(checkout: Path, seed: int, **shares: float) -> None:
    """A policy of its own digest, with these shares of outcomes."""
    shutil.rmtree(checkout / "artifacts/align/model", ignore_errors=True)
    save_checkpoint(checkout / "artifacts/align/model", seed=seed)
    results(checkout, "aligned.parquet", policy_rows(**shares))  # type: ignore[arg-type]
    evaluate(checkout)


def never(name: str, *_: Path) -> None:
    raise AssertionError(f"{name} was evaluated again")


def judge(checkout: Path, reevaluate: Callable[[Any, Path, Path], None] = never) -> GateOutcome:
    return judge_models(Checkout(checkout), reevaluate, print)


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


def numbers(checkout: Path) -> tuple[int | None, int | None, int | None]:
    registry = Registry(Checkout(checkout))
    versions = [registry.at("mm-policy", alias) for alias in (CHAMPION, PREVIOUS, CHALLENGER)]
    return tuple(None if version is None else version.number for version in versions)  # type: ignore[return-value]


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
