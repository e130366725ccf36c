"""Makes a trained model champion, or refuses it with reasons. The gate decides first, then the registry gets the version.

The gate does not judge a digest twice under the same rules and held-out queries. It judges a digest without a verdict even when no stage
was stale: a kill may have come before the gate, or the registry may be lost.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.checkout import Checkout
from components.errors import StageFault, UserError
from components.registry import aliases
from components.registry.aliases import ROLLED_BACK, ROLLED_BACK_BECAUSE, Log
from components.registry.lock import local_lock, registry_lock
from components.registry.model_gate import CONTEXT_FILE, ModelGate, ModelOutcome
from components.registry.policy import MODELS, POLICY_FILE, ModelName, load_policy
from components.registry.registry import Registry
from components.registry.result_tables import Reevaluate
from components.registry.versions import CHAMPION


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
            gate[name] = {"verdict": outcome.verdict, "reasons": outcome.reasons, "rules": outcome.rules or []}
            if outcome.champion is not None:
                gate[name]["champion"] = outcome.champion
            if outcome.reuse:
                gate[name]["reuse"] = outcome.reuse
            if outcome.drift:
                gate[name]["drift"] = outcome.drift
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
    with registry_lock(checkout, log), tempfile.TemporaryDirectory() as scratch:
        registry = Registry(checkout)
        for name in MODELS:
            aliases.recover(registry, name, log)
            _put_back(registry, name, log)
            gate = ModelGate(checkout, Path(scratch), registry, policy, name, reevaluate)
            outcome.models[name] = gate.recorded() or gate.register_and_promote(log)
            _retain(registry, name, policy.keep, log)
    return outcome


def recorded_verdicts(checkout: Checkout) -> GateOutcome | None:
    """The recorded verdicts; None when a model waits for a verdict, or aliases or a version's files for a recovery. Changes nothing."""
    policy = load_policy(checkout.root / POLICY_FILE)
    outcome = GateOutcome()
    if not (checkout.root / CONTEXT_FILE).is_file():
        return outcome
    with local_lock(checkout):
        registry = Registry(checkout)
        for name in MODELS:
            whole = aliases.is_whole(registry, name) and not registry.without_files(name)
            recorded = ModelGate(checkout, checkout.root, registry, policy, name, _never).recorded() if whole else None
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
    with registry_lock(checkout, log), tempfile.TemporaryDirectory() as scratch:
        registry = Registry(checkout)
        aliases.recover(registry, name, log)
        version = registry.version(name, number)
        if CHAMPION in version.aliases:
            raise UserError(f"{name} version {number} is the champion already")
        gate = ModelGate(checkout, Path(scratch), registry, policy, name, reevaluate)
        table = gate.tables.of(version)
        decision = gate.judge(table, version.digest, lambda: gate.tables.of(version, fresh=True))
        reasons = decision.reasons
        if not decision.promote and not request.override:
            return ModelOutcome("refused", reasons, version, gate.champion_metrics())
        if not decision.promote:
            reasons = [f"promoted against the gate by {request.who}: {because}", *reasons]
        if not version.whole:
            log(f"{name} version {number} is registered by reference: fetching and uploading its weights")
            version = registry.upload(version)
            gate.tables.store(version, table)
        registry.tag(name, version.number, {ROLLED_BACK: None, ROLLED_BACK_BECAUSE: None})
        gate.promote(version, table, reasons, by=request.who, because=because or reasons[0])
        _retain(registry, name, policy.keep, log)
        return ModelOutcome("promoted", reasons, registry.version(name, version.number), gate.champion_metrics())


def _put_back(registry: Registry, name: ModelName, log: Log) -> None:
    """Put back files that somebody removed from the registry's store. Where that fails, the log says why, and the gate goes on without them."""
    for version in registry.without_files(name):
        try:
            registry.put_back(version)
        except (UserError, StageFault) as error:
            log(f"the files of {version} ({', '.join(sorted(version.aliases))}) are gone from the registry and can't be put back: {error}")
        else:
            log(f"the files of {version} were gone from the registry: put back from DVC's cache")


def _retain(registry: Registry, name: ModelName, keep: int, log: Log) -> None:
    """Delete versions beyond `keep`. A rolled-back version stays, so that no run promotes its digest again."""
    rolled_back = [version.number for version in registry.versions(name) if ROLLED_BACK in version.tags]
    for sentence in registry.retain(name, keep, spare=rolled_back):
        log(sentence)


def _never(name: ModelName, folder: Path, table: Path) -> None:
    raise AssertionError(f"only a run evaluates {name} in {folder} for {table}")
