"""Named parts of the held-out rows, which are reported apart: the rows whose `source` ends in "; NAME part".

The metrics of a part have the names of the whole under `part.NAME.`, such as `part.hard.policy.aligned.conversation`. The whole holds every
part: a part decides nothing, it shows what the mean hides.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from components.evaluation.answers import Answered
from components.evaluation.metrics import Metrics, policy_metrics, reward_metrics, variant_metrics
from components.preferences.record import Query
from components.statistics import Intervals

PREFIX = "part."
_PART = re.compile(r"; (\w+) part$")


def part_of(query: Query) -> str | None:
    """The name of the part that a query belongs to."""
    match = _PART.search(query.source or "")
    return match[1] if match else None


def part_metrics(
    queries: Sequence[Query],
    policies: Sequence[Answered],
    own: Mapping[tuple[str, int], float],
    text: Mapping[tuple[str, int], float],
    intervals: Intervals,
) -> Metrics:
    """Metrics of policies, of the reward model on its `own` critiques and of the text-only baseline, for each part of the queries."""
    metrics: Metrics = {}
    names = [part_of(query) for query in queries]
    for name in sorted({name for name in names if name is not None}):
        chosen = [index for index, other in enumerate(names) if other == name]
        rows = [queries[index] for index in chosen]
        part: Metrics = {}
        for answered in policies:
            verdicts, answers = [answered.verdicts[index] for index in chosen], [answered.answers[index] for index in chosen]
            part.update(policy_metrics(f"policy.{answered.policy}", rows, verdicts, answers, intervals))
        part.update(reward_metrics(rows, own, intervals))
        part.update(variant_metrics("text_only", rows, text, intervals))
        metrics.update({f"{PREFIX}{name}.{key}": value for key, value in part.items()})
    return metrics
