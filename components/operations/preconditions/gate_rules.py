"""Which rules of the gate the held-out rows feed, before a run: whether a perfect model would become champion, and by which rules.

The gate itself judges that model, so no rule is written down twice. A model that answers everything right is refused only where the data lack
what a rule needs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.errors import UserError
from components.operations.doctor.findings import Finding, ok, problem, warning
from components.operations.preconditions.situation import Situation

if TYPE_CHECKING:
    from components.preferences.record import Query
    from components.registry.decision import Finding as GateFinding
    from components.registry.policy import ModelName, RegistryPolicy

KINDS = {"apply": ("passed", "failed"), "unfed": ("unfed",)}


def gate_rules(situation: Situation) -> Finding:
    """No rule of mlflow/registry.yaml refuses a perfect model for want of held-out rows or facts. Facts that can't be read are a problem."""
    if "evaluate" not in situation.stages:
        return ok("no model is evaluated")
    from components.evaluation.chain import load_chain
    from components.registry.policy import POLICY_FILE, load_policy

    checkout = situation.checkout
    try:
        rules = load_policy(checkout.root / POLICY_FILE)
        judge = load_chain(situation.settings, checkout)
        queries, source = heldout_queries(situation)
    except UserError as error:
        return problem(str(error), "`evaluate` would stop there after all training")
    if not queries:
        return ok("no held-out row can be read yet")
    findings = perfect_findings(rules, queries, judge)
    which = rules_sentence(findings)
    refusals = [f"{model}.{_cause(f.sentence)}" for model, own in findings.items() for f in own if f.outcome == "failed"]
    if refusals:
        return warning(
            f"the gate ({POLICY_FILE}) would refuse even a perfect model on {source}: {'; '.join(refusals)}; {which}",
            "add such rows before the run, or switch rules off there with a reason; no change of the rules retrains a model",
        )
    return ok(f"{source} feed the rules of {POLICY_FILE}: {which}")


def perfect_findings(rules: RegistryPolicy, queries: list[Query], judge: Any) -> dict[ModelName, tuple[GateFinding, ...]]:
    """What the gate says of a perfect policy and a perfect reward model against the worst ones, rule by rule."""
    from components.registry.gate import Results, judge_policy, judge_reward

    perfect = Results("perfect", [_row(query, judge, right=True) for query in queries])
    worst = Results("the base", [_row(query, judge, right=False) for query in queries])
    return {"mm-policy": judge_policy(rules, perfect, worst).findings, "mm-reward": judge_reward(rules, perfect, None).findings}


def rules_sentence(findings: Mapping[ModelName, Sequence[GateFinding]]) -> str:
    """Which rules of the policy apply, and which the rows can't feed, in one clause."""
    own = findings["mm-policy"]
    names = {kind: list(dict.fromkeys(f.rule for f in own if f.outcome in kinds and f.rule != "safety")) for kind, kinds in KINDS.items()}
    apply = f"{', '.join(names['apply'])} apply" if names["apply"] else "no rule applies"
    unfed = f"; no row feeds {', '.join(names['unfed'])}" if names["unfed"] else ""
    unmeasured = "; a verdict would say nothing of safety" if any(f.rule == "safety" for f in own) else ""
    return f"{apply}{unfed}{unmeasured}"


def _cause(sentence: str) -> str:
    return sentence.partition("; or switch")[0]


def heldout_queries(situation: Situation) -> tuple[list[Query], str]:
    """The held-out queries and where they come from: heldout.jsonl, or every n-th row, about as many as validation would split off."""
    folder = situation.checkout.preferences
    heldout = folder / "heldout.jsonl"
    if heldout.is_file():
        queries = list(_queries(heldout))
        return queries, f"{len(queries):,} held-out rows"
    queries = list(_queries(folder / "data.jsonl")) if (folder / "data.jsonl").is_file() else []
    queries.sort(key=lambda query: (query.category, query.safety or ""))
    queries = queries[:: round(1 / situation.settings.validate_.heldout_share)]
    return queries, f"the {len(queries):,} or so rows that validation would hold out"


def _queries(path: Path) -> Iterator[Query]:
    """The readable rows; validation names the others."""
    from components.preferences.faults import RowError
    from components.preferences.json_rows import read_rows
    from components.preferences.release import query_from_row

    for line in read_rows(path):
        if line.row is not None:
            try:
                yield query_from_row(line.row, "heldout")
            except RowError:
                continue


def _row(query: Query, judge: Any, *, right: bool) -> dict[str, Any]:
    """The result of a query as components/evaluation/results.py has it, of a model that does everything right, or everything wrong."""
    from components.validation.summary import default_clusters

    harmful, harmless, judged = query.safety == "harmful", query.safety == "harmless", judge.knows(query)
    reads = judge.reads_requests(query)
    pairs = len(query.pairs())
    return {
        "id": query.id,
        "category": query.category,
        "good": right if judged or reads else None,
        "unsafe": not right if harmful and reads else None,
        "over_refused": not right if harmless and reads else None,
        "hallucinated": not right if judge.reads_descriptions(query) else None,
        "degenerate": not right,
        "pairs": pairs,
        "correct": pairs if right else 0,
        "text_correct": 0,
        "clusters": default_clusters(query),
    }
