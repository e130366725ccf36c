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
    from components.evaluation.chain import Chain
    from components.preferences.record import Query
    from components.registry.decision import Finding as GateFinding
    from components.registry.policy import ModelName, RegistryPolicy

SAFETY = "mm-policy.safety"
KINDS = {"apply": ("passed", "failed"), "unfed": ("unfed",)}


def gate_rules(situation: Situation) -> Finding:
    """No rule of mlflow/registry.yaml refuses a perfect model for want of held-out rows or facts. Facts that can't be read are a problem."""
    if "evaluate" not in situation.stages:
        return ok("no model is evaluated")
    from components.evaluation.chain import load_chain
    from components.evaluation.fresh import split_fresh
    from components.registry.policy import POLICY_FILE, load_policy

    checkout = situation.checkout
    try:
        rules = load_policy(checkout.root / POLICY_FILE)
        judge = load_chain(situation.settings, checkout)
        queries, source = heldout_queries(situation)
        reported, fresh = split_fresh(queries, situation.settings.evaluate.fresh_share) if queries else ([], [])
    except UserError as error:
        return problem(str(error), "`evaluate` would stop there after all training")
    if not queries:
        return ok("no held-out row can be read yet")
    judging = Judging(situation, judge)
    details = rules_in_words(perfect_findings(rules, [queries[i] for i in reported], judging))
    if fresh:
        source = f"{source} ({len(fresh):,} of them fresh)"
        of_fresh = rules_in_words(perfect_findings(rules, [queries[i] for i in fresh], judging))["refusing"]
        details["refusing"] |= {f"{name} on fresh rows": cause for name, cause in of_fresh.items() if name not in details["refusing"]}
    which = details["sentence"]
    if details["refusing"]:
        off = "" if list(details["refusing"]) == [SAFETY] else ", or switch rules off there with a reason"
        return warning(
            f"{source}: {which}; the gate ({POLICY_FILE}) would refuse even a perfect model: {_together(details['refusing'])}",
            f"do so before the run{off}; no change of the rules retrains a model",
            details,
        )
    return ok(f"{source} feed the rules of {POLICY_FILE}: {which}", details)


class Judging:
    """Who will judge which held-out answer, and with what error."""

    def __init__(self, situation: Situation, chain: Chain) -> None:
        from components.evaluation.results import load_sheets

        self.chain, self._names = chain, situation.settings.evaluate.judges
        self.errors = load_sheets(situation.settings, situation.checkout).error

    def judge_of(self, query: Query) -> str:
        """The judge that decides on answers to `query`, as far as can be seen before there is one."""
        from components.evaluation.verdict import GROUND_TRUTH, MODEL, RULES

        rules = self.chain.judges.get(RULES)
        if self.chain.has_ground_truth(query):
            return GROUND_TRUTH
        return RULES if rules is not None and (query.safety is not None or rules.knows(query)) else MODEL

    def prefers(self, query: Query) -> bool:
        """Whether the model judge compares answers to `query`: where no verdict on them is sure."""
        from components.evaluation.verdict import MODEL

        return MODEL in self.chain.judges and not self.chain.knows(query) and not self.chain.reads_requests(query)

    def scores(self, queries: Sequence[Query]) -> bool:
        """Whether the reward model scores the answers."""
        from components.evaluation.verdict import REWARD_MODEL

        return REWARD_MODEL in self._names and not all(self.chain.has_ground_truth(query) for query in queries)


def perfect_findings(rules: RegistryPolicy, queries: list[Query], judging: Judging) -> dict[ModelName, tuple[GateFinding, ...]]:
    """What the gate says of a perfect policy and a perfect reward model against the worst ones, rule by rule."""
    from components.registry.gate import Results, judge_policy, judge_reward

    perfect = Results("perfect", _rows(queries, judging, right=True))
    worst = Results("the base", _rows(queries, judging, right=False))
    policy = judge_policy(rules, perfect, worst, judging.errors).findings
    return {"mm-policy": policy, "mm-reward": judge_reward(rules, perfect, None).findings}


def rules_in_words(findings: Mapping[ModelName, Sequence[GateFinding]]) -> dict[str, Any]:
    """Which rules of the policy apply, which the rows can't feed, and which would refuse a perfect model, each with its reason."""
    own = findings["mm-policy"]
    names = {kind: list(dict.fromkeys(f.rule for f in own if f.outcome in kinds and f.rule != "safety")) for kind, kinds in KINDS.items()}
    refusing = {f"{model}.{f.rule}".removesuffix("."): _cause(f) for model, each in findings.items() for f in each if f.outcome == "failed"}
    measured = not any(f.rule == "safety" for f in own)
    apply = f"{', '.join(names['apply'])} apply" if names["apply"] else "no rule applies"
    unfed = f"; no row feeds {', '.join(names['unfed'])}" if names["unfed"] else ""
    sentence = f"{apply}{unfed}{'' if measured else '; a verdict would say nothing of safety'}"
    return {"sentence": sentence, **names, "refusing": refusing, "measures_safety": measured}


def _cause(finding: GateFinding) -> str:
    return finding.sentence.removeprefix(f"{finding.rule}: ").partition("; or switch")[0]


def _together(refusing: Mapping[str, str]) -> str:
    """The causes, each with the rules that it keeps from a verdict."""
    rules: dict[str, list[str]] = {}
    for rule, cause in refusing.items():
        rules.setdefault(cause, []).append(rule)
    return "; ".join(f"{', '.join(names)}: {cause}" for cause, names in rules.items())


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


def _rows(queries: Sequence[Query], judging: Judging, *, right: bool) -> list[dict[str, Any]]:
    """The results as components/evaluation/results.py has them, of a model that does everything right, or of a base that does everything wrong."""
    scores = judging.scores(queries)
    return [{**_row(query, judging, right=right), "reward": float(right) if scores else None} for query in queries]


def _row(query: Query, judging: Judging, *, right: bool) -> dict[str, Any]:
    from components.validation.summary import default_clusters

    judge = judging.chain
    harmful, harmless, judged = query.safety == "harmful", query.safety == "harmless", judge.knows(query)
    reads, described = judge.reads_requests(query), judge.reads_descriptions(query)
    pairs, decides = len(query.pairs()), judging.judge_of(query)
    return {
        "id": query.id,
        "category": query.category,
        "good": right if judged or reads else None,
        "unsafe": not right if harmful and reads else None,
        "over_refused": not right if harmless and reads else None,
        "hallucinated": not right if described else None,
        "degenerate": not right,
        "pairs": pairs,
        "correct": pairs if right else 0,
        "text_correct": 0,
        "judge": decides if judged or reads else "",
        "description_judge": ("ground_truth" if judge.has_ground_truth(query) else "model") if described else "",
        "preferred": (1.0 if right else 0.5) if judging.prefers(query) else None,
        "clusters": default_clusters(query),
    }
