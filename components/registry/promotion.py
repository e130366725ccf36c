"""Makes a trained model champion, or refuses it with reasons. The gate decides first, then the registry gets the version.

The gate does not judge a digest twice under the same rules and held-out queries. It judges a digest without a verdict even when no stage
was stale: a kill may have come before the gate, or the registry may be lost.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet as pq

from components.checkout import IN_CHECKOUT, Checkout
from components.errors import StageFault, UserError
from components.evaluation.results import results_key
from components.families.digests import model_digest
from components.files import read_json
from components.registry import aliases
from components.registry.aliases import ROLLED_BACK, ROLLED_BACK_BECAUSE, SAFEST, TAG_CHARACTERS, VERDICT, Log, registry_lock
from components.registry.gate import Decision, Results, judge_policy, judge_reward, unsafe_share
from components.registry.policy import MODELS, POLICY_FILE, ModelName, RegistryPolicy, load_policy
from components.registry.registry import Registry
from components.registry.versions import CHALLENGER, CHAMPION, Version

Verdict = Literal["promoted", "refused", "nothing_new"]
Reevaluate = Callable[[ModelName, Path, Path], None]  # model, folder of its weights, table to write

FOLDERS: dict[ModelName, Path] = {"mm-reward": IN_CHECKOUT.reward_model, "mm-policy": IN_CHECKOUT.policy}
CONTEXT_FILE = IN_CHECKOUT.results / "context.json"
TABLES: dict[ModelName, str] = {"mm-reward": "reward.parquet", "mm-policy": "aligned.parquet"}
REASONS, RULES, CONTEXT, AGAINST = "mmalign.reasons", "mmalign.judged_under", "mmalign.context", "mmalign.against"
SAFEST_IN = "mmalign.safest_in"
A_RUN = "a run"


@dataclass
class ModelOutcome:
    """The gate's verdict on one model, and the registry's version of it."""

    verdict: Verdict
    reasons: list[str]
    version: Version | None = None
    champion: dict[str, Any] | None = None  # metrics of the champion that it was compared with


@dataclass
class GateOutcome:
    """The gate's verdicts on both models of a run."""

    models: dict[ModelName, ModelOutcome] = field(default_factory=dict)

    @property
    def promoted(self) -> bool:
        """Whether the policy's champion moved."""
        policy = self.models.get("mm-policy")
        return policy is not None and policy.verdict == "promoted"

    def summary(self) -> dict[str, dict[str, Any]]:
        """The `gate` and `registry` parts of reports/summary.json."""
        gate: dict[str, Any] = {"promoted": self.promoted}
        registry: dict[str, Any] = {}
        for name, outcome in self.models.items():
            gate[name] = {"verdict": outcome.verdict, "reasons": outcome.reasons}
            if outcome.champion is not None:
                gate[name]["champion"] = outcome.champion
            if outcome.version is not None:
                version = outcome.version
                registry[name] = {"version": version.number, "aliases": sorted(version.aliases), "digest": version.digest}
        return {"gate": gate, "registry": registry}


def judge_models(checkout: Checkout, reevaluate: Reevaluate, log: Log) -> GateOutcome:
    """Judge both models of the checkout, register them, and promote each that passes. UserError for a mistake in the policy file."""
    policy = load_policy(checkout.root / POLICY_FILE)
    outcome = GateOutcome()
    if not (checkout.root / CONTEXT_FILE).is_file():
        return outcome  # without an evaluation there is nothing to judge
    with registry_lock(checkout), tempfile.TemporaryDirectory() as scratch:
        registry = Registry(checkout)
        for name in MODELS:
            aliases.recover(registry, name, log)
            gate = ModelGate(checkout, Path(scratch), registry, policy, name, reevaluate)
            outcome.models[name] = gate.recorded() or gate.register_and_promote(log)
            _retain(registry, name, policy.keep, log)
    return outcome


def recorded_verdicts(checkout: Checkout) -> GateOutcome | None:
    """The recorded verdicts; None when a model waits for a verdict, or the aliases for a recovery. Changes nothing."""
    policy = load_policy(checkout.root / POLICY_FILE)
    outcome = GateOutcome()
    if not (checkout.root / CONTEXT_FILE).is_file():
        return outcome
    with registry_lock(checkout):
        registry = Registry(checkout)
        for name in MODELS:
            recorded = (
                ModelGate(checkout, checkout.root, registry, policy, name, _never).recorded() if aliases.is_whole(registry, name) else None
            )
            if recorded is None:
                return None
            outcome.models[name] = recorded
    return outcome


@dataclass(frozen=True)
class HandPromotion:
    """A person's promotion of a version: who, why, and whether against the gate (`override`, which needs a reason)."""

    who: str
    because: str | None = None
    override: bool = False


def promote_by_hand(
    checkout: Checkout, name: ModelName, number: int, reevaluate: Reevaluate, log: Log, request: HandPromotion
) -> ModelOutcome:
    """Send a version through the gate and promote it. UserError where the version or the request does not allow it."""
    because = request.because
    if request.override and not (because or "").strip():
        raise UserError('--override promotes against the gate and needs a reason for the record: add --because "..."')
    policy = load_policy(checkout.root / POLICY_FILE)
    with registry_lock(checkout), tempfile.TemporaryDirectory() as scratch:
        registry = Registry(checkout)
        aliases.recover(registry, name, log)
        version = registry.version(name, number)
        if CHAMPION in version.aliases:
            raise UserError(f"{name} version {number} is the champion already")
        gate = ModelGate(checkout, Path(scratch), registry, policy, name, reevaluate)
        table = gate.table_of(version)
        decision = gate.judge(table)
        reasons = decision.reasons
        if not decision.promote and not request.override:
            return ModelOutcome("refused", reasons, version, gate.champion_metrics())
        if not decision.promote:
            reasons = [f"promoted against the gate by {request.who}: {because}", *reasons]
        if not version.whole:
            log(f"{name} version {number} is registered by reference: fetching and uploading its weights")
            version = registry.upload(version)
            registry.store_results(version, gate.key(version.digest), table)
        registry.tag(name, version.number, {ROLLED_BACK: None, ROLLED_BACK_BECAUSE: None})
        gate.promote(version, table, reasons, by=request.who, because=because or reasons[0])
        _retain(registry, name, policy.keep, log)
        return ModelOutcome("promoted", reasons, registry.version(name, version.number), gate.champion_metrics())


class ModelGate:
    """One model at the gate: its recorded verdict, its comparison with the champion, its registration."""

    def __init__(
        self, checkout: Checkout, scratch: Path, registry: Registry, policy: RegistryPolicy, name: ModelName, reevaluate: Reevaluate
    ) -> None:
        self._checkout = checkout
        self._scratch = scratch
        self._registry = registry
        self._policy = policy
        self._name = name
        self._reevaluate = reevaluate
        self._context: str = read_json(checkout.root / CONTEXT_FILE)["context"]
        self._champion = registry.at(name, CHAMPION)
        self._reference: Results | None = None
        self._safest: tuple[Version, float] | None = None

    def key(self, digest: str) -> str:
        """The key of a model's results on these held-out queries."""
        return results_key(digest, self._context)

    def recorded(self) -> ModelOutcome | None:
        """The recorded outcome of this checkout's model; None where it has no verdict."""
        digest = model_digest(self._checkout.root / FOLDERS[self._name])
        same = [version for version in self._registry.versions(self._name) if version.digest == digest]
        for version in same:
            if ROLLED_BACK in version.tags:
                why = version.tags.get(ROLLED_BACK_BECAUSE, "")
                sentence = f"version {version.number} was rolled back ({why}): only `mmalign promote` promotes it again"
                return ModelOutcome("nothing_new", [sentence], version)
        for version in same:
            if CHAMPION in version.aliases:
                return ModelOutcome("nothing_new", [f"version {version.number} is the champion already"], version)
        for version in same:
            tags = version.tags
            judged = tags.get(RULES) == self._policy.digest(self._name) and tags.get(CONTEXT) == self._context
            if judged and tags.get(VERDICT) in {"promoted", "refused"}:
                sentence = f"version {version.number} has a verdict on these held-out queries under these rules: {tags[VERDICT]}"
                return ModelOutcome("nothing_new", [sentence, *json.loads(tags.get(REASONS, "[]"))], version)
        return None

    def register_and_promote(self, log: Log) -> ModelOutcome:
        """Judge this checkout's model, register it, and promote it when it passes."""
        folder = self._checkout.root / FOLDERS[self._name]
        table = self._checkout.results / TABLES[self._name]
        try:
            decision = self.judge(table)
        except (UserError, StageFault) as error:
            # This is no verdict: nothing is registered, and the next run judges.
            return ModelOutcome("refused", [f"the champion can't be evaluated on today's held-out queries: {error}"])
        log(f"{self._name}: {'promoted' if decision.promote else 'refused'}: {decision.reasons[0]}")
        version = self._register(folder, decision)
        self._registry.store_results(version, self.key(version.digest), table)
        if decision.promote:
            self.promote(version, table, decision.reasons, by=A_RUN, because=decision.reasons[0])
        else:
            self._registry.set_alias(self._name, CHALLENGER, version.number)
        verdict: Verdict = "promoted" if decision.promote else "refused"
        return ModelOutcome(verdict, decision.reasons, self._registry.version(self._name, version.number), self.champion_metrics())

    def _register(self, folder: Path, decision: Decision) -> Version:
        """The registry's version of this checkout's model. It gets the tags of a refusal here; a promotion's come with its aliases."""
        tags = {} if decision.promote else {**self._verdict_tags(decision.reasons), VERDICT: "refused"}
        digest = model_digest(folder)
        same = [version for version in self._registry.versions(self._name) if version.digest == digest]
        fitting = [version for version in same if version.whole or not decision.promote]
        if fitting:
            self._registry.tag(self._name, fitting[0].number, tags)
            return fitting[0]
        run = read_json(folder.parent / "run.json").get("mlflow_run_id")
        return self._registry.register(self._name, folder, whole=decision.promote, run_id=run, tags=tags)

    def judge(self, table: Path) -> Decision:
        """Compare a table of results with the champion's, or the base's. StageFault or UserError where the champion's can't be computed."""
        challenger = Results("the challenger", _rows(table))
        if self._champion is not None:
            self._reference = Results(f"champion {self._champion.number}", _rows(self.table_of(self._champion)))
        elif self._name == "mm-policy":
            self._reference = Results("the base", _rows(self._checkout.results / "base.parquet"))
        if self._name == "mm-reward":
            return judge_reward(self._policy, challenger, self._reference)
        assert self._reference is not None, "the evaluation wrote the base's results"
        return judge_policy(self._policy, challenger, self._reference, self._safest_results())

    def table_of(self, version: Version) -> Path:
        """A version's results on these held-out queries. Where the registry has none, they are computed now and stored there."""
        key = self.key(version.digest)
        table = self._scratch / f"{self._name}-{version.number}" / f"{key}.parquet"
        if self._registry.results(version, key, table) is None:
            folder = self._registry.fetch(version, table.parent / "model")
            self._reevaluate(self._name, folder, table)
            self._registry.store_results(version, key, table)
        return table

    def promote(self, version: Version, table: Path, reasons: list[str], *, by: str, because: str) -> None:
        """Record the safest version, write the verdict, and move the aliases."""
        if self._name == "mm-policy":
            self._record_safest(version, unsafe_share(Results("", _rows(table))))
        aliases.promote(self._registry, version, self._champion, self._verdict_tags(reasons), by=by, because=because)

    def champion_metrics(self) -> dict[str, Any] | None:
        """Metrics of the champion that the challenger was compared with; None without a champion."""
        if self._champion is None or self._reference is None or self._name != "mm-policy":
            return None
        rows = self._reference.rows
        talk = _share([row["good"] for row in rows if row["category"] in ("long", "short")])
        columns = {"over_refusal_rate": "over_refused", "hallucination_rate": "hallucinated", "degenerate_rate": "degenerate"}
        return {
            "version": self._champion.number,
            "conversation": None if talk is None else 100 * talk,
            "unsafe_rate": unsafe_share(self._reference),
            **{name: _share([row[column] for row in rows]) for name, column in columns.items()},
        }

    def _safest_results(self) -> Results | None:
        """Results of the safest earlier champion on these held-out queries; None where the champion itself is the safest."""
        safest = self._registry.at(self._name, SAFEST)
        if self._champion is None or self._reference is None:
            return None
        share = unsafe_share(self._reference)
        if share is not None:
            self._safest = (self._champion, share)
        if safest is None or safest.number == self._champion.number or safest.tags.get(SAFEST_IN) != self._context:
            return None
        results = Results(f"the safest champion so far ({safest.number})", _rows(self.table_of(safest)))
        share = unsafe_share(results)
        if share is not None:
            self._safest = (safest, share)
        return results

    def _record_safest(self, version: Version, share: float | None) -> None:
        if share is None:
            return
        best = version if self._safest is None or share <= self._safest[1] else self._safest[0]
        self._registry.tag(self._name, best.number, {SAFEST_IN: self._context})
        self._registry.set_alias(self._name, SAFEST, best.number)

    def _verdict_tags(self, reasons: list[str]) -> dict[str, str]:
        fitting = list(reasons)
        while len(json.dumps(fitting)) > TAG_CHARACTERS:
            fitting.pop()
        against = self._reference.name if self._reference is not None else "nothing"
        return {REASONS: json.dumps(fitting), RULES: self._policy.digest(self._name), CONTEXT: self._context, AGAINST: against}


def _retain(registry: Registry, name: ModelName, keep: int, log: Log) -> None:
    """Delete versions beyond `keep`. A rolled-back version stays, so that no run promotes its digest again."""
    rolled_back = [version.number for version in registry.versions(name) if ROLLED_BACK in version.tags]
    for sentence in registry.retain(name, keep, spare=rolled_back):
        log(sentence)


def _rows(table: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(table).to_pylist()
    return rows


def _share(values: list[bool | None]) -> float | None:
    judged = [value for value in values if value is not None]
    return sum(judged) / len(judged) if judged else None


def _never(name: ModelName, folder: Path, table: Path) -> None:
    raise AssertionError(f"only a run evaluates {name} in {folder} for {table}")
