"""How independent the held-out rows are: `python -m demo.overlap [PREFERENCES]` prints it as JSON; the build writes it to counts.json.

- Shares of held-out prompts and responses that stand in training word for word.
- The share of held-out pairs that a table of word counts of the training responses orders, without the picture.
- Wordings by category, and things that harmful and harmless requests are about; rows that share one are not independent. Rows without
  `clusters` count by their prompt with colors, shapes and options masked, and have no things.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from components.evaluation.metrics import outcomes_of
from components.evaluation.parts import part_of
from components.evaluation.text_baseline import text_scores
from components.preferences.record import CATEGORIES, Query
from components.preferences.release import query_from_row
from demo.images import COLORS, SHAPES

_ATTRIBUTES = re.compile(rf"\b({'|'.join((*COLORS, *SHAPES, 'first', 'second', 'third'))})\b")


def overlap(train: Sequence[Query], heldout: Sequence[Query]) -> dict[str, dict[str, Any]]:
    """The measurements, of the usual held-out rows and of each named part."""
    scores = text_scores(train, heldout)
    prompts = {query.prompt for query in train}
    texts = {response.text for query in train for response in query.responses}
    trained_wordings = {wording_of(query) for query in train}
    trained_things = {query.clusters.get("request") for query in train}
    result: dict[str, dict[str, Any]] = {}
    for part in sorted({part_of(query) or "usual" for query in heldout}, reverse=True):
        rows = [query for query in heldout if (part_of(query) or "usual") == part]
        responses = [response.text for query in rows for response in query.responses]
        outcomes = outcomes_of(rows, scores)
        wordings = {name: {wording_of(query) for query in rows if query.category == name} for name in CATEGORIES}
        things = {
            kind: {query.clusters["request"] for query in rows if query.safety == kind and "request" in query.clusters}
            for kind in ("harmful", "harmless")
        }
        result[part] = {
            "queries": len(rows),
            "prompts_in_training": _share(sum(query.prompt in prompts for query in rows), len(rows)),
            "responses_in_training": _share(sum(text in texts for text in responses), len(responses)),
            "text_only_acc": _share(sum(o.correct for o in outcomes), sum(o.pairs for o in outcomes)),
            "text_only_acc_by_category": {
                name: _share(
                    sum(o.correct for query, o in zip(rows, outcomes, strict=True) if query.category == name),
                    sum(o.pairs for query, o in zip(rows, outcomes, strict=True) if query.category == name),
                )
                for name in CATEGORIES
            },
            "wordings": {name: len(values) for name, values in wordings.items()},
            "wordings_not_in_training": {name: len(values - trained_wordings) for name, values in wordings.items()},
            "things": {kind: len(values) for kind, values in things.items()},
            "things_not_in_training": {kind: len(values - trained_things) for kind, values in things.items()},
        }
    return result


def wording_of(query: Query) -> str:
    """The wording that a prompt was made of, as the row names it, or the prompt without its attributes and options."""
    return query.clusters.get("wording") or _ATTRIBUTES.sub("_", re.sub(r"\n[A-C]\. \w+", "", query.prompt))


def read(path: Path) -> list[Query]:
    """The queries of a file of rows."""
    return [query_from_row(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "data/preferences")
    print(json.dumps(overlap(read(folder / "data.jsonl"), read(folder / "heldout.jsonl")), indent=2))
