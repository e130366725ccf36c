"""What the stage counts: names and numbers that are the same every time for the same data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from components.preferences.record import CATEGORIES, Query
from components.validation import personal
from components.validation.intake import Intake
from components.validation.quarantine import HARMLESS, KINDS

Metrics = dict[str, float | int | None]


def metrics_of_queries(queries: Sequence[Query], prefix: str) -> Metrics:
    """The counts of one split, named with a prefix."""
    categories = Counter(query.category for query in queries)
    metrics: Metrics = {
        "queries": len(queries),
        "responses": sum(len(query.responses) for query in queries),
        "pairs": sum(len(query.pairs()) for query in queries),
        "ties": sum(len(query.ties()) for query in queries),
        "tie_share": sum(bool(query.ties()) for query in queries) / len(queries),
        "text_only": sum(not query.media for query in queries),
        "harmful": sum(query.safety == "harmful" for query in queries),
        "harmless": sum(query.safety == "harmless" for query in queries),
    }
    metrics |= {f"{category}_queries": categories[category] for category in CATEGORIES}
    return {f"{prefix}{name}": value for name, value in metrics.items()}


def metrics_of_intakes(intakes: Sequence[Intake]) -> Metrics:
    """The counts of the files: what was refused, and what is remarkable about what was accepted."""
    refusals = [refusal for intake in intakes for refusal in intake.refusals]
    rows = [row for intake in intakes for row in intake.summaries]
    kinds = Counter(refusal.kind for refusal in refusals)
    flags = Counter(kind for row in rows for kind in row.personal)
    scored = sum(row.scored for row in rows)
    return {
        **{f"quarantined_{kind}": kinds[kind] for kind in KINDS if kinds[kind]},
        "rows": sum(intake.rows for intake in intakes),
        "quarantined": len(refusals),
        "quarantined_share": max(sum(item.kind != HARMLESS for item in intake.refusals) / intake.rows for intake in intakes),
        "longest_tokens": max(row.tokens for row in rows),
        "equal_texts": sum(row.equal_texts for row in rows),
        "rows_without_scores": sum(not row.scored for row in rows),
        "contradictions": sum(row.contradicting for row in rows),
        "contradicting_share": sum(row.contradicting for row in rows) / scored if scored else None,
        "rows_with_personal_data": sum(bool(row.personal) for row in rows),
        **{f"rows_with_{kind}": flags[kind] for kind in personal.KINDS if flags[kind]},
    }
