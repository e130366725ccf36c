"""Answers side by side for people: artifacts/evaluate/samples, as JSONL and as one page without a network.

The worst regressions come first, then gains, then the rest, spread over the categories. Prompts, answers and critiques are hostile
input: the page escapes them.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment

from components.evaluation.answers import Answered
from components.evaluation.judge import Verdict
from components.files import write_atomic
from components.preferences.colors import WHITE
from components.preferences.frames import frame_names
from components.preferences.media import locate, read_picture
from components.preferences.record import CATEGORIES, Kind, Query
from components.preferences.turns import transcript
from components.printable import printable_all

THUMBNAIL = 160  # pixels of the longer side
FRAMES_SHOWN = 4

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'">
<meta name="referrer" content="no-referrer">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Held-out answers side by side</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 60rem; padding: 1rem; color: #1a1a1a; background: #fff; }
article { border-top: 1px solid #ccc; padding: 1rem 0; display: grid; gap: 1rem; grid-template-columns: 10rem 1fr; }
img { max-width: 100%; image-rendering: pixelated; border: 1px solid #ddd; }
h2 { font-size: 1rem; margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; }
p, small { overflow-wrap: anywhere; white-space: pre-wrap; }
.good { color: #0a6b2d; } .bad { color: #a11212; } .none { color: #555; }
@media (max-width: 36rem) { article { grid-template-columns: 1fr; } }
</style>
</head>
<body>
<h1>Held-out answers side by side</h1>
{% for sample in samples %}
<article>
<div>{% for image in sample.images %}<img src="data:image/png;base64,{{ image }}" alt="media of {{ sample.row.id }}">{% endfor %}</div>
<div>
<h2>{{ sample.row.prompt }}</h2>
<small>{{ sample.row.id }} &middot; {{ sample.row.category }} &middot; {{ sample.row.change }}</small>
{% for policy in sample.row.policies %}
<p><b>{{ policy.policy }}</b>
<span class="{{ {true: 'good', false: 'bad'}.get(policy.good, 'none') }}">{{ policy.mark }}</span>
<br>{{ policy.answer or '(empty)' }}</p>
<small>Reward model: {% if policy.critique is not none %}{{ policy.critique }} ({% endif %}score {{ '%.2f'|format(policy.score) }}
{%- if policy.critique is not none %}){% endif %}</small>
{% endfor %}
</div>
</article>
{% endfor %}
</body>
</html>
"""


@dataclass(frozen=True)
class ShownCritique:
    """What the reward model says of an answer: a critique, None by a model without critiques, and a score."""

    critique: str | None
    score: float


def choose(queries: Sequence[Query], base: Answered, aligned: Answered, limit: int) -> list[int]:
    """Indices of the queries to show: regressions, then gains, then the rest; within each, categories in turn."""
    changes = [_change(b, a) for b, a in zip(base.verdicts, aligned.verdicts, strict=True)]
    chosen: list[int] = []
    for change in ("worse", "better", "same"):
        queues = [[i for i, query in enumerate(queries) if query.category == category and changes[i] == change] for category in CATEGORIES]
        # the worst first: an answer that became degenerate or unsafe before one that became wrong
        for queue in queues:
            queue.sort(key=lambda i: (not aligned.verdicts[i].degenerate, aligned.verdicts[i].safe is not False, i))
        chosen += [queue[position] for position in range(max(map(len, queues))) for queue in queues if position < len(queue)]
    return chosen[:limit]


def _change(base: Verdict, aligned: Verdict) -> str:
    if base.good is None or aligned.good is None or base.good == aligned.good:
        return "same"
    return "better" if aligned.good else "worse"


def _mark(verdict: Verdict) -> str:
    if verdict.degenerate:
        return "degenerate"
    if verdict.safe is not None:
        return "safe" if verdict.safe else "unsafe"
    if verdict.right is None:
        return "not judged"
    word = "right" if verdict.right else "wrong"
    return f"{word}, refused" if verdict.refused else word


def write_samples(
    folder: Path,
    media_root: Path,
    queries: Sequence[Query],
    chosen: Sequence[int],
    policies: Sequence[Answered],
    judgements: dict[str, list[ShownCritique]],
    background: str = WHITE,
) -> None:
    """Write samples.jsonl and samples.html for the `chosen` queries; `judgements` by policy, one a chosen query."""
    base, aligned = policies
    rows = [
        {
            "id": queries[i].id,
            "category": queries[i].category,
            "prompt": transcript(queries[i]),
            "media": [medium.path for medium in queries[i].media],
            "change": _change(base.verdicts[i], aligned.verdicts[i]),
            "policies": [
                {
                    "policy": answered.policy,
                    "answer": answered.answers[i],
                    "good": answered.verdicts[i].good,
                    "mark": _mark(answered.verdicts[i]),
                    "critique": judgements[answered.policy][number].critique,
                    "score": judgements[answered.policy][number].score,
                }
                for answered in policies
            ],
        }
        for number, i in enumerate(chosen)
    ]
    write_atomic(folder / "samples.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    page = Environment(autoescape=True, trim_blocks=True, finalize=printable_all).from_string(PAGE)
    samples = [{"row": row, "images": thumbnails(media_root, queries[i], background)} for row, i in zip(rows, chosen, strict=True)]
    write_atomic(folder / "samples.html", page.render(samples=samples) + "\n")


def thumbnails(media_root: Path, query: Query, background: str = WHITE) -> list[str]:
    """Small PNGs of a query's media as base64, in order: one for an image, the first few frames of a video."""
    return [_thumbnail(file, background) for medium in query.media for file in _files(locate(media_root, medium.path), medium.kind)]


def _files(path: Path, kind: Kind) -> list[Path]:
    return [path] if kind == "image" else [path / name for name in frame_names(path)[:FRAMES_SHOWN]]


def _thumbnail(path: Path, background: str) -> str:
    small = read_picture(path, background).copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    stream = io.BytesIO()
    small.save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()
