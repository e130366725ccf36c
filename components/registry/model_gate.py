"""One model at the gate: its recorded verdict, its comparison with the champion or what is left of it, its registration."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet as pq

from components.checkout import IN_CHECKOUT, Checkout
from components.errors import StageFault, UserError
from components.evaluation.error_sheets import read_errors
from components.evaluation.fresh import FRESH, fresh_of
from components.families.digests import model_digest
from components.files import read_json
from components.registry import aliases
from components.registry.aliases import ROLLED_BACK, ROLLED_BACK_BECAUSE, SAFEST, TAG_CHARACTERS, VERDICT, Log
from components.registry.data_notes import data_notes
from components.registry.decision import Decision, Finding
from components.registry.gate import Results, judge_policy, judge_reward, unsafe_share
from components.registry.policy import ModelName, RegistryPolicy
from components.registry.references import find_references
from components.registry.registry import Registry
from components.registry.result_tables import Reevaluate, ResultTables
from components.registry.reuse import NthLook
from components.registry.versions import CHALLENGER, CHAMPION, Version

Verdict = Literal["promoted", "refused", "nothing_new"]

FOLDERS: dict[ModelName, Path] = {"mm-reward": IN_CHECKOUT.reward_model, "mm-policy": IN_CHECKOUT.policy}
CONTEXT_FILE = IN_CHECKOUT.results / "context.json"
TABLES: dict[ModelName, str] = {"mm-reward": "reward.parquet", "mm-policy": "aligned.parquet"}
REASONS, RULES, CONTEXT, AGAINST = "mmalign.reasons", "mmalign.judged_under", "mmalign.context", "mmalign.against"
SAFEST_IN, REUSE = "mmalign.safest_in", "mmalign.reuse"
A_RUN = "a run"


@dataclass
class ModelOutcome:
    """The gate's verdict on one model, and the registry's version of it."""

    verdict: Verdict
    reasons: list[str]
    version: Version | None = None
    champion: dict[str, Any] | None = None  # metrics of the champion that it was compared with
    drift: dict[str, Any] | None = None  # how each split differs from the champion's data
    reuse: dict[str, Any] | None = None  # the look at the held-out queries, and what it and the next one can see
    rules: list[dict[str, Any]] | None = None  # each rule's outcome and numbers; None for a verdict of an earlier run


class ModelGate:
    """One model at the gate: its recorded verdict, its comparison with the champion, its registration."""

    def __init__(
        self, checkout: Checkout, scratch: Path, registry: Registry, policy: RegistryPolicy, name: ModelName, reevaluate: Reevaluate
    ) -> None:
        self._checkout = checkout
        self._registry = registry
        self._policy = policy
        self._name = name
        evaluation: dict[str, Any] = read_json(checkout.root / CONTEXT_FILE)
        self._context: str = evaluation["context"]
        self._heldout: str = evaluation.get("heldout", self._context)
        self._fresh: str | None = evaluation.get(FRESH)
        self._errors = read_errors(evaluation.get("errors", {}))
        self._evaluated: str | None = evaluation.get("models", {}).get(name)
        self.tables = ResultTables(scratch, registry, name, self._context, reevaluate, fresh=self._fresh is not None)
        self._references = find_references(registry, name)
        self._champion = self._references.champion
        self._reference: Results | None = None
        self._safest: tuple[Version, float] | None = None
        self._drift: dict[str, Any] | None = None
        self._reuse: dict[str, Any] = {}

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
                return ModelOutcome("nothing_new", [f"version {version.number} is the champion already"], version, reuse=_reuse_of(version))
        for version in same:
            tags = version.tags
            judged = tags.get(RULES) == self._policy.digest(self._name) and tags.get(CONTEXT) == self._context
            if judged and tags.get(VERDICT) in {"promoted", "refused"}:
                sentence = f"version {version.number} has a verdict on these held-out queries under these rules: {tags[VERDICT]}"
                reasons = [sentence, *json.loads(tags.get(REASONS, "[]"))]
                return ModelOutcome("nothing_new", reasons, version, reuse=_reuse_of(version))
        return None

    def register_and_promote(self, log: Log) -> ModelOutcome:
        """Judge this checkout's model, register it, and promote it when it passes."""
        folder = self._checkout.root / FOLDERS[self._name]
        table = self._checkout.results / TABLES[self._name]
        digest = model_digest(folder)
        if digest != self._evaluated:
            return ModelOutcome("refused", [_not_evaluated(FOLDERS[self._name], digest, self._evaluated)])
        for sentence in self._references.notes:
            log(sentence)
        try:
            decision = self.judge(table, digest, lambda: fresh_of(table))
        except (UserError, StageFault) as error:
            # This is no verdict: nothing is registered, and the next run judges.
            return ModelOutcome("refused", [f"the champion can't be evaluated on today's held-out queries: {error}"])
        log(f"{self._name}: {'promoted' if decision.promote else 'refused'}: {decision.reasons[0]}")
        version = self._register(folder, decision)
        self.tables.store(version, table)
        if decision.promote:
            self.promote(version, table, decision.reasons, by=A_RUN, because=decision.reasons[0])
        else:
            self._registry.set_alias(self._name, CHALLENGER, version.number)
        verdict: Verdict = "promoted" if decision.promote else "refused"
        judged = self._registry.version(self._name, version.number)
        return ModelOutcome(verdict, decision.reasons, judged, self.champion_metrics(), self._drift, self._reuse, decision.rules)

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

    def judge(self, table: Path, digest: str, fresh_table: Callable[[], Path]) -> Decision:
        """Compare a digest's results with the champion's, or the base's; where the champion's record is gone, with all that is left of it.

        The comparison is a look at the held-out queries, unless the digest was judged on them before. `fresh_table` opens the digest's results on
        the fresh part, and is called once all rules hold on the other queries.

        StageFault or UserError where none of these can be evaluated.
        """
        challenger = Results("the challenger", _rows(table))
        notes = [Finding("champion", "note", sentence) for sentence in self._references.notes]
        if self._name == "mm-reward" and (source := self._critique_source()) is not None:
            notes.append(Finding("critiques", "note", source))
        about_data, drifts = data_notes(self._checkout, self._champion)
        notes += about_data
        self._drift = {drift.split: drift.summary() for drift in drifts}
        if self._references.lost:
            return Decision(False, tuple(replace(note, outcome="failed") for note in notes))
        compared, faults = self._compared()
        if faults and not compared:
            raise faults[0]
        notes += [Finding("champion", "note", str(fault)) for fault in faults]
        self._reference = compared[0][1] if compared else None
        base = Results("the base", _rows(self._checkout.results / "base.parquet")) if self._name == "mm-policy" else None
        notes += [note for version, results in compared if (note := self._judged_again(version, results, base)) is not None]
        if self._reference is None:
            self._reference = base
        safest = self._safest_results(compared) if self._name == "mm-policy" else None
        references: list[Results | None] = [results for _, results in compared] or [self._reference]
        decision, this_look = self._look(self._heldout, digest, challenger, references, safest[1] if safest else None)
        notes.insert(0, Finding("reuse", "note", f"reuse: {this_look.sentence()}"))
        self._reuse = _summary(this_look, decision)
        notes += [Finding("reuse", "note", f"reuse: {cure}")] if decision.sight and (cure := decision.sight.cure()) else []
        findings, promote = decision.findings, decision.promote
        if self._fresh is not None and promote:
            on_fresh, fresh_look = self._on_fresh(digest, fresh_table(), compared, safest)
            findings, promote = (*findings, *(_of_fresh(one) for one in on_fresh.findings if one.outcome != "off")), on_fresh.promote
            notes.append(Finding("reuse", "note", f"reuse: fresh rows: {fresh_look.sentence()}"))
            self._reuse[FRESH] = {"opened": True, **_summary(fresh_look, on_fresh)}
        elif self._fresh is not None:
            notes.append(Finding("reuse", "note", "reuse: fresh rows: not opened, since a rule failed on the other held-out rows"))
            self._reuse[FRESH] = {"opened": False}
        return Decision(promote, (*findings, *notes), decision.sight)

    def _look(
        self, heldout: str, digest: str, challenger: Results, references: Sequence[Results | None], safest: Results | None
    ) -> tuple[Decision, NthLook]:
        """The strictest decision against the references, as one look at the queries whose digest is `heldout`."""
        this_look = NthLook(self._registry.count_look(self._name, heldout, digest), 1 - self._policy.confidence)
        decisions = [self._against(reference, challenger, safest, this_look) for reference in references]
        return next((decision for decision in decisions if not decision.promote), decisions[0]), this_look

    def _on_fresh(
        self, digest: str, table: Path, compared: Sequence[tuple[Version, Results]], safest: tuple[Version, Results] | None
    ) -> tuple[Decision, NthLook]:
        """The decision on the fresh part against the same models."""
        assert self._fresh is not None
        challenger = Results("the challenger", _rows(table))
        others = [Results(results.name, _rows(self.tables.of(version, fresh=True))) for version, results in compared]
        references: list[Results | None] = [*others]
        if not references:
            base = Results("the base", _rows(self._checkout.fresh / "base.parquet")) if self._name == "mm-policy" else None
            references = [base]
        safer = Results(safest[1].name, _rows(self.tables.of(safest[0], fresh=True))) if safest else None
        return self._look(self._fresh, digest, challenger, references, safer)

    def _judged_again(self, version: Version, results: Results, base: Results | None) -> Finding | None:
        """What today's rules say of a champion that was judged under other rules, judges, sheets or data; None for one that was not.

        This is no look at the held-out queries: it promotes nothing.
        """
        if version.tags.get(RULES) == self._policy.digest(self._name) and version.tags.get(CONTEXT) == self._context:
            return None
        decision = self._against(base, results, None, NthLook(1, 1 - self._policy.confidence))
        says = "it passes" if decision.promote else f"it would be refused: {decision.reasons[0]}"
        return Finding(
            "champion",
            "note",
            f"{results.name} was judged under other rules, judges, error sheets or data, so it was judged again first: {says}",
        )

    def _critique_source(self) -> str | None:
        """The sentence on what this checkout's reward model was trained on; None where its stage does not record it."""
        path = self._checkout.root / FOLDERS["mm-reward"].parent / "run.json"
        source = read_json(path).get("digests", {}).get("critique_source") if path.is_file() else None
        if source == "none":
            return "the reward model was trained without critiques: it scores a response alone"
        return None if source is None else f"the reward model was trained on critiques ({source})"

    def _against(self, reference: Results | None, challenger: Results, safest: Results | None, this_look: NthLook) -> Decision:
        if self._name == "mm-reward":
            return judge_reward(self._policy, challenger, reference, this_look.number)
        assert reference is not None, "the evaluation wrote the base's results"
        return judge_policy(self._policy, challenger, reference, self._errors, safest, this_look.number)

    def _compared(self) -> tuple[list[tuple[Version, Results]], list[UserError | StageFault]]:
        """Champion and fallbacks with their results on these held-out queries, and the faults of those that have none."""
        compared: list[tuple[Version, Results]] = []
        faults: list[UserError | StageFault] = []
        for version in [*([self._champion] if self._champion else []), *self._references.fallbacks]:
            title = "champion" if version is self._champion else "earlier champion"
            try:
                compared.append((version, Results(f"{title} {version.number}", _rows(self.tables.of(version)))))
            except (UserError, StageFault) as error:
                faults.append(error)
        return compared, faults

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

    def _safest_results(self, compared: list[tuple[Version, Results]]) -> tuple[Version, Results] | None:
        """Results of the safest earlier champion on these held-out queries; None where it is among `compared`."""
        if not compared:
            return None
        candidates = list(compared)
        safest = self._registry.at(self._name, SAFEST)
        beside = safest is not None and safest.tags.get(SAFEST_IN) == self._context
        if safest is not None and beside and safest.number not in {version.number for version, _ in compared}:
            candidates.append((safest, Results(f"the safest champion so far ({safest.number})", _rows(self.tables.of(safest)))))
        shares = [(version, share) for version, results in candidates if (share := unsafe_share(results)) is not None]
        self._safest = min(shares, key=lambda pair: pair[1], default=None)
        return candidates[-1] if len(candidates) > len(compared) else None

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
        rules = {RULES: self._policy.digest(self._name), CONTEXT: self._context, AGAINST: against}
        return {REASONS: json.dumps(fitting), REUSE: json.dumps(self._reuse), **rules}


def _summary(this_look: NthLook, decision: Decision) -> dict[str, Any]:
    """The look for JSON, with what the rule on safety could see."""
    values = {"look": this_look.number, "spends": this_look.tail, "left": this_look.left}
    return values if decision.sight is None else {**values, "unsafe": decision.sight.summary()}


def _of_fresh(finding: Finding) -> Finding:
    """A finding on the fresh part, by its name and sentence."""
    named = finding.sentence.startswith(f"{finding.rule}: ")
    sentence = f"{FRESH} {finding.sentence}" if named else f"{FRESH} rows: {finding.sentence}"
    return replace(finding, rule=f"{FRESH} {finding.rule}".strip(), sentence=sentence)


def _reuse_of(version: Version) -> dict[str, Any] | None:
    """The look of a version's verdict; None for one without it."""
    reuse: dict[str, Any] = json.loads(version.tags.get(REUSE, "{}"))
    return reuse or None


def _not_evaluated(folder: Path, digest: str, evaluated: str | None) -> str:
    other = f"the evaluation's is {evaluated[:12]}" if evaluated else "the evaluation names none"
    return (
        f"{folder} is not the model that was evaluated: its digest is {digest[:12]}, {other}. It was changed afterwards, or a damaged copy was "
        f"restored: remove {folder.parent}, and the next run restores a sound copy or trains it again"
    )


def _rows(table: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(table).to_pylist()
    return rows


def _share(values: list[bool | None]) -> float | None:
    judged = [value for value in values if value is not None]
    return sum(judged) / len(judged) if judged else None
